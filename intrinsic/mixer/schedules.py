"""Numbers that change with training progress."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """From `start` to `end`, straight, between two moments of training; flat outside.

    Args:
        start: value at `begin` and before.
        end: value at `finish` and after.
        begin: progress in [0, 1].
        finish: progress in [0, 1], after `begin`.

    >>> Linear(1.0, 0.0, finish=0.5)(0.25)
    0.5
    """

    start: float
    end: float = 0.0
    begin: float = 0.0
    finish: float = 1.0

    def __call__(self, progress: float) -> float:
        """Value at `progress` in [0, 1]."""
        done = min(max((progress - self.begin) / (self.finish - self.begin), 0.0), 1.0)
        return self.start + (self.end - self.start) * done
