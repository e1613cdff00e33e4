"""Every task that a producer called Sent is Done, whatever is killed."""

from __future__ import annotations

import random
import threading

from conftest import Run
from shared.broker import Broker
from shared.console import Console, done, sent, until
from shared.task_queue import waiting

TASKS = [f"task {number}{'.' * (number % 3)}" for number in range(30)]


class Crowd:
    """Four workers, one of which is killed and replaced every 1.5 s."""

    def __init__(self, console: Run, address: str) -> None:
        self._console, self.address, self._rest = console, address, threading.Event()
        self.all = [self._worker() for _ in range(4)]
        self._alive = list(self.all)
        self._killer = threading.Thread(target=self._kill)
        self._killer.start()

    def _worker(self) -> Console:
        return self._console("worker.py", AMQP_URL=self.address)

    def _kill(self) -> None:
        choose = random.Random(1)
        while not self._rest.wait(1.5):
            victim = choose.randrange(len(self._alive))
            self._alive[victim].kill()
            self._alive[victim] = self._worker()
            self.all.append(self._alive[victim])

    def spare(self) -> None:
        self._rest.set()
        self._killer.join()


def test_no_task_is_lost_while_workers_and_the_broker_are_killed(
    broker: Broker, quorum: str, send: Run, console: Run
) -> None:
    crowds = [Crowd(console, address) for address in (broker.url, quorum)]
    producers: dict[str, list[Console]] = {crowd.address: [] for crowd in crowds}

    def produce(address: str) -> None:
        for task in TASKS:
            producers[address].append(send(address, task))

    threads = [threading.Thread(target=produce, args=[address]) for address in producers]
    try:
        for thread in threads:
            thread.start()
        until(lambda: all(len(done(crowd.all)) >= 3 for crowd in crowds), limit=60)
        broker.settle()
        broker.kill()
        broker.start()
        for thread in threads:
            thread.join()
        called_sent = {address: sent(ends) for address, ends in producers.items()}
        until(lambda: all(called_sent[one.address] <= done(one.all) for one in crowds), limit=90)
        assert all(len(tasks) >= 3 for tasks in called_sent.values())
    finally:
        for crowd in crowds:
            crowd.spare()
    for address in producers:
        assert len(producers[address]) == len(TASKS)
    until(lambda: not any(waiting(address) for address in producers))
