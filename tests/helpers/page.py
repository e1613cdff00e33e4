"""The two pages as the tests read them, and somebody who follows them."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from helpers.broker import SERVER, Broker
from helpers.machine import ROOT
from helpers.script import WAITING, Script

EXAMPLES = ROOT / "tests" / "examples"
TUTORIAL, ANSWERS = ROOT / "README.md", EXAMPLES / "README.md"
TEXTS = {page: page.read_text(encoding="utf-8") for page in (TUTORIAL, ANSWERS)}
FOLD = re.compile(r"<details[^>]*><summary>[^\n]*<b>([^\n]*)</b>.*?\n</details>", re.DOTALL)


def sections() -> dict[str, str]:
    """The text under each heading, and in each fold with a bold title, which is not in both."""
    found = {fold[1]: fold[0] for text in TEXTS.values() for fold in FOLD.finditer(text)}
    code = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)  # whose comments begin with # too
    for text in TEXTS.values():
        unfolded = FOLD.sub("", text)
        outline = code.sub(lambda block: block[0].replace("#", "_"), unfolded)
        headings = list(re.finditer(r"^#+ (.*)$", outline, re.MULTILINE))
        ends = [heading.start() for heading in headings[1:]] + [len(unfolded)]
        for heading, end in zip(headings, ends):
            found[heading[1]] = unfolded[heading.end() : end]
    return found


def blocks(language: str, text: str) -> list[str]:
    """The fenced code blocks in one of these languages (`sh|console`), in order."""
    return re.findall(rf"^```(?:{language})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def steps(title: str) -> list[str]:
    """What a section has its reader type, and what it shows, in order: unpack it.

    So Python itself says when a block is missing or left over, and ruff when one is not used.
    """
    return blocks("sh|console|text", sections()[title])


class Reader:
    """Somebody who follows the pages, in a folder like the project's, on this broker.

    For this reader, 127.0.0.1 is that broker.
    """

    def __init__(self, broker: Broker, folder: Path, start_script: Callable[..., Script]) -> None:
        self.broker, self.folder, self._start_script = broker, folder, start_script
        for script in ("new_task.py", "worker.py"):
            shutil.copy(ROOT / script, folder)
        shutil.copytree(EXAMPLES, folder / "tests" / "examples")
        programs = f"{Path(SERVER).parent}:{Path(sys.executable).parent}"  # rabbitmqctl and python
        path = f"{programs}:{broker.environment['PATH']}"
        self.environment = {**broker.environment, "PATH": path, "AMQP_URL": broker.url}

    def _run(self, block: str) -> Script:
        here = f"127.0.0.1:{self.broker.port}"
        block = re.sub(r"(?<=[/@])127\.0\.0\.1(:5672)?(?=/)", here, block)
        folder = self.folder
        return self._start_script("-ec", block, python="sh", directory=folder, **self.environment)

    def type_in(self, block: str) -> str:
        """Run a block in console 3. Returns what it prints on stdout.

        Raises RuntimeError with what it said where a command fails.
        """
        ended = self._run(block)
        if ended.wait():
            raise RuntimeError(str(ended))
        return "".join(f"{line}\n" for line in ended.out)

    def error_of(self, block: str) -> str:
        """Run a block that ends with an error. Returns the last line of that.

        Raises RuntimeError where no command fails.
        """
        ended = self._run(block)
        if not ended.wait():
            raise RuntimeError(f"no error: {ended}")
        return f"{ended.err[-1]}\n"

    def start(self, block: str, wait_for: str = WAITING) -> Script:
        """Run a block whose last line starts a program that goes on, and wait for what it prints.

        Raises RuntimeError where a command fails, or the program ends before.
        """
        script = self._run(block)
        script.wait_for(wait_for)
        return script
