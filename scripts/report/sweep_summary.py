"""Tables on the terminal at the end of a sweep or a search."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from firstlight.scripts.benchmarks.results import read_lines
from firstlight.scripts.report.curves import Groups
from firstlight.scripts.report.learning_report import middle
from firstlight.scripts.report.markdown import span
from firstlight.scripts.sweeps.cell_work import CellWork
from firstlight.scripts.sweeps.search import SearchWork
from firstlight.scripts.sweeps.table import key_of

SHOWN = 10
"""Trials of a search that are printed."""


def show(work: CellWork | SearchWork) -> None:
    """Print the summary of a sweep or a search."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    if isinstance(work, SearchWork):
        _show_search(work, console)
    else:
        console.print(cell_table(work))
    console.print(f"all results: {work.results}", soft_wrap=True)


def cell_table(work: CellWork) -> Table:
    """Table with a row for each task, method and cap: statistics over their seeds."""
    newest = {key_of(line): line for line in read_lines(work.results)}
    groups: Groups = {}
    for cell in work.cells.values():
        groups.setdefault((cell.task, f"{cell.method} {cell.trial}".strip(), cell.cap), [])
        if (line := newest.get(cell.key)) is not None:
            groups[cell.task, f"{cell.method} {cell.trial}".strip(), cell.cap].append(line)
    measured = any("value" in line for line in newest.values())
    name = "value" if measured else "return in evaluation"
    table = _table("task", "method", "steps", "seeds", name, "interquartile mean", "solved")
    for column in ("steps to the threshold", "seconds"):
        table.add_column(column, justify="right")
    for (task, method, cap), lines in groups.items():
        runs = [line for line in lines if "error" not in line]
        failed, missing = len(lines) - len(runs), _count(work, task, method, cap) - len(lines)
        seeds = f"{len(runs)}"
        seeds += f", {failed} failed" if failed else ""
        seeds += f", {missing} missing" if missing else ""
        row = [task, method, f"{cap:,}", seeds]
        if runs:
            row += _statistics(runs, "value" if measured else "eval_return")
        table.add_row(*row)
    return table


def _statistics(runs: Sequence[dict[str, Any]], key: str) -> list[str]:
    """Columns of finished runs: median and range, interquartile mean, solved, steps, seconds."""
    values = [float(run[key]) for run in runs]
    success = [run["eval_success"] for run in runs if run["eval_success"] is not None]
    reached = [run["reached_at"] for run in runs if run["reached_at"]]
    steps = ""
    if runs[0]["threshold"] is not None:
        steps = f"{len(reached)} of {len(runs)}"
        steps += f": {span(reached, '{:,.0f}')}" if reached else ""
    return [
        span(values, "{:.3f}"),
        middle(values),
        span(success, "{:.0%}") if success else "",
        steps,
        span([run["seconds"] for run in runs], "{:.0f}"),
    ]


def _count(work: CellWork, task: str, method: str, cap: int) -> int:
    cells = work.cells.values()
    keys = [(cell.task, f"{cell.method} {cell.trial}".strip(), cell.cap) for cell in cells]
    return keys.count((task, method, cap))


def _show_search(work: SearchWork, console: Console) -> None:
    lines = work.lines()
    counts = {state: [line["state"] for line in lines].count(state) for state in STATES}
    ended = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    complete = [line for line in lines if line["state"] == "complete"]
    best = sorted(complete, key=lambda line: line["value"], reverse=work.maximise)[:SHOWN]
    table = _table("trial", work.objective, *work.parameters)
    for line in best:
        parameters = (f"{line['parameters'][name]}" for name in work.parameters)
        table.add_row(str(line["trial"]), f"{line['value']:.4g}", *parameters)
    console.print(table)
    console.print(f"{len(lines)} of {work.limit} trials: {ended}", soft_wrap=True)
    if best:
        console.print(f"the best: {best[0]['command']}", soft_wrap=True, markup=False)


STATES = ("complete", "pruned", "fail")


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="left" if column in ("task", "method") else "right")
    return table
