"""Markdown section on a learning table that measures returns."""

from __future__ import annotations

from typing import Any

from firstlight.scripts.benchmarks.learning import cells, key_of, spec
from firstlight.scripts.report.curves import Groups, draw_learning_curves
from firstlight.scripts.report.markdown import markdown_table, span


def learning_report(table: str, lines: list[dict[str, Any]]) -> str:
    """Format a learning table: returns, and the step at which the threshold was reached."""
    groups: Groups = {}
    for line in lines:
        groups.setdefault((line["task"], line["method"], line["cap"]), []).append(line)
    rows, shown = [], spec(table).get("show", [])
    for (task, method, cap), runs in groups.items():
        aim = runs[0]["threshold"]
        hits = [run for run in runs if run["reached_at"]]
        steps = span([run["reached_at"] / 1e6 for run in hits], "{:.2f}") if hits else "not reached"
        clock = span([run["seconds"] for run in runs], "{:.0f}")
        returns = span([run["eval_return"] for run in runs], "{:.3f}")
        success = [run["eval_success"] for run in runs if run["eval_success"] is not None]
        rows.append(
            [
                task,
                method,
                "" if aim is None else f"{aim:.2f}",
                f"{len(runs)}" if aim is None else f"{len(hits)} of {len(runs)}",
                "" if aim is None else steps,
                f"{cap / 1e6:g}",
                clock,
                returns,
                span(success, "{:.0%}") if success else "",
                *(reported(runs, name) for name in shown),
            ]
        )
    wanted = {cell.key for cell in cells(table)}
    missing = wanted - {key_of(line) for line in lines}
    picture = draw_learning_curves(table, groups)
    head = ["task", "method", "threshold", "seeds (that reached it)", "M steps to it", "cap (M)"]
    head += ["seconds", "return in evaluation", "solved in evaluation"]
    head += [f"{name} in evaluation" for name in shown]
    missing_cells = f"Missing cells: {len(missing)}." if missing else "No cell is missing."
    hard = sorted({line["hardware"] for line in lines})
    note = spec(table).get("note", "")
    return "\n".join(
        [
            f"## Learning: {table}",
            "",
            f"Median (range) over seeds. `firstlight-bench learning {table}`; each cell's own "
            f"command is in `docs/results/{table}.jsonl`. Training stops once the mean return of "
            "the last 100 training episodes reaches the threshold, if there is one; then the "
            "frozen policy is evaluated on unseen levels with sampled actions (100, MultiRoom "
            f"500). {missing_cells} {', '.join(hard)}; GPU: not measured. {note}",
            "",
            *markdown_table(head, rows),
            "",
            f"![learning curves]({picture})",
            "",
            *published(table),
        ]
    )


def reported(runs: list[dict[str, Any]], name: str) -> str:
    """Format a statistic that environments reported, or an empty string."""
    values = [run.get("eval_reported", {}).get(name) for run in runs]
    return "" if None in values else span(values, "{:.2f}")


def published(table: str) -> list[str]:
    """Format the published results for these tasks, with their sources."""
    lines = [f"- {note}" for note in spec(table).get("published", [])]
    return ["Published, for comparison:", "", *lines, ""] if lines else []
