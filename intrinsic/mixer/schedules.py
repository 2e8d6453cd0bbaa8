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


@dataclass(frozen=True)
class Exponential:
    """Falls or rises by the same factor in equal parts of training, from `start` to `end`.

    A weight ``β_0 (1 - ρ)^t`` over n steps has ``start = β_0`` and ``end = β_0 (1 - ρ)^n``.

    Args:
        start: value at the beginning; above 0.
        end: value at the end; above 0.

    Raises:
        ValueError: for a value that is not above 0.

    >>> Exponential(1.0, 0.01)(0.5)
    0.1
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if min(self.start, self.end) <= 0:
            raise ValueError(f"start is {self.start} and end {self.end}, expected more than 0")

    def __call__(self, progress: float) -> float:
        """Value at `progress` in [0, 1]."""
        return self.start * (self.end / self.start) ** min(max(progress, 0.0), 1.0)
