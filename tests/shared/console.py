"""A console of the tutorial: one of the two scripts as a process, and what it has printed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

from shared.machine import ROOT

TRACEBACK = "Traceback (most recent call last):"


class Console:
    """`out` and `err` grow line by line as the script prints; `show` is called with each line.

    With read=False nobody reads its stdout, as when the other end of a pipe has gone.
    """

    def __init__(
        self,
        *command: str,
        directory: str = str(ROOT),
        show: Callable[[str], None] = lambda line: None,
        read: bool = True,
        **environment: str,
    ) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=directory,
            # Into a pipe Python prints in blocks; a terminal shows each line at once.
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,  # CTRL+C in this terminal is for each console on its own
        )
        streams = [(self.process.stdout, self.out), (self.process.stderr, self.err)]
        if not read and self.process.stdout:
            self.process.stdout.close()
            streams.pop(0)
        self._new = threading.Condition()
        self._open = len(streams)
        self._show = show
        self._readers = [
            threading.Thread(target=self._read, args=arguments, daemon=True)
            for arguments in streams
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._new:
                lines.append(line.rstrip("\n"))
                self._new.notify_all()
            self._show(line.rstrip("\n"))
        with self._new:
            self._open -= 1
            self._new.notify_all()

    def wait_for(self, text: str, count: int = 1, limit: float = 20) -> str:
        """Until `count` lines hold `text`, `limit` seconds at most. Returns the last of them."""

        def found() -> list[str]:
            return [line for line in self.out + self.err if text in line]

        with self._new:
            self._new.wait_for(lambda: len(found()) >= count or not self._open, limit)
            assert len(found()) >= count, f"no {text!r} within {limit} s: {self.out} {self.err}"
            return found()[count - 1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, limit: float = 20) -> int:
        """Wait for its end, `limit` seconds at most, and for the last it printed: its status."""
        status = self.process.wait(limit)
        for reader in self._readers:
            reader.join(limit)
        return status

    def traceback(self, limit: float = 20) -> str:
        """Wait for its end by an error: the last line of the traceback, which leaves `err`."""
        assert self.end(limit) != 0
        begun = self.err.index(TRACEBACK)
        *_, last = self.err[begun:]
        del self.err[begun:]
        return last

    def kill(self) -> None:
        """The power cut, for what the script has started, too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.end()

    def stop(self) -> int:
        """CTRL+C."""
        self.signal(signal.SIGINT)
        return self.end()


def done(workers: list[Console]) -> set[str]:
    """The tasks whose ` [x] Received` a ` [x] Done` follows."""
    return {
        line.removeprefix(" [x] Received ")
        for one in workers
        for line, following in zip(one.out[:-1], one.out[1:])
        if following == " [x] Done"
    }


def sent(producers: list[Console]) -> set[str]:
    """The tasks that these called ` [x] Sent`. Each has ended, the others with a reason."""
    for one in producers:
        assert one.end() == 0 or one.err
        if TRACEBACK in one.err:
            one.traceback()
    return {line.removeprefix(" [x] Sent ") for one in producers for line in one.out}


def until(condition: Callable[[], object], limit: float = 20) -> None:
    """Poll until the condition holds, for `limit` seconds at most."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not so within {limit} s"
        time.sleep(0.05)
