"""What a search has found so far: coverage, uniformity, and the reward of each area."""

from __future__ import annotations

from typing import Any

import numpy as np

from firstlight.agents.search.evaluators.base import Evaluations, Evaluator


class PositionCoverage:
    """Counts where episodes ended, on a grid, over all evaluations of a run.

    Args:
        evaluator: gives bounds, cells and the number of areas.

    Attributes:
        counts: evaluations that ended in each cell, int64, an axis for each of the position.
        first_seen: number of the evaluation that first ended in each cell, -1 where none did.
        best: [A] float64, highest reward for each area.
        found: [A] int64, evaluations with a reward for each area.
        first_reward: [A] int64, evaluations until the first one, its own included; -1 before.
    """

    def __init__(self, evaluator: Evaluator):
        self._low, self._high = evaluator.low, evaluator.high
        self.counts = np.zeros(evaluator.cells, np.int64)
        self.first_seen = np.full(evaluator.cells, -1)
        self.best, self.found = np.zeros(evaluator.num_areas), np.zeros(evaluator.num_areas, int)
        self.first_reward = np.full(evaluator.num_areas, -1)
        self.evaluated, self.any_reward = 0, -1

    def cells_of(self, position: np.ndarray) -> np.ndarray:
        """Compute the cell [B, D] int64 of positions [B, D]; outside counts as the edge."""
        shape = np.array(self.counts.shape)
        span = np.where(self._high > self._low, self._high - self._low, 1.0)
        share = (position - self._low) / span
        return np.clip((share * shape).astype(np.int64), 0, shape - 1)

    def add(self, evaluations: Evaluations) -> None:
        """Count evaluations, in their order."""
        cells = self.cells_of(evaluations.position[:, -1])
        flat = np.ravel_multi_index(tuple(cells.T), self.counts.shape)
        np.add.at(self.counts.reshape(-1), flat, 1)
        number = self.evaluated + np.arange(len(flat))
        seen = self.first_seen.reshape(-1)
        unique, first = np.unique(flat, return_index=True)
        new = seen[unique] < 0
        seen[unique[new]] = number[first[new]]
        for k in range(len(self.best)):
            rows = np.flatnonzero(evaluations.area == k + 1)
            if len(rows):
                self.best[k] = max(self.best[k], float(evaluations.ret[rows].max()))
                self.found[k] += len(rows)
                if self.first_reward[k] < 0:
                    self.first_reward[k] = number[rows[0]] + 1
        rewarded = np.flatnonzero(evaluations.ret > 0)
        if self.any_reward < 0 and len(rewarded):
            self.any_reward = int(number[rewarded[0]]) + 1
        self.evaluated += len(flat)

    @property
    def share(self) -> float:
        """Share of the cells in which an evaluation ended."""
        return float((self.counts > 0).mean())

    @property
    def uniformity(self) -> float:
        """1 minus the Jensen-Shannon divergence, in bits, from equal counts; 0 without any."""
        total = self.counts.sum()
        if not total:
            return 0.0
        share = self.counts.reshape(-1) / total
        equal = np.full(share.size, 1 / share.size)
        middle = (share + equal) / 2
        there = share > 0
        first = (share[there] * np.log2(share[there] / middle[there])).sum()
        second = (equal * np.log2(equal / middle)).sum()
        return float(1 - (first + second) / 2)

    def metrics(self) -> dict[str, float]:
        """Return scalars to log, under their full tags."""
        scalars = {
            "search/coverage": self.share,
            "search/uniformity": self.uniformity,
            "search/evaluations": float(self.evaluated),
        }
        if self.any_reward >= 0:
            scalars["search/first_reward"] = float(self.any_reward)
        for k in range(len(self.best)):
            scalars[f"search/area_{k + 1}/best"] = float(self.best[k])
            scalars[f"search/area_{k + 1}/evaluations"] = float(self.found[k])
            if self.first_reward[k] >= 0:
                scalars[f"search/area_{k + 1}/first"] = float(self.first_reward[k])
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """Return all counts."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = ("counts", "first_seen", "best", "found", "first_reward", "evaluated", "any_reward")
