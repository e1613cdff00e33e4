#!/usr/bin/env python3
"""What a task costs: medians of three rounds on a RabbitMQ of its own. Times nothing in a test."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.broker import SERVER, Broker, epmd
from helpers.setup import ROOT, enter_venv, need_rabbitmq

TASKS, ROUNDS = 3000, 3


def preload(broker: Broker) -> None:
    import pika  # enter_venv has just made it importable

    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        channel.queue_delete("task_queue")
        channel.queue_declare("task_queue", durable=True)
        for _ in range(TASKS):
            channel.basic_publish("", "task_queue", b"x", pika.BasicProperties(delivery_mode=2))


def worker_rate(broker: Broker) -> float:
    """Tasks per second of one worker on a backlog of tasks without dots."""
    preload(broker)
    with subprocess.Popen(
        [sys.executable, "-u", "worker.py"],
        cwd=ROOT,
        env={**os.environ, "AMQP_URL": broker.url},
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout
        worker.stdout.readline()
        begun = time.perf_counter()
        for _ in range(2 * TASKS):  # Received and Done
            worker.stdout.readline()
        worker.terminate()
    return TASKS / (time.perf_counter() - begun)


def send_time(broker: Broker) -> float:
    """Seconds that a whole `python new_task.py hi` takes."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "new_task.py", "hi"],
        cwd=ROOT,
        env={**os.environ, "AMQP_URL": broker.url},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - begun


def main() -> None:
    enter_venv("requirements.txt")
    need_rabbitmq(SERVER, "Install rabbitmq-server, then run this again.")
    with tempfile.TemporaryDirectory() as home, epmd() as port:
        broker = Broker(Path(home) / "node", port)
        try:
            broker.start()
            rounds = [(worker_rate(broker), send_time(broker)) for _ in range(ROUNDS)]
        finally:
            broker.kill()
    worker, send = map(statistics.median, zip(*rounds))
    print(f"worker.py    {worker:6.0f} tasks/s   {1e6 / worker:6.0f} µs each")
    print(f"new_task.py  {1e3 * send:6.0f} ms")


if __name__ == "__main__":
    main()
