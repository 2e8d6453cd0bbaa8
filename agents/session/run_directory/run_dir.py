"""The directory of a run: metrics, pictures, checkpoints and status."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.metrics_writer import MetricsWriter
from firstlight.agents.session.run_directory.run_lock import HOLDER, LOCK, RunLock
from firstlight.agents.session.run_directory.status import write_status
from firstlight.agents.session.trackers.background import BackgroundTracker
from firstlight.agents.session.trackers.base import Tracker
from firstlight.envs.files import replacing

log = logging.getLogger(__name__)

KEEP = {"config.yaml", LOCK, HOLDER}
"""Files that may lie in a run directory before the run begins."""


class RunDirectory:
    """Writes every file of a run; no other process can until `close`.

    Args:
        path: made if missing.
        resume: continue in a directory that holds a run; without it a used directory is refused.

    Raises:
        FileExistsError: if the directory is in use and `resume` is False.
        RunLockedError: if another process writes into it.
    """

    def __init__(self, path: str | Path, *, resume: bool = False):
        self.path = Path(path).absolute()  # the process may change folder
        self.path.mkdir(parents=True, exist_ok=True)
        self.checkpoints = self.path / "checkpoints"
        self._lock = RunLock(self.path)
        self._lock.acquire()
        used = self.in_use(self.path)
        if used and not resume:
            self._lock.release()
            raise FileExistsError(
                f"{path} already holds a run: give another run_dir, or continue by resume=auto"
            )
        newest = checkpoint.newest(self.checkpoints) if used else None
        self._restored: dict[str, Any] | None = checkpoint.load(newest) if newest else None
        steps = None if self._restored is None else int(self._restored["steps"])
        self._purge = 0 if used and steps is None else steps
        self._written = 0
        self._writer: MetricsWriter | None = None
        self._trackers: list[BackgroundTracker] = []
        self._status = "interrupted"

    def track(self, tracker: Tracker) -> None:
        """Let a tracker receive metrics and pictures as well; before the run begins."""
        self._trackers.append(BackgroundTracker(tracker))

    @staticmethod
    def in_use(path: Path) -> bool:
        """Whether the folder holds files of a run."""
        return path.is_dir() and any(p.name not in KEEP for p in path.iterdir())

    def take_restored(self) -> dict[str, Any] | None:
        """Return the state of the checkpoint to resume from, once; None if there is none."""
        state, self._restored = self._restored, None
        return state

    def open(self) -> None:
        """Open the metrics files; drop lines about steps after the checkpoint."""
        self._lock.acquire()
        if self._writer is None:
            self._writer = MetricsWriter(self.path, purge_step=self._purge)
            for tracker in self._trackers:
                tracker.open(self.path, self._written if self._purge is None else self._purge)
            self._purge = None  # the next part continues where this one ends

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Write one line of metrics.jsonl and the same TensorBoard scalars."""
        self.open()
        assert self._writer is not None
        self._writer.write(step, metrics)
        self._written = step
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write `pixels` [H, W, 3] uint8 as ``pictures/step_N_NAME.png`` and to TensorBoard."""
        self.open()
        assert self._writer is not None
        name = name.replace("/", "-")
        self._writer.image(step, f"pictures/{name}", pixels)
        for tracker in self._trackers:
            tracker.picture(step, name, pixels)
        path = self.path / "pictures" / f"step_{step}_{name}.png"
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                Image.fromarray(pixels).save(temporary, format="PNG", optimize=True)
        except OSError as error:
            log.warning("no picture at step %s: %s", f"{step:,}", error)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write a checkpoint."""
        return checkpoint.save(self.checkpoints, state, step)

    def save_best(self, state: dict[str, Any], step: int, return_mean: float) -> Path:
        """Write the checkpoint of the best evaluation so far."""
        return checkpoint.save_best(self.checkpoints, {**state, "return_mean": return_mean}, step)

    def best_return(self) -> float:
        """Return the best evaluation's mean return, also from before a resume; -inf without one."""
        path, nothing = checkpoint.best(self.checkpoints), float("-inf")
        return nothing if path is None else checkpoint.load(path).get("return_mean", nothing)

    def status(self, status: str, step: int, error: str | None, resume: str) -> None:
        """Write `status.json`; a full disk leaves the old one."""
        self._status = status
        try:
            write_status(self.path, status, step, error, resume)
        except OSError as failure:
            log.warning("status.json was not updated to %r: %s", status, failure)

    def close(self) -> None:
        """Write buffered metrics, close the files and release the lock of the directory."""
        if self._writer is not None:
            self._writer.close()
        for tracker in self._trackers:
            tracker.close(self._status)
        self._writer = None
        self._lock.release()
