"""How many labels a judge has given in a finished run, from its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from firstlight.scripts.sweeps.outcome import read_metrics


def measure(run_dir: Path) -> dict[str, Any]:
    """Return `labels` and `label_coverage` at the end of a run; None where there is no judge.

    Args:
        run_dir: of a run.
    """
    last = read_metrics(run_dir)[-1]
    coverage = last.get("llm/coverage")
    return {
        "labels": last.get("llm/labels"),
        "label_coverage": None if coverage is None else round(coverage, 3),
    }
