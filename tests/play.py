#!/usr/bin/env python3
"""Play the tutorial: a broker, two workers, five tasks, and a picture of what happened."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from shared.broker import SERVER, Broker, epmd
from shared.console import Console, until
from shared.machine import enter_venv, fail, need_rabbitmq

TASKS = ("First.", "Second..", "Third...", "Fourth....", "Fifth.....")
COLOURS = {"worker 1": 36, "worker 2": 35, "new_task": 33}


def say(name: str, line: str) -> None:
    shown = f"{name:9}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        shown = f"\x1b[{COLOURS[name]}m{shown}\x1b[0m"
    sys.stdout.write(f"{shown}| {line}\n")
    sys.stdout.flush()


def find_broker() -> str | None:
    """The address of a RabbitMQ that is up, and whose task_queue nobody uses."""
    import pika  # enter_venv has just made it importable

    for url in filter(None, [os.environ.get("AMQP_URL"), "amqp://127.0.0.1:5672"]):
        parameters = pika.URLParameters(url)
        where = f"{parameters.host}:{parameters.port}"
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


class Picture:
    """Who worked on what, when: a line for each worker, a column a second, a digit the task."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._begun: dict[str, tuple[float, str]] = {}
        self._start = 0.0

    def see(self, name: str, line: str) -> None:
        """Notes a line that a worker has just printed."""
        now = time.monotonic()
        if "Received" in line:
            self._start = self._start or now
            number = next(n for n, task in enumerate(TASKS, 1) if task.rstrip(".") in line)
            self._begun[name] = now, str(number)
        elif "Done" in line:
            begun, digit = self._begun[name]
            drawn = self._lines.get(name, "").ljust(round(begun - self._start))
            self._lines[name] = drawn.ljust(round(now - self._start), digit)

    def __str__(self) -> str:
        return "\n".join(f"{name} | {line}" for name, line in sorted(self._lines.items()))


def play(url: str, consoles: contextlib.ExitStack) -> None:
    picture = Picture()

    def console(name: str, *command: str) -> Console:
        def show(line: str) -> None:
            picture.see(name, line)
            say(name, line)

        started = Console(*command, show=show, AMQP_URL=url)
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
    for worker in workers:
        worker.stop()
    print(f"\nEach column is a second, each digit a task:\n\n{picture}")


def main() -> None:
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
            url = "amqp://127.0.0.1:5672"
        play(url, started)


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, RuntimeError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
