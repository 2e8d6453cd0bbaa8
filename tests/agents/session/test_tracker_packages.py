"""The real packages, offline: a run, then the same run resumed, read back by their own means."""

import json
import os
import sqlite3
from pathlib import Path

import pytest
from command_line import python
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
    assert all("perf/steps_per_second" in json.loads(metrics) for _, metrics in found)


@pytest.mark.parametrize("chosen", [False, True], ids=["no_folder", "TRACKIO_DIR"])
def test_trackio_says_where_two_runs_of_one_process_are_stored(chosen, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    words = ["env=chain", "env.num_envs=2", "trainer.num_steps=8", "total_steps=32", "device=cpu"]
    words += ["intrinsic=[count]", "tracker=trackio", "eval_episodes=2", "seed=0,1"]
    folder = {"TRACKIO_DIR": str(tmp_path / "store")} if chosen else {}
    done = python("-m", "firstlight.scripts.train", "-m", *words, cwd=tmp_path, **folder)
    assert done.status == 0, done.err
    assert "switched off" not in done.err
    (database,) = tmp_path.rglob("firstlight*.db")
    first, second = sorted(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert database.parent == (tmp_path / "store" if chosen else first / "trackio")
    with sqlite3.connect(database) as connection:
        names = {name for (name,) in connection.execute("select distinct run_name from metrics")}
    assert names == {first.name, second.name}
    shown = f"{second.name} is stored in {first / 'trackio'}, that of the first run"
    warned = shown in done.out + done.err  # Hydra's logging prints
    assert warned == (not chosen)
