"""What is promised of three machines: no task is lost with one, and all wait while two are down."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import threading
from collections import Counter

import pytest
from helpers.amqp import messages_ready, take_all
from helpers.page import steps
from helpers.script import THIRDS, WAITING, assert_traceback, done, wait_until


@pytest.fixture
def machines(start_broker):
    """Three nodes that are a cluster, with a virtual host whose queues are quorum queues."""
    join, make_safe = steps("Keep the tasks when a machine is lost")
    first, *others = [start_broker() for _ in range(3)]
    for node in others:
        for line in join.replace("rabbit@first", first.node).splitlines():
            node.rabbitmqctl(*shlex.split(line)[1:])
    first.rabbitmqctl("add_user", "alice", "secret")
    for line in make_safe.splitlines():
        first.rabbitmqctl(*shlex.split(line)[1:])
    return first, *others


def url_of(proxy):
    """The address of the virtual host through this network, with the page's user."""
    return proxy.url.replace("//", "//alice:secret@") + "/safe"


def test_keep_the_tasks_when_a_machine_is_lost(
    machines, start_proxy, start_script, start_worker, start_my_worker, shell, tmp_path
):
    """One after the other is killed, also the one that leads the queues, while tasks are sent."""
    proxy = start_proxy(*machines)
    url = proxy.url
    for _ in range(2):
        start_my_worker(url, THIRDS, again=True)
    safe = url_of(proxy)
    pair = [start_worker(safe) for _ in range(2)]
    sent: list[int] = []

    def send_tasks():
        """Each again until both are called sent."""
        while len(sent) < 60:
            task = json.dumps({"id": len(sent), "seconds": 0})
            one = shell(url, "python tasks.py", task)
            two = start_script("new_task.py", task, AMQP_URL=safe)
            if one.wait() == two.wait() == 0:
                sent.append(len(sent))

    sending = threading.Thread(target=send_tasks)
    sending.start()
    for count, node in zip((10, 25, 40), machines):
        wait_until(lambda: len(sent) >= count, f"{count} tasks are sent")  # noqa: B023
        node.kill()
        wait_until(lambda: len(sent) >= count + 8, "it goes on without the machine")  # noqa: B023
        node.start()
    sending.join()

    def left():
        return [machines[0].queue("tasks"), machines[0].queue("task_queue", "safe")]

    wait_until(lambda: left() == [(0, 0), (0, 0)], "no task is left")
    wait_until(lambda: messages_ready(url, "failed_tasks") >= 40, "failed ones are kept")
    failed = [json.loads(task)["id"] for task in take_all(url, "failed_tasks")]
    reports = {int(report.stem) for report in (tmp_path / "reports").glob("*.txt")}
    assert reports == {number for number in sent if number % 3 == 0}
    assert set(failed) == {number for number in sent if number % 3}
    in_pair = Counter(json.loads(task.strip("'"))["id"] for task in done(*pair))
    assert set(in_pair) == set(sent)
    # Each of the two workers may have lost an ack each time.
    twice, copies = sum(in_pair.values()) - 60, len(failed) - 40
    print(f"done again: {twice} of 60, one copy too many: {copies} of 40")
    assert twice <= 2 * len(machines)


def test_while_two_machines_are_down_nothing_is_called_sent_and_then_all_goes_on(
    machines, start_proxy, start_script, start_worker, send
):
    url = url_of(start_proxy(*machines))
    worker = start_worker(url)
    machines[0].kill()
    machines[1].kill()
    new_task = start_script("new_task.py", "patience", AMQP_URL=url)
    with contextlib.suppress(subprocess.TimeoutExpired):
        new_task.wait(20)  # or it ends with an error before
    assert (new_task.out, worker.out) == ([], [WAITING])
    machines[0].start()
    if new_task.wait() != 0:
        send(url, "patience")
    worker.wait_for(" [x] Received 'patience'")
    worker.wait_for(" [x] Done")


def test_not_found_of_a_classic_queue_whose_machine_is_down(machines, start_worker, start_script):
    home, other, _ = machines
    start_worker(home.url).kill()
    home.kill()
    assert_traceback(start_script("worker.py", AMQP_URL=other.url), "NOT_FOUND")
