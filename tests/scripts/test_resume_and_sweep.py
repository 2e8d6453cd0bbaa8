"""A used run directory: it is refused, resumed, or skipped by a sweep."""

import json

import pytest
from command_line import command, contents, metrics
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.scripts import train


def test_a_used_directory_is_refused_and_not_changed(run, words):
    before = contents(run.parent)
    done = command(train.main, *words, "run_dir=run")
    assert done.status == 2
    assert done.out == ""
    (line,) = done.lines()
    assert line.startswith("firstlight: run already holds a run")
    assert "resume=auto" in line
    assert contents(run.parent) == before


def test_resume_continues_from_the_checkpoint(run, words):
    before = metrics(run)
    done = command(train.main, *words, "run_dir=run", "resume=auto", "total_steps=64")
    assert done.status == 0, done.err
    after = metrics(run)
    assert after[:2] == before
    assert [line["step"] for line in after] == [16, 32, 48, 64]
    assert after[2]["rollout/episodes"] > before[1]["rollout/episodes"]
    assert after[2]["count/states"] >= before[1]["count/states"]
    assert json.loads((run / "status.json").read_text())["step"] == 64
    assert OmegaConf.load(run / "config.yaml").total_steps == 64
    board = EventAccumulator(str(run)).Reload()
    assert [e.step for e in board.Scalars("train/entropy")] == [16, 32, 48, 64]


def test_resume_of_a_finished_run_adds_nothing(run, words):
    before = metrics(run)
    assert command(train.main, *words, "run_dir=run", "resume=auto").status == 0
    assert metrics(run) == before


def test_resume_without_a_run_starts_one(empty, words):
    done = command(train.main, *words, "run_dir=run", "resume=auto")
    assert done.status == 0, done.err
    assert [line["step"] for line in metrics(empty / "run")] == [16, 32]


@pytest.mark.parametrize(
    ("changed", "reported"),
    [
        ("learner.lr=0.01", "learner.lr=0.0003 is now 0.01"),
        ("env.length=4", "env.length=3 is now 4"),
        ("seed=1", "seed=0 is now 1"),
        ("intrinsic=[]", "intrinsic.count._target_"),
        ("intrinsic.count.scope=episodic", "intrinsic.count.scope=global is now episodic"),
        ("mixer=sum", "mixer.combine._target_"),
    ],
)
def test_resume_with_other_options_is_refused_and_names_them(run, words, changed, reported):
    before = contents(run)
    done = command(train.main, *words, "run_dir=run", "resume=auto", "total_steps=64", changed)
    assert done.status == 2
    (line,) = done.lines()
    assert line.startswith("firstlight: run holds a run with other options: ")
    assert reported in line
    assert contents(run) == before


def test_a_sweep_makes_a_directory_each_and_skips_finished_runs(empty, small):
    done = command(train.main, "-m", *small, "seed=0,1")
    assert done.status == 0, done.err
    assert [path.name for path in empty.iterdir()] == ["runs"]
    runs = sorted(path for path in (empty / "runs").iterdir() if path.is_dir())
    assert [path.name.rpartition("-")[2] for path in runs] == ["s0", "s1"]
    assert {path.name for path in (empty / "runs").iterdir()} == {
        *(path.name for path in runs),
        "multirun.yaml",
    }
    parameters = [contents(path)["checkpoints/best/tensors.safetensors"] for path in runs]
    assert parameters[0] != parameters[1]
    before = [contents(path) for path in runs]
    again = command(train.main, "-m", *small, "seed=0,1,2")
    assert again.status == 0, again.err
    assert again.out.count("is finished already; skipped") == 2
    assert [contents(path) for path in runs] == before
    assert len([path for path in (empty / "runs").iterdir() if path.is_dir()]) == 3


def test_a_sweep_refuses_the_directory_of_another_run(run, words):
    done = command(train.main, "-m", *words, "run_dir=run", "seed=5,6")
    assert done.status == 2
    (line,) = done.lines()
    assert "run holds a run with other options: seed=0 is now 5" in line


def test_a_sweep_over_any_option_makes_a_directory_each(empty, small):
    done = command(train.main, "-m", *small, "learner.lr=1e-3,1e-4", "total_steps=16")
    assert done.status == 0, done.err
    rates = {
        OmegaConf.load(path / "config.yaml").learner.lr
        for path in (empty / "runs").iterdir()
        if path.is_dir()
    }
    assert rates == {1e-3, 1e-4}
