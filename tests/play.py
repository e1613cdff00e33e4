#!/usr/bin/env python3
"""Play the tutorial: two workers, five tasks, and a picture of who did what.

It starts a RabbitMQ of its own, unless AMQP_URL names another one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from helpers.broker import SERVER, Broker, epmd
from helpers.script import Script, wait_until
from helpers.setup import enter_venv, fail, need_rabbitmq

TASKS = (
    "First message.",
    "Second message..",
    "Third message...",
    "Fourth message....",
    "Fifth message.....",
)
COLOURS = {"worker 1": 36, "worker 2": 35, "new_task": 33}


def show(name: str, line: str) -> None:
    """Print a line behind the name of who printed it, in colour on a terminal."""
    shown = f"{name:9}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        shown = f"\x1b[{COLOURS[name]}m{shown}\x1b[0m"
    sys.stdout.write(f"{shown}| {line}\n")
    sys.stdout.flush()


class Picture:
    """Who worked on what, when: a row for each worker, a column for each second."""

    def __init__(self) -> None:
        self._rows: dict[str, str] = {}
        self._received: dict[str, tuple[float, str]] = {}
        self._start = 0.0

    def see(self, name: str, line: str) -> None:
        """Note a line that a worker has just printed."""
        now = time.monotonic()
        if line.startswith(" [x] Received"):
            self._start = self._start or now
            (number,) = [n for n, task in enumerate(TASKS, 1) if repr(task) in line]
            self._received[name] = now, str(number)
        elif line == " [x] Done":
            begun, digit = self._received[name]
            row = self._rows.get(name, "").ljust(round(begun - self._start))
            self._rows[name] = row.ljust(round(now - self._start), digit)

    def __str__(self) -> str:
        return "\n".join(f"{name} | {row}" for name, row in sorted(self._rows.items()))


def check_queue(url: str) -> None:
    """End with one line where the task_queue at this address is not for us."""
    import pika  # enter_venv has just made it importable

    try:
        parameters = pika.URLParameters(url)
    except (IndexError, ValueError):  # their words may hold a part of the password
        fail("AMQP_URL is no address such as amqp://guest:guest@127.0.0.1:5672")
    try:
        with pika.BlockingConnection(parameters) as connection:
            queue = connection.channel().queue_declare("task_queue", durable=True).method
    except Exception as error:
        fail(f"The RabbitMQ of AMQP_URL cannot be used: {error!r}")
    if queue.message_count or queue.consumer_count:
        fail(
            f"The task_queue of AMQP_URL is in use (tasks: {queue.message_count}, workers:"
            f" {queue.consumer_count}). Stop the workers, and delete the queue with:"
            " rabbitmqctl delete_queue task_queue"
        )


def take_back(url: str) -> None:
    """Remove what is left of our tasks, for example when somebody has stopped us, and no others."""
    import pika

    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        queue = functools.partial(channel.queue_declare, "task_queue", passive=True)
        wait_until(lambda: queue().method.consumer_count == 0, "nobody works in task_queue")
        while True:
            method, _, body = channel.basic_get("task_queue")
            if method is None or body is None:
                return  # the others go back into the queue, since they are not acknowledged
            if body.decode(errors="replace") in TASKS:
                channel.basic_ack(method.delivery_tag)


def start_broker(started: contextlib.ExitStack) -> str:
    """Start a RabbitMQ that ends with `started`. Returns its address."""
    need_rabbitmq(SERVER, "With Docker: docker compose run --rm play")
    print("Starting a RabbitMQ ...", flush=True)
    home = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="task_queue-")))
    broker = Broker(home / "play", started.enter_context(epmd()))
    started.callback(broker.kill)
    broker.start(limit=120)
    return broker.url


def play(url: str, started: contextlib.ExitStack) -> None:
    """Type the tutorial's commands, show what is printed, and draw the picture."""
    picture = Picture()

    def start(name: str, *command: str) -> Script:
        def on_line(line: str) -> None:
            picture.see(name, line)
            show(name, line)

        show(name, f"$ python {' '.join(command)}")
        script = Script(*command, on_line=on_line, AMQP_URL=url)
        started.callback(script.kill)
        return script

    workers = []
    for name in ("worker 1", "worker 2"):
        workers.append(start(name, "worker.py"))
        workers[-1].wait_for("[*] Waiting")
    for task in TASKS:
        if start("new_task", "new_task.py", *task.split()).wait():
            fail("new_task.py has ended with an error.")
    for worker, tasks in zip(workers, (3, 2)):
        worker.wait_for(" [x] Done", tasks)
    # Worker 1 works last, and may still have to acknowledge: nobody else shall get its task.
    for worker in reversed(workers):
        worker.ctrl_c()
        worker.wait()
    print(f"\nEach column is a second, each digit is the number of a task:\n\n{picture}")


def main() -> None:
    enter_venv("requirements.txt")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as started:
        url = os.environ.get("AMQP_URL")
        if url:
            check_queue(url)
            started.callback(take_back, url)
        else:
            url = start_broker(started)
        play(url, started)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
