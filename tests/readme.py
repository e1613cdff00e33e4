"""The README as the tests read it: its code blocks, and its table of ` [!] ` lines."""

from __future__ import annotations

import re

from machine import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


LINES = [line for block in blocks("text") for line in block.splitlines() if line[:5] == " [!] "]
PATTERNS = {
    line: re.compile(
        re.escape(line).replace("…", ".*").replace("localhost:5672", r"\S+:\d+(, \S+:\d+)*")
    )
    for line in LINES
}
printed: set[str] = set()


def explains(line: str) -> bool:
    """Whether the README lists this line; `…` there stands for any words."""
    found = {known for known, pattern in PATTERNS.items() if pattern.fullmatch(line)}
    printed.update(found)
    return bool(found)
