"""Read sections and tables of the benchmarks document."""

from firstlight.scripts.report import benchmarks_document

ORIGIN = {"commit": "abc1234", "hardware": "a machine"}
"""Entries of every result line."""


def document() -> str:
    """Write the document from the results in the current folder, and read it."""
    benchmarks_document.write()
    return benchmarks_document.DOCUMENT.read_text(encoding="utf-8")


def section(title: str) -> str:
    """Section of the document with this heading."""
    (found,) = [part for part in document().split("\n## ")[1:] if part.startswith(title + "\n")]
    return found


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def cells(text: str) -> dict[str, list[str]]:
    """Map the first cell of each table row in a text to its other cells."""
    return {first: rest for first, *rest in rows(text)}
