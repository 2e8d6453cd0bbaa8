"""Where the time goes, and what to do when it stops going: one clock for both."""

from __future__ import annotations

import faulthandler
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """Times the parts of an iteration, and shows every thread's stack when one of them stalls.

    The stacks go to standard error, from a thread that needs nothing of Python, so that code which
    never returns is shown too; the run itself is left alone.

    Args:
        stall_after: seconds in one stage after which stacks are shown, and again after as many;
            None or 0 for never.

    >>> stages = Stages(stall_after=None)
    >>> with stages("collect"):
    ...     pass
    >>> list(stages.metrics())
    ['perf/collect_seconds']
    """

    def __init__(self, stall_after: float | None = 600.0):
        self.stall_after = stall_after
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Inside, it is stage `name`."""
        if self.stall_after and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(self.stall_after, repeat=True, file=sys.__stderr__)
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            if self.stall_after:
                faulthandler.cancel_dump_traceback_later()

    def metrics(self) -> dict[str, float]:
        """``perf/<stage>_seconds`` since the last call."""
        seconds, self._seconds = self._seconds, {}
        return {f"perf/{name}_seconds": value for name, value in seconds.items()}
