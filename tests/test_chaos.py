"""Each task that new_task.py called sent is done, whatever is killed."""

from __future__ import annotations

import random
import threading

import pytest
from helpers.amqp import messages_ready, wait_until_queues_are_on_disk
from helpers.script import Script, done, wait_until


class Crowd:
    """Four workers, of which one is killed and replaced every 1.5 seconds, until spared."""

    def __init__(self, url):
        self._url, self._spared = url, threading.Event()
        self.alive = [self._start() for _ in range(4)]
        self.workers = list(self.alive)
        self._killer = threading.Thread(target=self._kill)
        self._killer.start()

    def _start(self):
        return Script("worker.py", AMQP_URL=self._url)

    def _kill(self):
        choose = random.Random(1)
        while not self._spared.wait(1.5):
            victim = choose.randrange(len(self.alive))
            self.alive[victim].kill()
            self.alive[victim] = self._start()
            self.workers.append(self.alive[victim])

    def spare(self):
        self._spared.set()
        self._killer.join()

    def end(self):
        self.spare()
        for worker in self.alive:
            worker.kill()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_no_task_is_lost_while_workers_and_rabbitmq_are_killed(start_broker, start_script, kind):
    broker = start_broker()
    url = broker.add_vhost("chaos", "--default-queue-type", kind)
    crowd = Crowd(url)
    sent: list[str] = []

    def send_tasks(count):
        """Send so many, each again until it is called sent."""
        while count:
            task = f"task {len(sent)}{'.' * (len(sent) % 3)}"
            if start_script("new_task.py", task, AMQP_URL=url).wait() == 0:
                sent.append(repr(task))
                count -= 1

    try:
        send_tasks(10)
        wait_until(lambda: len(done(*crowd.workers)) >= 3, "three tasks are done")
        wait_until_queues_are_on_disk(broker)
        across = threading.Thread(target=send_tasks, args=(20,))
        across.start()
        wait_until(lambda: len(sent) >= 15, "tasks are being sent")
        broker.kill()
        broker.start()
        across.join()
        assert len(sent) == 30
        crowd.spare()
        wait_until(lambda: set(sent) <= set(done(*crowd.workers)), "all that was sent is done")
        wait_until(lambda: messages_ready(url) == 0, "no task is left")
    finally:
        crowd.end()
