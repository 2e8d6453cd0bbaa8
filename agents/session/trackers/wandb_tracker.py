"""Weights & Biases."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.agents.session.trackers.base import Tracker, identity, require


class WandbTracker(Tracker):
    """Log to Weights & Biases; offline by default, into the run directory.

    ``wandb sync RUN/wandb/offline-run-*`` uploads such a run. A resumed run continues under its id.
    The axis of all charts is `step`, environment steps.

    Args:
        project: of the run.
        mode: "offline", or "online" to upload while training, after ``wandb login``.
        entity: user or team; default that of the login.
        name: of the run; default the name of its directory.
        options: shown as the run's config.

    Raises:
        ModuleNotFoundError: if the package wandb is not installed.
    """

    def __init__(
        self,
        *,
        project: str = "firstlight",
        mode: str = "offline",
        entity: str | None = None,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        require("wandb")
        self.project, self.mode, self.entity, self.name = project, mode, entity, name
        self.options = dict(options or {})
        self._run: Any = None

    def open(self, run_dir: Path, step: int) -> None:
        """Begin or continue the run, see `Tracker.open`."""
        import wandb

        mode: Any = self.mode
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or run_dir.name,
            id=identity(run_dir, "wandb", lambda: uuid.uuid4().hex[:8]),
            resume="allow",
            dir=str(run_dir),
            mode=mode,
            config=self.options,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store scalars, see `Tracker.log`."""
        self._run.log({"step": step, **metrics})

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Store a picture, see `Tracker.picture`."""
        import wandb

        self._run.log({"step": step, f"pictures/{name}": wandb.Image(pixels)})

    def close(self, status: str) -> None:
        """End the run, see `Tracker.close`."""
        self._run.finish(exit_code=int(status != "finished"))
