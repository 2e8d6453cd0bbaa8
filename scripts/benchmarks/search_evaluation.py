"""What a finished search has found, from its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from firstlight.scripts.sweeps.outcome import curve_of, read_metrics

_POINTS = (2_500, 5_000, 10_000, 20_000, 30_000, 50_000, 100_000, 200_000, 500_000)
"""Evaluations at which published coverages are known, or would be."""


def measure(run_dir: Path) -> dict[str, Any]:
    """Return entries of a result line; `value` is the coverage at the end.

    Args:
        run_dir: of a search.
    """
    lines = read_metrics(run_dir)
    last = lines[-1]
    areas = sorted({tag.split("/")[1] for tag in last if tag.startswith("search/area_")})
    reached = {}
    for point in _POINTS:
        after = next((line for line in lines if line["search/evaluations"] >= point), None)
        if after is not None:
            reached[str(point)] = round(after["search/coverage"], 4)
    return {
        "value": round(last["search/coverage"], 4),
        "evaluations": int(last["search/evaluations"]),
        "coverage_at": reached,
        "uniformity": round(last["search/uniformity"], 4),
        "first_reward": last.get("search/first_reward"),
        "areas": {
            area: {
                name: last.get(f"search/{area}/{name}") for name in ("best", "evaluations", "first")
            }
            for area in areas
        },
        "coverage_curve": curve_of(lines, "search/coverage"),
    }
