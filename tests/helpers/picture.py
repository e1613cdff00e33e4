"""The moving picture of the README as the tests read it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree


def lines_of(picture: Path) -> set[str]:
    """The lines that any frame of a picture by svg-term shows, each console's on its own."""
    root = ElementTree.parse(picture).getroot()
    svg, href = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
    symbols = {f"#{symbol.get('id')}": symbol for symbol in root.iter(f"{svg}symbol")}
    found: set[str] = set()
    for frame in root.iter(f"{svg}svg"):
        rows: dict[str | None, str] = {}
        # A row that several frames show is a `use` of a symbol; else its words stand here.
        for child in frame.findall(f"{svg}use") + frame.findall(f"{svg}text"):
            for word in symbols.get(child.get(href) or "", [child]):
                column = round(float(word.get("x", 0)) / 1.002)
                row = rows.get(child.get("y"), "").ljust(column)
                rows[child.get("y")] = row + (word.text or "")
        found.update(part.rstrip() for row in rows.values() for part in row.split("│"))
    return found
