#!/usr/bin/env python3
"""What a task costs: medians of three rounds on a RabbitMQ of its own. Times nothing in a test."""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shared.broker import SERVER, Broker, epmd
from shared.machine import ROOT, enter_venv, need_rabbitmq

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


def bare_rate(broker: Broker) -> float:
    """Deliveries per second of a socket that acks each one and does nothing else."""
    preload(broker)
    with socket.create_connection(("127.0.0.1", broker.port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = line.makefile("rb")

        def send(channel: int, class_id: int, method_id: int, arguments: bytes) -> None:
            payload = struct.pack(">HH", class_id, method_id) + arguments
            line.sendall(struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce")

        def receive() -> tuple[int, bytes]:
            kind, _, size = struct.unpack(">BHI", stream.read(7))
            return kind, stream.read(size + 1)[:-1]

        login = b"\0guest\0guest"
        line.sendall(b"AMQP\0\0\x09\x01")
        receive()
        send(
            0,
            10,
            11,
            bytes(4) + b"\x05PLAIN" + struct.pack(">I", len(login)) + login + b"\x05en_US",
        )
        receive()
        send(0, 10, 31, struct.pack(">HIH", 1, 131072, 0))
        send(0, 10, 40, b"\x01/\0\0")
        receive()
        send(1, 20, 10, b"\0")
        receive()
        send(1, 60, 10, struct.pack(">IHB", 0, 1, 0))
        receive()
        send(1, 60, 20, b"\0\0\x0atask_queue\0\0" + bytes(4))
        begun, tag = time.perf_counter(), b""
        for _ in range(TASKS):
            kind = 0
            while kind != 3:  # the frame with the body is the last of a delivery
                kind, payload = receive()
                if payload[:4] == b"\0\x3c\0\x3c":
                    tag = payload[5 + payload[4] : 13 + payload[4]]
            send(1, 60, 80, tag + b"\0")
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
    need_rabbitmq(SERVER)
    with tempfile.TemporaryDirectory() as home, epmd() as port:
        broker = Broker(Path(home) / "node", port)
        try:
            broker.start()
            rounds = [
                (worker_rate(broker), bare_rate(broker), send_time(broker)) for _ in range(ROUNDS)
            ]
        finally:
            broker.kill()
    worker, bare, send = map(statistics.median, zip(*rounds))
    print(f"worker.py      {worker:6.0f} tasks/s   {1e6 / worker:6.0f} µs each")
    print(f"bare socket    {bare:6.0f} tasks/s   {1e6 / bare:6.0f} µs each")
    print(f"new_task.py    {1e3 * send:6.0f} ms")


if __name__ == "__main__":
    main()
