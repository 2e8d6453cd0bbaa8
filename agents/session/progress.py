"""A progress line on the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import IO, Protocol

from rich import progress
from rich.console import Console

INTERVAL = 10.0
"""Seconds between two lines if the output is no terminal."""


class _Steps(Protocol):
    @property
    def steps(self) -> int: ...


class Progress:
    """A callback that shows progress: a live line on a terminal, else a line every 10 seconds.

    Args:
        total_steps: environment steps at the end.
        stream: where to write; standard error by default, so that results can be piped.
    """

    def __init__(self, total_steps: int, stream: IO[str] | None = None):
        self.total_steps = total_steps
        self._stream = sys.stderr if stream is None else stream
        self._shown_at, self._line, self._shown = -float("inf"), "", ""
        self._live: progress.Progress | None = None
        console = Console(file=self._stream)
        if console.is_terminal:
            columns = progress.BarColumn(bar_width=20), progress.TextColumn("{task.description}")
            self._live = progress.Progress(*columns, console=console)
            self._task = self._live.add_task("", total=total_steps)
            self._live.start()

    def __call__(self, run: _Steps, metrics: Mapping[str, float]) -> None:
        """Show the progress of `run`."""
        self._line = line(run.steps, self.total_steps, metrics)
        if self._live is not None:
            self._live.update(self._task, completed=run.steps, description=self._line)
        elif time.monotonic() - self._shown_at >= INTERVAL or run.steps >= self.total_steps:
            self._print()

    def close(self) -> None:
        """Show the last line and restore the terminal; may be called twice."""
        if self._live is not None:
            self._live.stop()
        elif self._line != self._shown:
            self._print()

    def _print(self) -> None:
        with contextlib.suppress(OSError):  # of a pipe that was closed
            print(self._line, file=self._stream, flush=True)
        self._shown_at, self._shown = time.monotonic(), self._line


def line(steps: int, total_steps: int, metrics: Mapping[str, float]) -> str:
    """Return the progress line.

    >>> line(250_000, 1_000_000, {"perf/steps_per_second": 50_000.0, "rollout/return_mean": 0.5})
    '250,000 of 1,000,000 steps · 50,000/s · return 0.50 · 0:00:15 left'
    """
    parts = [f"{steps:,} of {total_steps:,} steps"]
    speed = metrics.get("perf/steps_per_second", 0.0)
    if speed > 0:
        parts.append(f"{speed:,.0f}/s")
    if "rollout/return_mean" in metrics:
        parts.append(f"return {metrics['rollout/return_mean']:.2f}")
    if "rollout/success_rate" in metrics:
        parts.append(f"success {metrics['rollout/success_rate']:.0%}")
    if speed > 0 and steps < total_steps:
        parts.append(f"{timedelta(seconds=round((total_steps - steps) / speed))} left")
    return " · ".join(parts)
