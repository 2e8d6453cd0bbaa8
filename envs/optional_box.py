"""`OptionalBox`, the space of an observation field that an agent may leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


class OptionalBox(spaces.Box):
    """A Box of a field that a wrapper adds, with the value that stands where there is no wrapper.

    `Agent.act` puts `default` in the place of a field that an observation lacks, so that a policy
    acts without what a reward module added in training.

    Args:
        low: lower bound.
        high: upper bound.
        shape: of the field.
        default: value of each of its numbers where the field is missing.

    Raises:
        ValueError: if `default` is not within the bounds.
    """

    def __init__(self, low: float, high: float, shape: tuple[int, ...], *, default: float):
        super().__init__(low, high, shape, np.float32)
        if not low <= default <= high:
            raise ValueError(f"default is {default}, expected {low} to {high}")
        self.default = float(default)

    def __repr__(self) -> str:
        return f"OptionalBox({self.bounds}, {self.shape}, default={self.default})"

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of every number."""
        return float(self.low.min()), float(self.high.max())

    def describe(self) -> dict[str, Any]:
        """Arguments that make the same space again."""
        low, high = self.bounds
        return {"low": low, "high": high, "shape": list(self.shape), "default": self.default}
