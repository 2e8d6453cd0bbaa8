"""A thread between a run and a tracker, so that the tracker can neither stop nor delay the run."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.agents.session.trackers.base import Tracker

log = logging.getLogger(__name__)

_Call = tuple[str, tuple[Any, ...]]


class BackgroundTracker:
    """Calls a tracker in a thread.

    The first error switches the tracker off, with a warning. While it is slow up to `room` calls
    wait; further ones are dropped and counted.

    Args:
        tracker: that is called.
        room: calls that may wait.
        patience_seconds: to wait for the last calls when the run ends.

    Attributes:
        dropped: number of calls that found no room.
        is_off: whether the tracker has failed.
    """

    def __init__(self, tracker: Tracker, *, room: int = 1_000, patience_seconds: float = 30.0):
        self.tracker, self.patience_seconds = tracker, patience_seconds
        self.dropped, self.is_off = 0, False
        self._calls: queue.Queue[_Call] = queue.Queue(room)
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Class of the tracker, for messages."""
        return type(self.tracker).__name__

    def open(self, run_dir: Path, step: int) -> None:
        """Start the thread, and the tracker in it; again after `close`."""
        if self._thread is not None or self.is_off:
            return
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()
        self._put("open", run_dir, step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue scalars; those that are not finite are left out."""
        self._put("log", step, {k: float(v) for k, v in metrics.items() if math.isfinite(v)})

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Queue a picture."""
        self._put("picture", step, name, pixels)

    def close(self, status: str) -> None:
        """Queue the end, and wait for the thread up to `patience_seconds`."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        end: _Call = ("close", (status,))
        patience = 0.0 if self.is_off else self.patience_seconds
        deadline = time.monotonic() + patience
        with suppress(queue.Full):
            self._calls.put(end, timeout=patience)
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive() and not self.is_off:
            self.is_off = True  # the thread may come back in a next part of the run
            log.warning("%s has not ended after %g s", self.name, self.patience_seconds)
        if self.dropped:
            log.warning("%s was slow: %d of its calls were dropped", self.name, self.dropped)

    def _put(self, method: str, *arguments: Any) -> None:
        if self._thread is None or self.is_off:
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        """Make the calls until the last one, or the first error."""
        methods: dict[str, Callable[..., None]] = {
            "open": self.tracker.open,
            "log": self.tracker.log,
            "picture": self.tracker.picture,
            "close": self.tracker.close,
        }
        method = ""
        try:
            while method != "close":
                method, arguments = self._calls.get()
                methods[method](*arguments)
        except BaseException as error:  # also SystemExit, which would end this thread in silence
            self.is_off = True
            log.warning(
                "%s is switched off, the run goes on without it: %s: %s",
                self.name,
                type(error).__name__,
                error,
            )
