"""new_task.py and worker.py as people run them: as processes, with what they print."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from helpers.broker import LIMIT
from helpers.machine import ROOT

WAITING = " [*] Waiting for messages. To exit press CTRL+C"
NO_CONNECTION = " [!] No connection to RabbitMQ at "
LOST = " [!] Lost the connection to RabbitMQ at "
CANCELLED = " [!] Cancelled by RabbitMQ at "
TRACEBACK = "Traceback (most recent call last):"


class Script:
    """One of the two scripts, or another file for Python, as a process.

    `out` and `err` hold the lines that it has printed so far. `on_line` is called with each line.
    """

    def __init__(
        self,
        *command: str | Path,
        python: str | Path = sys.executable,
        directory: Path = ROOT,
        on_line: Callable[[str], None] = lambda line: None,
        **environment: str,
    ) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self._command, self._on_line = command, on_line
        self._process = subprocess.Popen(
            [python, *command],
            cwd=directory,
            # Into a pipe Python prints in blocks; a terminal shows each line at once.
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,  # CTRL+C in this terminal is for each script on its own
        )
        streams = ((self._process.stdout, self.out), (self._process.stderr, self.err))
        self._readers = [
            threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))
                self._on_line(line.rstrip("\n"))

    def wait_for(self, text: str, count: int = 1) -> str:
        """Wait until `count` lines hold `text`. Returns the last of them.

        Raises RuntimeError when the script ends before, or LIMIT is over.
        """

        def found() -> list[str]:
            return [line for line in self.out + self.err if text in line][:count]

        def over() -> bool:
            alive = any(reader.is_alive() for reader in self._readers)
            return not alive or len(found()) == count

        wait_until(over, f"{count} x {text!r} is printed", self)
        if len(found()) < count:
            raise RuntimeError(f"ended before {count} x {text!r}: {self}")
        return found()[-1]

    def wait(self, limit: float = LIMIT) -> int:
        """Wait until the script has ended, `limit` seconds at most. Returns its status.

        Raises subprocess.TimeoutExpired when it is over.
        """
        status = self._process.wait(limit)
        for reader in self._readers:
            reader.join(LIMIT)
        return status

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def _signal_all(self, number: int) -> None:
        os.killpg(self._process.pid, number)  # its children, too

    def freeze(self) -> None:
        """It does nothing any more, until thaw()."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal_all(signal.SIGCONT)

    def ctrl_c(self) -> None:
        """SIGINT, as from its console."""
        self._signal_all(signal.SIGINT)

    def terminate(self) -> None:
        """SIGTERM to itself alone, as kill, systemd and Docker send it."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            self._signal_all(signal.SIGKILL)
        self.wait()

    def __str__(self) -> str:
        state = "running" if self.is_running() else f"status {self._process.returncode}"
        return f"{self._command}: {state}, {self.out} {self.err}"


def assert_quiet(*scripts: Script) -> None:
    """Nothing stands on their stderr."""
    for script in scripts:
        assert script.err == [], str(script)


def assert_traceback(script: Script, last_line: str) -> None:
    """The script ends with status 1 and a traceback alone, whose last line holds these words."""
    assert script.wait() == 1, str(script)
    assert script.err[0] == TRACEBACK, str(script)
    assert last_line in script.err[-1], str(script)


def assert_silent(script: Script, seconds: float) -> None:
    """The script runs on for this long, and prints nothing."""
    before = str(script)
    with contextlib.suppress(subprocess.TimeoutExpired):
        script._process.wait(seconds)
    assert str(script) == before


@contextlib.contextmanager
def frozen(*workers: Script) -> Iterator[None]:
    """Freeze workers meanwhile, so that it does not matter how long something else takes."""
    for worker in workers:
        worker.freeze()
    yield
    for worker in workers:
        worker.thaw()


def printed(script: Script) -> list[str]:
    """Wait until a script has ended, and return the lines that it has printed on stdout."""
    script.wait()
    return script.out


# What my_worker.py does in place of its work: a third each is done, fails, and is hopeless.
THIRDS = (
    "        time.sleep(seconds)\n",
    "        if task['id'] % 3 == 1:\n            raise OSError\n"
    "        if task['id'] % 3 == 2:\n            raise Hopeless\n",
)


def wait_until(condition: Callable[[], object], what: str, state: object = "") -> None:
    """Poll until the condition holds. Raises RuntimeError with `what` when LIMIT is over."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain until {what} {state}")
        time.sleep(0.05)


def done(*workers: Script) -> list[str]:
    """The tasks whose ` [x] Received` line a ` [x] Done` follows, in quotes, as printed."""
    return [
        line.removeprefix(" [x] Received ")
        for worker in workers
        for line, following in zip(worker.out, worker.out[1:])
        if following == " [x] Done"
    ]


def picture(tasks: Sequence[str], *workers: Script) -> str:
    """Who did what: a row for each worker, and for each second of a task a digit, its number."""
    rows = []
    for number, worker in enumerate(workers, 1):
        seconds = (str(1 + tasks.index(task[1:-1])) * task.count(".") for task in done(worker))
        rows.append(f"worker {number} | {''.join(seconds)}\n")
    return "".join(rows)
