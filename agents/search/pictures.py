"""Pictures of a search: where episodes ended, and what the archive holds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from firstlight.agents.diagnostics.pictures import draw_map
from firstlight.agents.search.search_trainer import SearchTrainer

_SIDE = 100  # cells of an archive picture along each axis


class CoverageMaps:
    """Callback that draws the coverage of a search so far, and its archive.

    Written as ``pictures/step_N_NAME.png`` and to TensorBoard: `coverage`, evaluations that ended
    in each cell; `first_seen`, the number of the first of these, which shows how the covered region
    grew; `archive` and `reward_archive`, individuals by the first two numbers of their descriptor.
    Positions of one number are one row; of more than two numbers the first two are drawn.

    Args:
        every_seconds: wall clock time between pictures; the last ones are drawn at the end.

    Attributes:
        maps: the latest maps by name, [H, W] float64, NaN where nothing is.
    """

    def __init__(self, *, every_seconds: float = 60.0):
        self.every_seconds = every_seconds
        self.maps: dict[str, np.ndarray] = {}
        self._due = -float("inf")

    def __call__(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Draw if pictures are due."""
        over = run.stopping or run.steps >= run.total_steps
        if not over and time.monotonic() < self._due:
            return
        trainer = run.trainer
        assert isinstance(trainer, SearchTrainer)
        self.maps = search_maps(trainer)
        for name, values in self.maps.items() if run.directory is not None else ():
            title = f"{name}, {trainer.coverage.evaluated:,} evaluations"
            picture = draw_map(values, title, log=name != "first_seen")
            run.directory.picture(run.steps, name, picture)
        self._due = time.monotonic() + self.every_seconds


def search_maps(trainer: SearchTrainer) -> dict[str, np.ndarray]:
    """Compute the maps of `CoverageMaps`: name to [H, W] float64, NaN where nothing is."""
    coverage = trainer.coverage
    counts, first = (_plane(field) for field in (coverage.counts, coverage.first_seen))
    seen = counts > 0
    maps = {
        "coverage": np.where(seen, counts, np.nan),
        "first_seen": np.where(seen, first, np.nan),
    }
    for name, individuals in trainer.algorithm.archives().items():
        if len(individuals) and individuals.descriptor.shape[1]:
            maps[name] = _density(individuals.descriptor)
    return maps


def _plane(values: np.ndarray) -> np.ndarray:
    """Arrange a grid with x as its first axis as [rows, columns] float64."""
    if values.ndim == 1:
        return values[None].astype(np.float64)
    while values.ndim > 2:
        values = values.max(-1)
    return values.T.astype(np.float64)


def _density(descriptor: np.ndarray) -> np.ndarray:
    """Count descriptors [B, d] on a plane of their first two numbers, [H, W], NaN for none."""
    x = descriptor[:, 0]
    y = descriptor[:, 1] if descriptor.shape[1] > 1 else np.zeros_like(x)
    counts = np.histogram2d(y, x, bins=_SIDE)[0]
    return np.where(counts > 0, counts, np.nan)
