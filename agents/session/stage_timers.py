"""Stage timers, and a watchdog for stages that stall."""

from __future__ import annotations

import faulthandler
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimers:
    """Times the stages of an iteration and prints every thread's stack when one of them stalls.

    The stacks go to standard error, from a thread that does not need the interpreter, so that
    native code that never returns is shown too. The run itself continues.

    Args:
        stall_after: seconds in one stage after which stacks are printed, again and again; None or
            0 prints none.

    >>> stage = StageTimers(stall_after=None)
    >>> with stage("collect"):
    ...     pass
    >>> list(stage.metrics())
    ['perf/collect_seconds']
    """

    def __init__(self, stall_after: float | None = 600.0):
        self.stall_after = stall_after
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is inside as stage `name`."""
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
        """Return ``perf/<stage>_seconds`` since the last call."""
        seconds, self._seconds = self._seconds, {}
        return {f"perf/{name}_seconds": value for name, value in seconds.items()}
