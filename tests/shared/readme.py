"""The README as the tests read it: its code blocks, its listings, its tables."""

from __future__ import annotations

import re

from shared.machine import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced code blocks of a language, in order."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """What stands under this heading, up to the next one of any level."""
    return re.split(r"^#+ ", TEXT.split(f"# {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


# The words to look for in a ` [!] ` line, and what the README says of them.
FAULTS = [
    (words, meaning)
    for cell, meaning, *_ in rows("What goes wrong")
    for words in re.findall(r"`([^`]+)`", cell)
]

OWN_WORK = TEXT.split("\n## Your own work")[1].split("\n## ")[0]
RECIPE, *VARIANTS = blocks("python", OWN_WORK)


def with_own_work(worker: str) -> str:
    """This worker.py with the README's recipe in the place of its callback."""
    return re.sub(
        r"def callback.*?\n\n\n", lambda _: f"{RECIPE}\n\n", worker, count=1, flags=re.DOTALL
    )
