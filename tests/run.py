#!/usr/bin/env python3
"""Run the tests, then ruff and mypy. With arguments, which are pytest's: run the tests alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from helpers.broker import SERVER
from helpers.setup import ROOT, enter_venv, need_rabbitmq


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
    tests = run("pytest", "--rootdir=tests", "-c", "tests/pytest.ini", *(sys.argv[1:] or ["tests"]))
    if tests or sys.argv[1:]:
        return tests
    return run("ruff", "check") or run("ruff", "format", "--check") or run("mypy")


if __name__ == "__main__":
    sys.exit(main())
