"""Trackio."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.agents.session.trackers.base import Tracker, identity, require


class TrackioTracker(Tracker):
    """Log to Trackio, which stores runs on this machine: by default in the run directory.

    ``TRACKIO_DIR=RUN/trackio trackio show`` shows it. If the environment variable ``TRACKIO_DIR``
    is set, runs are stored there, several of them beside each other.

    Args:
        project: of the run.
        name: of the run; default the name of its directory.
        options: shown as the run's config.

    Raises:
        ModuleNotFoundError: if the package trackio is not installed.
    """

    def __init__(
        self,
        *,
        project: str = "firstlight",
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        require("trackio")
        self.project, self.name, self.options = project, name, dict(options or {})
        self._run: Any = None

    def open(self, run_dir: Path, step: int) -> None:
        """Begin or continue the run, see `Tracker.open`."""
        os.environ.setdefault("TRACKIO_DIR", str(run_dir / "trackio"))  # read when it is imported
        import trackio

        name = identity(run_dir, "trackio", lambda: self.name or run_dir.name)
        self._run = trackio.init(
            project=self.project, name=name, config=self.options, resume="allow", embed=False
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store scalars, see `Tracker.log`."""
        self._run.log(dict(metrics), step=step)

    def close(self, status: str) -> None:
        """End the run, see `Tracker.close`."""
        self._run.finish()
