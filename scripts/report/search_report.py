"""Markdown section on a learning table of searches."""

from __future__ import annotations

from typing import Any

from firstlight.scripts.benchmarks.learning import cells, spec
from firstlight.scripts.report.markdown import markdown_table, span
from firstlight.scripts.sweeps.table import key_of

_POINTS = ("2500", "5000", "10000", "30000", "50000", "100000", "500000")


def search_report(table: str, lines: list[dict[str, Any]]) -> str:
    """Format a table of searches: coverage, uniformity and rewards; median and range over seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["task"], line["method"], line["cap"]), []).append(line)
    areas = sorted({area for line in lines for area in line["areas"]})
    rows = []
    for (task, method, _), runs in groups.items():
        first = [run["first_reward"] for run in runs if run["first_reward"] is not None]
        best = [
            [run["areas"][area]["best"] for run in runs if area in run["areas"]] for area in areas
        ]
        cover = [
            [run["coverage_at"][point] for run in runs if point in run["coverage_at"]]
            for point in _POINTS
        ]
        rows.append(
            [
                task,
                method,
                span([run["evaluations"] for run in runs], "{:,.0f}"),
                f"{len(runs)}",
                span([run["seconds"] for run in runs], "{:.0f}"),
                *(span(found, "{:.3f}") if found else "" for found in cover),
                span([run["uniformity"] for run in runs], "{:.2f}"),
                span(first, "{:,.0f}") if first else "never",
                *(span(found, "{:.2f}") if found else "" for found in best),
            ]
        )
    missing = {cell.key for cell in cells(table)} - {key_of(line) for line in lines}
    head = ["task", "method", "evaluations", "seeds", "seconds"]
    head += [f"coverage at {int(point):,}" for point in _POINTS]
    head += ["uniformity", "evaluations to the first reward"]
    head += [f"best reward, {area.replace('_', ' ')}" for area in areas]
    hard = ", ".join(sorted({line["hardware"] for line in lines}))
    note = spec(table).get("note", "")
    missed = f"Missing cells: {len(missing)}." if missing else "No cell is missing."
    return "\n".join(
        [
            f"## Learning: {table}",
            "",
            f"Median (range) over seeds. `firstlight-bench learning {table}`; each cell's own "
            f"command is in `docs/results/{table}.jsonl`. {missed} {hard}. {note}",
            "",
            *markdown_table(head, rows),
            "",
        ]
    )
