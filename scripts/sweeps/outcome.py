"""Results of a training run, read from the files in its directory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from firstlight.scripts.sweeps.table import Cell


def is_finished(run_dir: Path) -> bool:
    """Whether the run has reached its end. Reads `status.json` without importing torch."""
    try:
        status = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(status, dict) and status.get("status") == "finished"


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``."""
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def outcome(run_dir: Path, cell: Cell) -> dict[str, Any]:
    """Entries of a result line that follow from the run's metrics."""
    lines = read_metrics(run_dir)
    last = lines[-1]
    counted = "rollout/episodes_counted"
    full = (e for e in lines if e.get(counted, 0) >= 100 and cell.threshold is not None)
    reached = next((e for e in full if e["rollout/return_mean"] >= cell.threshold), None)
    return {
        "threshold": cell.threshold,
        "stop": cell.stop,
        "reached_at": reached["step"] if reached else None,
        "steps": last["step"],
        "seconds": round(last["time"], 1),
        "eval_return": last["eval/return_mean"],
        "eval_success": last.get("eval/success_rate"),
        "eval_reported": reported_statistics(last),
        "curve": curve_of(lines, "rollout/return_mean"),
    }


def reported_statistics(last: Mapping[str, Any]) -> dict[str, float]:
    """Statistics that environments reported of evaluated episodes, such as depth."""
    ends = {"return", "length"}
    tags = ((tag.removeprefix("eval/").removesuffix("_mean"), tag) for tag in last)
    return {
        name: round(last[tag], 3)
        for name, tag in tags
        if tag == f"eval/{name}_mean" and name not in ends
    }


def curve_of(
    lines: Iterable[Mapping[str, Any]], tag: str, factor: float = 1.0
) -> list[list[float]]:
    """Steps and values of a metric, thinned to about 40 points.

    Args:
        lines: of ``metrics.jsonl``.
        tag: of the metric.
        factor: its values are multiplied by.
    """
    curve = [[e["step"], round(factor * e[tag], 4)] for e in lines if tag in e]
    return curve[:: max(1, len(curve) // 40)] + curve[-1:]
