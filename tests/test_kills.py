"""Each task that was called sent is done, or kept as a failed one, whatever is killed."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter

import pytest
from helpers.amqp import messages_ready, open_channel, wait_until_queues_are_on_disk
from helpers.proxy import ACK, REJECT
from helpers.script import done, wait_until


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_no_task_is_lost_while_workers_and_rabbitmq_are_killed(start_broker, start_script, kind):
    broker = start_broker()
    url = broker.add_vhost("chaos", "--default-queue-type", kind)
    workers = [start_script("worker.py", AMQP_URL=url) for _ in range(4)]
    sent: list[str] = []

    def send_tasks(count):
        """Send so many, each again until it is called sent. Kill a worker after every third."""
        while len(sent) < count:
            task = f"task {len(sent)}{'.' * (len(sent) % 3)}"
            if start_script("new_task.py", task, AMQP_URL=url).wait() == 0:
                sent.append(repr(task))
                if len(sent) % 3 == 0:
                    workers[-4].kill()
                    workers.append(start_script("worker.py", AMQP_URL=url))

    send_tasks(10)
    wait_until(lambda: len(done(*workers)) >= 3, "three tasks are done")
    wait_until_queues_are_on_disk(broker)
    across = threading.Thread(target=send_tasks, args=(30,))
    across.start()
    wait_until(lambda: len(sent) >= 15, "tasks are being sent")
    broker.kill()
    assert len(sent) < 30, "some are still to be sent, across the crash"
    broker.start()
    across.join()
    wait_until(lambda: set(sent) <= set(done(*workers)), "all that was sent is done")
    wait_until(lambda: messages_ready(url) == 0, "no task is left")


# So the sixth ack of each connection is lost, and the fourth rejection.
LOSSES = (ACK + (6).to_bytes(8, "big"), REJECT + (4).to_bytes(8, "big"))


def test_no_task_is_lost_while_hundreds_fail_and_everything_is_killed(
    start_broker, start_proxy, start_script, edited, tmp_path
):
    """100 always fail, 100 are hopeless, and 100 are done: nearly all of these once."""
    broker = start_broker()
    work = "        if task['id'] % 3 == 1:\n            raise OSError\n"
    work += "        if task['id'] % 3 == 2:\n            raise Hopeless\n"
    edited("my_worker.py", ("PAUSE = 10", "PAUSE = 0"), ("        time.sleep(seconds)\n", work))
    edited("tasks.py")
    (tmp_path / "reports").mkdir()
    tasks = [json.dumps({"id": number, "seconds": 0}) for number in range(300)]
    (tmp_path / "tasks.txt").write_text("".join(f"{task}\n" for task in tasks))

    def start(url, command="my_worker.py"):
        return start_script("-c", command, python="sh", directory=tmp_path, AMQP_URL=url)

    sent = start(broker.url, f"exec '{sys.executable}' tasks.py <tasks.txt")
    assert sent.wait() == 0, str(sent)
    wait_until_queues_are_on_disk(broker, "%2F_tasks", "%2F_failed_tasks")
    proxies = [start_proxy(broker, moment=moment, then="cut") for moment in LOSSES]
    again = f"while true; do '{sys.executable}' my_worker.py; sleep 0.1; done"
    workers = [start(url, again) for url in (broker.url, *(proxy.url for proxy in proxies)) * 2]

    def count(words):
        return sum(line == words for worker in workers for line in worker.out)

    for round in range(1, 6):
        wait_until(lambda: count(" [x] Hopeless") >= 15 * round, f"round {round}")  # noqa: B023
        broker.kill()
        if round % 2:
            workers[0].kill()
            workers.append(start(broker.url, again))
        broker.start()

    wait_until(lambda: broker.queue("tasks") == (0, 0), "no task is left")
    wait_until(lambda: messages_ready(broker.url, "failed_tasks") >= 200, "the others are kept")
    with open_channel(broker.url) as channel:
        got = iter(lambda: channel.basic_get("failed_tasks", auto_ack=True)[2], None)
        failed = Counter(json.loads(body)["id"] for body in got)
    finished = {int(report.stem) for report in (tmp_path / "reports").glob("*.txt")}
    assert set(failed) == {number for number in range(300) if number % 3}
    assert finished == {number for number in range(300) if number % 3 == 0}
    print(
        f"done again: {count(' [x] Done') - 100}, one copy too many: {sum(failed.values()) - 200}"
    )
