"""Stage timers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from typing import NamedTuple

SHARED_BYTES = 256
"""Length of a stage's name in shared memory, in UTF-8 and zeros."""


class OpenStage(NamedTuple):
    """A stage that has not ended.

    Args:
        name: of the stage.
        began: when it was entered, by `time.perf_counter`.
        since: when it was entered or the last stage inside it ended.
    """

    name: str
    began: float
    since: float


class StageTimers:
    """Times the stages of an iteration. Stages may nest.

    Attributes:
        current: the innermost stage that has not ended, or None. Entering and leaving a stage
            replace it as a whole, so that another thread may read it at any time without a lock
            (`Watchdog`).
        shared: memory of `SHARED_BYTES` for its name, which another process may read even while
            native code holds the GIL; None shares nothing.

    >>> stage = StageTimers()
    >>> with stage("collect"):
    ...     stage.current.name
    'collect'
    >>> list(stage.metrics())
    ['perf/collect_seconds']
    """

    def __init__(self) -> None:
        self.current: OpenStage | None = None
        self.shared: mmap | None = None
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is inside as stage `name`."""
        outer, began = self.current, time.perf_counter()
        self._set(OpenStage(name, began, began))
        try:
            yield
        finally:
            ended = time.perf_counter()
            self._set(None if outer is None else OpenStage(outer.name, outer.began, ended))
            self._seconds[name] = self._seconds.get(name, 0.0) + ended - began

    def metrics(self) -> dict[str, float]:
        """Return ``perf/<stage>_seconds`` since the last call."""
        seconds, self._seconds = self._seconds, {}
        return {f"perf/{name}_seconds": value for name, value in seconds.items()}

    def _set(self, stage: OpenStage | None) -> None:
        self.current = stage
        if self.shared is not None:
            name = b"" if stage is None else stage.name.encode(errors="replace")[:SHARED_BYTES]
            self.shared[:] = name.ljust(SHARED_BYTES, b"\0")
