"""The package in ``docs/examples/`` trains, is evaluated and loaded as its page says."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import command, python

from firstlight.agents import ActorCritic, Trainer, load
from firstlight.envs import Chain
from firstlight.intrinsic import check_module
from firstlight.networks.spec import SpecError
from firstlight.scripts import evaluate, train

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "docs/examples/myproject"
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
SHOWN = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [shlex.split(line) for line in SHOWN.replace("\\\n", " ").splitlines()]
QUICK = ("device=cpu", "eval_episodes=4")


@pytest.fixture
def myproject(monkeypatch, tmp_path):
    """The package, imported; the current folder is empty."""
    monkeypatch.syspath_prepend(str(PROJECT))
    monkeypatch.chdir(tmp_path)
    yield __import__("myproject")
    for name in [name for name in sys.modules if name.partition(".")[0] == "myproject"]:
        del sys.modules[name]


def metrics(run):
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def check_own_parts(run):
    """Learner and module of a run are those of the package."""
    for line in metrics(run):
        assert line["train/a2c_updates"] == 1
        assert "train/approx_kl" not in line
        assert line["reward/distance/raw"] > 0
        assert "distance/mean_norm" in line


def test_the_page_shows_three_commands_on_one_screen():
    assert [words[0] for words in COMMANDS] == [
        "firstlight-train",
        "firstlight-evaluate",
        "firstlight-train",
    ]
    assert len(PAGE.splitlines()) <= 50


def test_its_first_command_trains_in_a_new_process(tmp_path):
    """With nothing but PYTHONPATH."""
    words = ("-m", "firstlight.scripts.train", *COMMANDS[0][1:], *QUICK, "total_steps=512")
    paths = f"{PROJECT}:{ROOT / 'src'}"
    done = python(*words, cwd=tmp_path, PYTHONPATH=paths)
    assert done.status == 0, done.err
    assert "an iteration takes 1 gradient step on" in done.err
    check_own_parts(tmp_path / "runs/mine")


def test_a_run_is_evaluated_resumed_and_loaded(myproject):
    words = (*COMMANDS[0][1:], *QUICK)
    done = command(train.main, *words, "total_steps=512")
    assert done.status == 0, done.err
    done = command(evaluate.main, *COMMANDS[1][1:])
    assert done.status == 0, done.err
    assert done.result()["episodes"] == 20
    refused = command(evaluate.main, *COMMANDS[1][1:-1])
    assert refused.status == 2
    assert "allow=[myproject]" in refused.err
    with pytest.raises(SpecError, match="myproject"):
        load("runs/mine")
    agent = load("runs/mine", allow=["myproject"])
    assert type(agent.policy.encoder) is myproject.Gated
    cells = agent.obs_space["obs"].shape[0]
    action, _ = agent.act(np.eye(cells, dtype=np.uint8)[0])
    assert agent.act_space.contains(int(action))
    done = command(train.main, *words, "total_steps=1024", "resume=auto")
    assert done.status == 0, done.err
    assert [line["step"] for line in metrics("runs/mine")] == [256, 512, 768, 1024]
    check_own_parts("runs/mine")


def test_it_trains_by_import_paths_alone(myproject):
    small = ("env.num_envs=2", "trainer.num_steps=8", "total_steps=32", "run_dir=run")
    done = command(train.main, *COMMANDS[2][1:], *QUICK, *small)
    assert done.status == 0, done.err
    check_own_parts("run")


def test_its_module_passes_check_module(myproject):
    check_module(myproject.Distance(Chain().obs_space))


def test_its_learner_solves_a_chain(myproject):
    vec = Chain(16, length=5)
    torch.manual_seed(0)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=myproject.Gated(vec.obs_space))
    share: list[float] = []

    def record(run, _):
        share.append(run.data.rollout.reward.mean().item())

    Trainer(vec, myproject.A2C(policy, lr=3e-3), num_steps=16).run(20_000, [record])
    assert sum(share[-5:]) > 1.5 * sum(share[:5])
