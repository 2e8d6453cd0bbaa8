"""Markdown section on a learning table that measures returns."""

from __future__ import annotations

from typing import Any

import numpy as np

from firstlight.scripts.benchmarks.learning import cells, spec
from firstlight.scripts.report.curves import Groups, draw_learning_curves
from firstlight.scripts.report.markdown import markdown_table, span
from firstlight.scripts.report.seed_statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
)
from firstlight.scripts.sweeps.table import key_of

BASELINE = "ppo"
"""Method that the others are compared with."""


EXPLAINED = (
    "Interquartile mean: a quarter of the seeds, rounded down, left out at each end; its interval "
    "by 2,000 resamples of the seeds. P: the probability that a seed has a higher return in "
    "evaluation than one of plain PPO (Agarwal et al. 2021)."
)


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
                middle([run["eval_return"] for run in runs]),
                improvement(groups, task, method, cap),
                span(success, "{:.0%}") if success else "",
                *(reported(runs, name) for name in shown),
            ]
        )
    wanted = {cell.key for cell in cells(table)}
    missing = wanted - {key_of(line) for line in lines}
    marks = {name: task.get("published", []) for name, task in spec(table).tasks.items()}
    picture = draw_learning_curves(table, groups, marks)
    head = ["task", "method", "threshold", "seeds (that reached it)", "M steps to it", "cap (M)"]
    head += ["seconds", "return in evaluation", "its interquartile mean (95 % interval)"]
    head += ["P(better than ppo)", "solved in evaluation"]
    head += [f"{name} in evaluation" for name in shown]
    missing_cells = f"Missing cells: {len(missing)}." if missing else "No cell is missing."
    hard = sorted({line["hardware"] for line in lines})
    note = spec(table).get("note", "")
    return "\n".join(
        [
            f"## Learning: {table}",
            "",
            f"Median (range) over seeds. {EXPLAINED} `firstlight-bench learning {table}`; each "
            "cell's own "
            f"command is in `docs/results/{table}.jsonl`. Training stops once the mean return of "
            "the last 100 training episodes reaches the threshold, if there is one; then the "
            "frozen policy is evaluated on unseen levels with sampled actions (100, MultiRoom "
            f"500). {missing_cells} {', '.join(hard)}; GPU: not measured. {note}",
            "",
            *markdown_table(head, rows),
            "",
            f"![learning curves]({picture})",
            "",
            "Median and range over seeds; a curve that was stopped keeps its last value.",
            "",
            *published(table),
        ]
    )


def middle(returns: list[float]) -> str:
    """Format the interquartile mean, and its bootstrap interval if there are several seeds."""
    value = f"{interquartile_mean(np.array(returns)):.3f}"
    if len(returns) == 1:
        return value
    low, high = bootstrap_interval(np.array(returns))
    return f"{value} ({low:.3f} to {high:.3f})"


def improvement(groups: Groups, task: str, method: str, cap: int) -> str:
    """Format the probability of improvement over plain PPO.

    It is compared with PPO at the same cap, or else at its largest one. Empty if there is none, and
    for PPO itself.

    Args:
        groups: result lines.
        task: whose results are compared.
        method: compared with PPO.
        cap: of the method.
    """
    caps = [c for name, m, c in groups if (name, m) == (task, BASELINE)]
    if method == BASELINE or not caps:
        return ""
    theirs = groups[task, BASELINE, cap if cap in caps else max(caps)]
    ours = groups[task, method, cap]
    found = [[run["eval_return"] for run in runs] for runs in (ours, theirs)]
    return f"{probability_of_improvement(*found):.0%}"


def reported(runs: list[dict[str, Any]], name: str) -> str:
    """Format a statistic that environments reported, or an empty string."""
    values = [run.get("eval_reported", {}).get(name) for run in runs]
    return "" if None in values else span(values, "{:.2f}")


def published(table: str) -> list[str]:
    """Format the published results for these tasks, with their sources."""
    lines = [f"- {note}" for note in spec(table).get("published", [])]
    return ["Published, for comparison:", "", *lines, ""] if lines else []
