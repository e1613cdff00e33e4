"""The README as the tests read it: its code blocks, its listings, its tables."""

from __future__ import annotations

import re

from shared.machine import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced code blocks of a language, in order."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def command(words: str) -> str:
    """The one command of the page that holds these words: a block for the shell, or in a line.

    Raises ValueError where there is none, or more than one.
    """
    prose = re.sub(r"^ *```.*?^ *```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    (found,) = {code for code in blocks("sh") + re.findall(r"`([^`\n]+)`", prose) if words in code}
    return found


def section(title: str) -> str:
    """What stands under this heading, up to the next one of any level."""
    return re.split(r"^#+ ", TEXT.split(f"# {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


FIRST_SCREEN = TEXT.split("\n## ")[0]

# The words to look for in what a script says of a fault.
FAULTS = [words for cell, *_ in rows("What goes wrong") for words in re.findall(r"`([^`]+)`", cell)]
