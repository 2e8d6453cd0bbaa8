"""Schedules: numbers as functions of training progress."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """Interpolates linearly from `start` to `end` between two moments of training; else constant.

    Args:
        start: value up to `begin`.
        end: value from `finish` on.
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
