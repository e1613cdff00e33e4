#!/usr/bin/env python3
"""Run ruff, mypy and the tests. With arguments, which are pytest's: run the tests alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from helpers.broker import SERVER
from helpers.machine import ROOT, enter_venv, need_rabbitmq


def run(*command: str) -> int:
    """Run a tool of .venv in the project's folder. Returns its status."""
    tool = [sys.executable, "-m", *command]
    with subprocess.Popen(tool, cwd=ROOT, start_new_session=True) as process:
        # Whatever would end this process is CTRL+C for all of the tool's: they end their brokers.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: os.killpg(process.pid, signal.SIGINT))
        return process.wait()


def main() -> int:
    enter_venv("requirements.txt", "tests/requirements.txt")
    need_rabbitmq(SERVER, "Install rabbitmq-server, then run this again.")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    if sys.argv[1:]:
        return run("pytest", *sys.argv[1:])
    checks = ("ruff", "check"), ("ruff", "format", "--check"), ("mypy",), ("pytest",)
    return next(filter(None, (run(*check) for check in checks)), 0)


if __name__ == "__main__":
    sys.exit(main())
