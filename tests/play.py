#!/usr/bin/env python3
"""Play the tutorial on a RabbitMQ of its own: two workers, five tasks, and who did what."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from helpers.broker import SERVER, Broker, epmd
from helpers.machine import enter_venv, fail, need_rabbitmq
from helpers.script import Script, picture

TASKS = (
    "First message.",
    "Second message..",
    "Third message...",
    "Fourth message....",
    "Fifth message.....",
)


def play(started: contextlib.ExitStack) -> None:
    """Type the tutorial's commands, show what is printed, and draw the picture.

    What it starts ends with `started`.
    """
    print("Starting a RabbitMQ ...", flush=True)
    home = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="task_queue-")))
    broker = Broker(home / "play", started.enter_context(epmd()))
    started.callback(broker.kill)
    broker.start()

    def start(name: str, *command: str) -> Script:
        def on_line(line: str) -> None:
            print(f"{name} | {line}\n", end="", flush=True)  # in one piece, whoever else prints

        on_line(f"$ python {' '.join(command)}")
        script = Script(*command, on_line=on_line, AMQP_URL=broker.url)
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
    print("\nEach column is a second, each digit is the number of a task:\n")
    print(picture(TASKS, *workers), end="")


def main() -> None:
    enter_venv("requirements.txt")
    need_rabbitmq(SERVER, "With Docker: docker compose run --rm play")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as started:
        play(started)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
