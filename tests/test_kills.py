"""Each task that new_task.py called sent is done, whatever is killed."""

from __future__ import annotations

import threading

import pytest
from helpers.amqp import messages_ready, wait_until_queues_are_on_disk
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
