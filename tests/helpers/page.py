"""The README as the tests read it: its blocks, its tables, the files that it shows."""

from __future__ import annotations

import re

from helpers.setup import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """What stands under this heading or fold, up to the next one of any kind."""
    heading = rf"^(?:#+ {re.escape(title)}$|<details.*<b>{re.escape(title)}</b>.*$)"
    end = r"^(?:#+ |<details)"
    found = re.split(heading, TEXT, maxsplit=1, flags=re.MULTILINE)
    assert len(found) == 2, f"no heading {title!r}"
    return re.split(end, found[1], maxsplit=1, flags=re.MULTILINE)[0]


def chapter(title: str) -> str:
    """What stands under this heading `##`, with its lessons and folds."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def file(name: str) -> str:
    """A file that the page shows: the first block after `Save this as `NAME``."""
    return blocks(r"\w+", TEXT.split(f"Save this as `{name}`")[1])[0]


def rows() -> list[list[str]]:
    """The cells of the tables of errors, without their heads."""
    tables = chapter("When something goes wrong").splitlines()
    lines = [line for line in tables if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def documented(words: str) -> str:
    """These words. Fails where they do not stand in the first column of the tables of errors."""
    assert any(f"`{words}`" in cells[0] for cells in rows()), f"no row for {words}"
    return words


def orders(picture: str) -> dict[str, str]:
    """In which order each worker of a picture does its tasks: {"worker 1": "135", ...}."""
    rows = re.findall(r"^(worker \d) \| ([\d ]+)$", picture, re.MULTILINE)
    return {worker: re.sub(r"(\d)\1+", r"\1", row.replace(" ", "")) for worker, row in rows}
