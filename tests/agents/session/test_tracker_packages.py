"""The real packages, offline: a run, then the same run resumed, read back by their own means."""

import os
import sqlite3
from pathlib import Path

import pytest
from small_trainer import N, T, make_trainer

from firstlight.agents.session.trackers import MlflowTracker, TrackioTracker, WandbTracker


def train_twice(run_dir: Path, tracker, caplog):
    """Train, then resume and go on. Returns the steps at which metrics were logged."""
    steps = []
    for resume in (False, True):
        trainer = make_trainer(run_dir=run_dir, resume=resume)
        trainer.session.directory.track(tracker(options={"learner": {"lr": 0.5}}))
        trainer.run((2 + 2 * resume) * N * T, [lambda session, _: steps.append(session.steps)])
    assert [r.getMessage() for r in caplog.records if "switched off" in r.getMessage()] == []
    return steps


def test_wandb(tmp_path, caplog):
    wandb = pytest.importorskip("wandb")
    train_twice(tmp_path / "run", WandbTracker, caplog)
    logs = sorted((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2
    assert len({log.stem for log in logs}) == 1  # one run
    assert all(b"rollout/episodes" in log.read_bytes() for log in logs)
    assert wandb.run is None


def test_mlflow(tmp_path, caplog):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    steps = train_twice(tmp_path / "run", MlflowTracker, caplog)
    client = MlflowClient(f"sqlite:///{tmp_path / 'run/mlflow.db'}")
    experiment = client.get_experiment_by_name("firstlight")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "perf/steps_per_second")
    assert sorted(metric.step for metric in history) == steps
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["config.json"]


def test_trackio(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio")
    train_twice(tmp_path / "run", TrackioTracker, caplog)
    (database,) = Path(os.environ["TRACKIO_DIR"]).rglob("firstlight*.db")
    with sqlite3.connect(database) as connection:
        found = list(connection.execute("select step, metrics from metrics order by step"))
    assert len(found) == 4
    assert all("perf/steps_per_second" in metrics for _, metrics in found)
