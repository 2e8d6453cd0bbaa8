"""Trackio."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from firstlight.agents.session.trackers.base import Tracker, identity, require

log = logging.getLogger(__name__)


class TrackioTracker(Tracker):
    """Log to Trackio, which stores runs on this machine: by default in the run directory.

    ``TRACKIO_DIR=RUN/trackio trackio show`` shows it. If the environment variable ``TRACKIO_DIR``
    is set, runs are stored there, several of them beside each other. Without it further runs of one
    process are stored with the first, as Trackio reads the variable once; a warning says where.

    Args:
        project: of the run.
        name: of the run; default the name of its directory.
        options: shown as the run's config.

    Raises:
        ModuleNotFoundError: if the package trackio is not installed.
    """

    _first: ClassVar[str | None] = None  # folder of the process's first run

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
        own = str(run_dir / "trackio")
        if "TRACKIO_DIR" not in os.environ:
            os.environ["TRACKIO_DIR"] = TrackioTracker._first = own  # read when it is imported
        elif os.environ["TRACKIO_DIR"] == TrackioTracker._first != own:
            log.warning(
                "Trackio has one folder in a process: %s is stored in %s, that of the first run; "
                "the environment variable TRACKIO_DIR names a folder for all of them",
                run_dir.name,
                TrackioTracker._first,
            )
        import trackio

        name = identity(run_dir, "trackio", lambda: self.name or run_dir.name)
        self._run = trackio.init(
            project=self.project,
            name=name,
            config=self.options,
            resume="allow",
            embed=False,
            auto_log_cpu=False,  # the files have no such metrics
            auto_log_gpu=False,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store scalars, see `Tracker.log`."""
        self._run.log(dict(metrics), step=step)

    def close(self, status: str) -> None:
        """End the run, see `Tracker.close`."""
        self._run.finish()
