"""A run's config gives no rights to a reward program: only the command line that evaluates does."""

import sys

import pytest
from command_line import command
from omegaconf import OmegaConf

from firstlight.scripts import evaluate, train
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.programs.saved_agents import describe_failed_episodes
from firstlight.scripts.saved_run import read_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

PROGRAM = """
import numpy as np
RANGES = {"step": (-1, 0)}
FEATURES = {"place": (1, 0, 9, 0)}
def reward(obs, action, next_obs, info, memory):
    return {"step": -0.01}
def features(obs, info, memory):
    return {"place": info["position"]}
"""
WRITES = """
def features(obs, info, memory):
    open("escaped", "w").write("x")
    return {"place": info["position"]}
def reward(obs, action, next_obs, info, memory):
    open("escaped", "w").write("x")
    return {"step": 0}
"""


@pytest.fixture
def trained(empty, small):
    """A run with features, whose config trusts a program that was changed afterwards."""
    (empty / "program.py").write_text(PROGRAM)
    words = ["intrinsic=[program]", "intrinsic.program.file=program.py", "run_dir=run"]
    done = command(train.main, *small, *words, "intrinsic.program.trusted=true")
    assert done.status == 0, done.err
    assert "trusted: true" in (empty / "run" / "config.yaml").read_text()
    return empty


def test_no_way_of_evaluating_runs_a_program_with_the_rights_of_the_runs_config(trained):
    (trained / "program.py").write_text(PROGRAM)
    done = command(evaluate.main, "run=run", "episodes=2")
    assert done.status == 0, done.err
    assert "programs=sandboxed runs the program" in done.out
    for rights in ("sandboxed", "trusted"):
        again = command(evaluate.main, "run=run", "episodes=2", f"programs={rights}")
        assert again.status == 0, again.err
        assert "programs=sandboxed" not in again.out
    # the lint refuses such a program, so that it must be one that the lint does not know of
    path = trained / "program.py"
    path.write_text(PROGRAM + WRITES.replace('open("', 'np.lib.format.open_memmap("'))
    assert command(evaluate.main, "run=run", "episodes=2").status != 0
    done = command(evaluate.main, "run=run", "video=true", "rewards=true", "episodes=1")
    assert done.status == 2
    assert not (trained / "escaped").exists()


def test_rewards_of_a_video_need_the_right_to_run_the_program(trained):
    words = ("run=run", "video=true", "rewards=true", "episodes=1")
    done = command(evaluate.main, *words)
    assert done.status == 2
    assert "programs=sandboxed allows it" in done.err
    done = command(evaluate.main, *words, "programs=sandboxed")
    assert done.status == 0, done.err
    assert command(evaluate.main, "run=run", "programs=yes").status == 2


def test_rights_in_a_config_are_replaced_and_what_runs_code_is_refused(run):
    path = run / "config.yaml"
    config = OmegaConf.load(path)
    target = "firstlight.intrinsic.ProgramReward"
    program = {"_target_": target, "source": "x", "trusted": True, "allow_unsandboxed": True}
    config.intrinsic = {"program": program, "inside": {"_target_": target, "list": [program]}}
    OmegaConf.save(config, path)
    for programs, may_run, trusted in (
        ("never", False, False),
        ("sandboxed", True, False),
        ("trusted", True, True),
    ):
        read = read_config(run, (), programs).intrinsic
        for node in (read.program, read.inside, read.inside.list[0]):
            assert (node.may_run, node.trusted) == (may_run, trusted)
            assert node.allow_unsandboxed is False
    source = "open('escaped', 'w')"
    for name in ("sandbox_worker.define", "execution.InProcess", "program.RewardProgram"):
        target = f"firstlight.intrinsic.design.{name}"
        config.intrinsic = {"program": {"_target_": target, "source": source, "entry": "reward"}}
        OmegaConf.save(config, path)
        with pytest.raises(BadInputError, match="which only Python may use"):
            read_config(run, (), "trusted")
        assert command(evaluate.main, "run=run", "episodes=1").status == 2
    assert not (run.parent / "escaped").exists()


def test_failed_episodes_of_a_run_with_features_are_described(trained):
    texts = describe_failed_episodes(trained / "run")
    assert texts
    assert all(text.startswith("Episode of ") and "program_place" in text for text in texts)


def test_a_run_goes_on_with_its_program_in_another_place_but_not_with_another_one(trained, small):
    (trained / "program.py").rename(trained / "moved.py")
    words = ["intrinsic=[program]", "intrinsic.program.file=moved.py", "run_dir=run", "resume=auto"]
    words += [*small, "total_steps=64", "intrinsic.program.trusted=true"]
    done = command(train.main, *words)
    assert done.status == 0, done.err
    (trained / "moved.py").write_text(PROGRAM.replace("-0.01", "-0.02"))
    done = command(train.main, *words, "total_steps=96")
    assert done.status != 0
    assert "it was changed" in done.err
