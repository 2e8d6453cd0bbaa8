"""MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.agents.session.trackers.base import Tracker, identity, require

_ENDS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowTracker(Tracker):
    """Log to MLflow; by default into a database in the run directory, ``mlflow.db``.

    ``mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db`` shows it. A resumed run continues its
    run there.

    Args:
        uri: of the tracking server, or of a database; default that in the run directory.
        experiment: to which the run belongs.
        name: of the run; default the name of its directory.
        options: stored as ``config.json``.

    Raises:
        ModuleNotFoundError: if the package mlflow is not installed.
    """

    def __init__(
        self,
        *,
        uri: str | None = None,
        experiment: str = "firstlight",
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        require("mlflow")
        self.uri, self.experiment, self.name = uri, experiment, name
        self.options = dict(options or {})
        self._client: Any = None
        self._run = ""

    def open(self, run_dir: Path, step: int) -> None:
        """Begin or continue the run, see `Tracker.open`."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(self.uri or f"sqlite:///{run_dir / 'mlflow.db'}")
        self._run = identity(run_dir, "mlflow", lambda: self._create(run_dir))
        self._client.update_run(self._run, "RUNNING")
        self._client.log_dict(self._run, self.options, "config.json")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store scalars, see `Tracker.log`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1_000)
        self._client.log_batch(self._run, [Metric(tag, v, now, step) for tag, v in metrics.items()])

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Store a picture, see `Tracker.picture`."""
        self._client.log_image(self._run, pixels, f"pictures/step_{step}_{name}.png")

    def close(self, status: str) -> None:
        """End the run, see `Tracker.close`."""
        self._client.set_terminated(self._run, _ENDS[status])

    def _create(self, run_dir: Path) -> str:
        """Make a run, and its experiment if there is none. Returns the run's id."""
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            experiment = found.experiment_id
        else:
            own = (run_dir / "mlartifacts").as_uri() if self.uri is None else None
            experiment = self._client.create_experiment(self.experiment, own)
        return str(
            self._client.create_run(experiment, run_name=self.name or run_dir.name).info.run_id
        )
