"""Markdown section on a learning table that measures the value F of episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firstlight.scripts.benchmarks.learning import cells, spec
from firstlight.scripts.report.curves import Groups, draw_value_curves, runs_by_method
from firstlight.scripts.report.markdown import markdown_table, provenance, span
from firstlight.scripts.sweeps.table import key_of

Lines = list[dict[str, Any]]


def submodular_report(table: str, lines: Lines) -> str:
    """Format values per task and method, reference values, and the trials that were chosen."""
    missing = {cell.key for cell in cells(table)} - {key_of(line) for line in lines}
    groups: Groups = {}
    for line in lines:
        if not line.get("trial"):
            groups.setdefault((line["task"], line["method"], line["cap"]), []).append(line)
    head = [f"## Learning: {table}", ""]
    missing_cells = f"Missing cells: {len(missing)}." if missing else "No cell is missing."
    command = f"firstlight-bench learning {table}"
    if not groups:
        return "\n".join([*head, f"Only trials so far. {missing_cells} `{command}`", ""])
    known = {column: name for column, name in LIMITS.items() if any(name in line for line in lines)}
    explained = "".join(
        f"{_EXPLANATIONS[name]} " for name in known.values() if name in _EXPLANATIONS
    )
    small = {key: runs for key, runs in groups.items() if "optimum" in runs[0]}
    parts = [
        *head,
        "Mean value of 100 episodes of the frozen policy, with sampled actions, on a seed not "
        "trained on: F minus that of the start, median (range) over seeds. "
        f"{explained}Each cell's own command is in `docs/results/{table}.jsonl`. {missing_cells} "
        f"{provenance(lines, command)} GPU: not measured. {spec(table).get('note', '')}",
        "",
        *by_method(groups, lambda runs: span([r["value"] for r in runs], "{:.2f}"), known),
    ]
    if small:
        share = "The same as a share of the value of the best walk, found by trying all:"
        parts += [share, "", *by_method(small, shares)]
    if tuned := {key: runs for key, runs in groups.items() if "best" in runs[0]}:
        chosen = "Settings chosen by trials, on a seed of their own:"
        parts += [chosen, "", *by_method(tuned, lambda runs: f"`{runs[0]['best']}`")]
    return "\n".join([*parts, f"![curves of F]({draw_value_curves(table, groups)})", ""])


LIMITS = {"greedy walk": "greedy_walk", "bound": "bound", "best walk": "optimum"}
"""Head of a further column to its key in a result line."""
_EXPLANATIONS = {
    "greedy_walk": "*Greedy walk*: each move goes to the neighbour that adds most.",
    "bound": "*Bound*: no walk has a higher value; few reach it.",
}


def shares(runs: Lines) -> str:
    """Format the value as a share of the optimum: median (range)."""
    return span([run["value"] / run["optimum"] for run in runs], "{:.1%}")


def by_method(
    groups: Groups, cell: Callable[[Lines], str], limits: dict[str, str] | None = None
) -> list[str]:
    """Format a table with a row for each task and a column for each method.

    Args:
        groups: result lines.
        cell: formats the runs of a task and method.
        limits: further columns that all methods share: head to key in a line.
    """
    methods = list(dict.fromkeys(method for _, method, _ in groups))
    rows = []
    for task in dict.fromkeys(task for task, _, _ in groups):
        mine = runs_by_method(groups, task)
        one = next(iter(mine.values()))[0]
        values = [cell(mine[method]) if method in mine else "" for method in methods]
        more = [one.get(name) for name in (limits or {}).values()]
        shown = ["" if number is None else f"{number:.2f}" for number in more]
        rows.append([task, *values, *shown])
    return [*markdown_table(["task", *methods, *(limits or {})], rows), ""]
