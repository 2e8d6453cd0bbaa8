"""Pieces of the page of benchmarks: sentences, spans and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any


def provenance(lines: Iterable[dict[str, Any]], command: str = "") -> str:
    """Hardware, commits and commands of lines, as sentences."""
    lines = list(lines)

    def every(key: str) -> str:
        return ", ".join(dict.fromkeys(line[key] for line in lines))

    commands = command or "`, `".join(dict.fromkeys(line["command"] for line in lines))
    return f"{every('hardware')}, commit {every('commit')}. Command: `{commands}`."


def span(values: list[float], form: str) -> str:
    """Median and range, or the value if there is but one."""
    if len(values) == 1:
        return form.format(values[0])
    low, high = min(values), max(values)
    return f"{form.format(statistics.median(values))} ({form.format(low)} to {form.format(high)})"


def markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A table's lines."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
