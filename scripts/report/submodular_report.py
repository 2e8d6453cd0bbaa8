"""The page's part on a learning table that measures what episodes are worth to a set function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firstlight.scripts.benchmarks.learning import cells, key_of, spec
from firstlight.scripts.report.markdown import markdown, provenance, span
from firstlight.scripts.report.pictures import Groups, of_task, panels

Lines = list[dict[str, Any]]


def worth(table: str, lines: Lines) -> str:
    """Values per task and method, with what is known to be had, and which trial was taken."""
    missing = {cell.key for cell in cells(table)} - {key_of(line) for line in lines}
    groups: Groups = {}
    for line in lines:
        if not line.get("trial"):
            groups.setdefault((line["task"], line["method"], line["cap"]), []).append(line)
    head = [f"## Learning: {table}", ""]
    lacks = f"Missing cells: {len(missing)}." if missing else "No cell is missing."
    command = f"firstlight-bench learning {table}"
    if not groups:
        return "\n".join([*head, f"Only trials so far. {lacks} `{command}`", ""])
    known = {column: name for column, name in LIMITS.items() if any(name in line for line in lines)}
    told = "".join(f"{_TOLD[name]} " for name in known.values() if name in _TOLD)
    small = {key: runs for key, runs in groups.items() if "optimum" in runs[0]}
    parts = [
        *head,
        "What 100 episodes of the frozen policy, with sampled actions, on a seed not trained on, "
        "are worth on the mean: F less that of the start, median (range) over seeds. "
        f"{told}Each cell's own command is in `docs/results/{table}.jsonl`. {lacks} "
        f"{provenance(lines, command)} GPU: not measured. {spec(table).get('note', '')}",
        "",
        *by_method(groups, lambda runs: span([r["value"] for r in runs], "{:.2f}"), known),
    ]
    if small:
        share = "The same as a share of the best walk's worth, found by trying all:"
        parts += [share, "", *by_method(small, shares)]
    if tuned := {key: runs for key, runs in groups.items() if "best" in runs[0]}:
        chosen = "What was chosen by trials, on a seed of their own:"
        parts += [chosen, "", *by_method(tuned, lambda runs: f"`{runs[0]['best']}`")]
    return "\n".join([*parts, f"![curves of F]({panels(table, groups)})", ""])


LIMITS = {"greedy walk": "greedy_walk", "bound": "bound", "best walk": "optimum"}
"""Further columns, and their names in a line."""
_TOLD = {
    "greedy_walk": "*Greedy walk*: the neighbour that adds most, each move.",
    "bound": "*Bound*: no walk is worth more; few reach it.",
}


def shares(runs: Lines) -> str:
    """Median (range) of the share of the optimum."""
    return span([run["value"] / run["optimum"] for run in runs], "{:.1%}")


def by_method(
    groups: Groups, told: Callable[[Lines], str], limits: dict[str, str] | None = None
) -> list[str]:
    """A table with a row for each task and a column for each method, and an empty line.

    Args:
        groups: the lines.
        told: what a cell says of its runs.
        limits: heads of further columns, which all methods share, and their names in a line.
    """
    methods = list(dict.fromkeys(method for _, method, _ in groups))
    rows = []
    for task in dict.fromkeys(task for task, _, _ in groups):
        mine = of_task(groups, task)
        one = next(iter(mine.values()))[0]
        said = [told(mine[method]) if method in mine else "" for method in methods]
        more = [one.get(name) for name in (limits or {}).values()]
        shown = ["" if number is None else f"{number:.2f}" for number in more]
        rows.append([task, *said, *shown])
    return [*markdown(["task", *methods, *(limits or {})], rows), ""]
