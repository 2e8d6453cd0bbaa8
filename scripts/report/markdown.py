"""Pieces of Markdown: provenance, medians with ranges, tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any


def provenance(lines: Iterable[dict[str, Any]], command: str = "") -> str:
    """Format hardware, commits and commands of result lines as sentences."""
    lines = list(lines)

    def every(key: str) -> str:
        return ", ".join(dict.fromkeys(line[key] for line in lines))

    commands = command or "`, `".join(dict.fromkeys(line["command"] for line in lines))
    return f"{every('hardware')}, commit {every('commit')}. Command: `{commands}`."


def span(values: list[float], form: str) -> str:
    """Format median and range, or the value if there is only one."""
    if len(values) == 1:
        return form.format(values[0])
    low, high = min(values), max(values)
    return f"{form.format(statistics.median(values))} ({form.format(low)} to {form.format(high)})"


def markdown_table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Format a table, one string a line."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
