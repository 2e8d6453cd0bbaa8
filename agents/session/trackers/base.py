"""The interface of trackers, and what they share."""

from __future__ import annotations

import importlib.util
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from firstlight.agents.session.run_directory.files import write_json

IDENTITIES = "trackers.json"
"""File in a run directory with the run's name in each tracker, so that a resumed run goes on."""
_IDENTITIES = threading.Lock()


class Tracker(ABC):
    """Base class of what receives a run's metrics, such as Weights & Biases.

    A thread of the tracker's own calls it (`BackgroundTracker`), in this order: `open`, then `log`
    and `picture` as they come, then `close`. So it may be slow, and it may raise: then it is
    switched off with a warning, and the run goes on.
    """

    @abstractmethod
    def open(self, run_dir: Path, step: int) -> None:
        """Begin the run of `run_dir`, or continue it.

        Args:
            run_dir: the run directory; all files belong there.
            step: environment steps that the run resumes from, 0 for a new one. What was logged at
                later steps comes again.
        """

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store scalars at `step` environment steps; all are finite."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:  # noqa: B027
        """Store a picture [H, W, 3] uint8. Default: nothing."""

    def close(self, status: str) -> None:  # noqa: B027
        """End the run: "finished", "interrupted" or "failed". Default: nothing."""


def require(package: str) -> None:
    """Raise ModuleNotFoundError if a tracker's package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{package} is not installed: pip install 'firstlight[trackers]'", name=package
        )


def identity(run_dir: Path, tracker: str, make: Callable[[], str]) -> str:
    """Return the run's identity in a tracker: as it was stored, else a new one, which is stored."""
    path = run_dir / IDENTITIES
    with _IDENTITIES:  # each tracker has a thread of its own
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if tracker not in known:
            known[tracker] = make()
            write_json(path, known)
        return str(known[tracker])
