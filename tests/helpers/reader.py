"""Somebody who follows the README."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import page
from helpers.broker import SERVER, Broker
from helpers.script import WAITING, Script
from helpers.setup import ROOT

LIST_QUEUES = "rabbitmqctl -q list_queues name messages_ready messages_unacknowledged"


class Reader:
    """Somebody who follows the page, in a folder with the two scripts, on this broker."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self._started: list[Script] = []
        for script in ("new_task.py", "worker.py"):
            shutil.copy(ROOT / script, folder)
        (folder / "bin").mkdir()
        for tool in ("rabbitmqctl", "rabbitmq-plugins"):
            path = Path(SERVER).with_name(tool)
            (folder / "bin" / tool).write_text(
                f'#!/bin/sh\nexec {path} --node {broker.node} "$@"\n'
            )
            (folder / "bin" / tool).chmod(0o755)
        search = f"{folder / 'bin'}:{Path(sys.executable).parent}:{broker.environment['PATH']}"
        self.environment = {**broker.environment, "PATH": search, "AMQP_URL": broker.url}

    def type_in(self, *typed: str) -> str:
        """Run blocks of the page in one console. Returns what they print.

        The address 127.0.0.1 means this broker. Raises CalledProcessError where a command fails.
        """
        for block in typed:
            assert f"{block}\n" in page.blocks("sh"), f"not on the page: {block}"
        port = f"127.0.0.1:{self.broker.port}"
        commands = "\n".join(typed).replace("127.0.0.1:5672", port)
        commands = re.sub(r"127\.0\.0\.1(?=/)", port, commands)
        return subprocess.run(
            ["sh", "-ec", commands],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    def start(self, command: str) -> Script:
        """Start a worker as on the page: `python worker.py`."""
        assert f"{command}\n" in page.blocks("sh"), f"not on the page: {command}"
        return self.run(*command.split()[1:], wait_for=WAITING)

    def run(self, *arguments: str, wait_for: str) -> Script:
        """Run Python with these arguments, and wait until it prints a line."""
        script = Script(*arguments, directory=self.folder, AMQP_URL=self.broker.url)
        self._started.append(script)
        script.wait_for(wait_for)
        return script

    def save(self, name: str) -> None:
        """Save a file that the page shows."""
        (self.folder / name).write_text(page.file(name))

    def queue(self, name: str = "task_queue") -> str:
        """Ready and unacknowledged messages, as `list_queues` shows them: `1 0`."""
        for line in self.type_in(LIST_QUEUES).splitlines():
            if line.startswith(f"{name}\t"):
                return line.removeprefix(f"{name}\t").replace("\t", " ")
        return "no such queue"

    def close(self) -> None:
        for script in self._started:
            script.kill()
