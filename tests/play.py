#!/usr/bin/env python3
"""Play the tutorial: a broker, two workers, five tasks. With --once, end after the fifth."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path

from broker import SERVER, Broker, epmd
from console import Console, until
from machine import ROOT, enter_venv, fail, need_rabbitmq

TASKS = ("First.", "Second..", "Third...", "Fourth....", "Fifth.....")


def say(name: str, line: str) -> None:
    sys.stdout.write(f"{name:9}| {line}\n")
    sys.stdout.flush()


def find_broker() -> str | None:
    """The address of a RabbitMQ that is up, and whose task_queue nobody uses."""
    import pika  # enter_venv has just made it importable

    for url in filter(None, [os.environ.get("AMQP_URL"), "amqp://localhost:5672"]):
        try:
            parameters = [pika.URLParameters(one) for one in re.split(", *(?=amqps?://)", url)]
        except Exception:
            fail("AMQP_URL is malformed: write amqp://user:password@host:5672/vhost")
        where = ", ".join(f"{one.host}:{one.port}" for one in parameters)
        try:
            with pika.BlockingConnection(parameters) as connection:
                queue = connection.channel().queue_declare("task_queue", passive=True).method
                if queue.message_count or queue.consumer_count:
                    fail(f"task_queue at {where} is in use: stop its workers, then empty it.")
        except pika.exceptions.ChannelClosedByBroker:
            pass  # there is no task_queue yet
        except Exception as error:
            if type(error) in (pika.exceptions.AMQPConnectionError, socket.gaierror):
                continue  # nothing listens there
            fail(
                f"What listens at {where} does not let us in: {error!r}. Stop it, or set AMQP_URL."
            )
        print(f"Using the RabbitMQ at {where}.", flush=True)
        return url
    return None


def play(url: str, consoles: contextlib.ExitStack, once: bool) -> None:
    def console(name: str, *command: str) -> Console:
        started = Console(*command, show=lambda line: say(name, line), AMQP_URL=url)
        consoles.callback(started.kill)
        return started

    workers = []
    for name in ("worker 1", "worker 2"):
        say(name, "$ python worker.py")
        workers.append(console(name, "worker.py"))
        workers[-1].wait_for("[*] Waiting")
    for task in TASKS:
        first, dots = task.split(".", 1)
        words = [first, f"message.{dots}"]
        say("new_task", f"$ python new_task.py {' '.join(words)}")
        if console("new_task", "new_task.py", *words).end():
            sys.exit(1)
    until(lambda: sum(worker.out.count(" [x] Done") for worker in workers) == len(TASKS), limit=60)
    if once or not sys.stdout.isatty():
        return
    address = f"AMQP_URL={url} " if os.environ.get("AMQP_URL", url) != url else ""
    print("\nNow you, in another console:\n")
    print(f"    cd {ROOT}")
    print(f"    {address}.venv/bin/python new_task.py Sixth message......\n")
    print("CTRL+C here ends it all.", flush=True)
    signal.pause()


def main() -> None:
    if sys.argv[1:] not in ([], ["--once"]):
        fail("The only option is --once: end after the fifth task.")
    enter_venv("requirements.txt")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as started:
        url = find_broker()
        if not url:
            need_rabbitmq(SERVER)
            print("Starting a RabbitMQ on 127.0.0.1:5672.", flush=True)
            home = started.enter_context(tempfile.TemporaryDirectory(prefix="task_queue-"))
            broker = Broker(Path(home) / "node", started.enter_context(epmd()), port=5672)
            started.callback(broker.kill)
            broker.start()
            url = "amqp://localhost:5672"
        play(url, started, "--once" in sys.argv)


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, RuntimeError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print()
