"""Commands with faulty environments: unknown ids, seeds that reach everything, jobs of a sweep."""

import re
import sys

import gymnasium
import pytest
from command_line import command, metrics

from firstlight.envs.vector import registered
from firstlight.scripts import errors, train

SHORT = ("total_steps=64", "trainer.num_steps=8", "eval_episodes=4", "env.num_envs=2")
SHORT += ("learner.num_epochs=1", "device=cpu")

MODULE = """
import random
import gymnasium
import numpy as np
from gymnasium import spaces

class Draws(gymnasium.Env):
    observation_space = spaces.Box(-1, 2, (3,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.draw(), {}

    def step(self, action):
        self.time += 1
        return self.draw(), 0.0, self.time == 5, False, {}

    def draw(self):
        return np.array([*np.random.rand(2), random.random()])

class Fails(Draws):
    def step(self, action):
        raise OSError("no such luck")
"""


@pytest.fixture
def module(empty, monkeypatch):
    (empty / "draws.py").write_text(MODULE)
    monkeypatch.syspath_prepend(empty)
    return "draws"


@pytest.mark.parametrize(
    ("id", "parts"),
    [
        ("ALE/Pong-v5", ["pip install ale-py", "env.id=ale_py:ALE/Pong-v5"]),
        ("CartPole-v9", ["did you mean 'CartPole-v1'"]),
        ("CartPole", ["did you mean 'CartPole-v1'"]),
        ("HalfCheetah-v1", ["use `HalfCheetah-v5` instead"]),
        ("nomodule:Foo-v0", ["cannot import 'nomodule'", "PYTHONPATH"]),
        ("minigrid:BabyAI-GoToObjX-v0", ["'minigrid:BabyAI-GoToObj-v0'"]),
        ("Qqqqqq-v0", ["env.id=module:Name-v0"]),
    ],
)
def test_an_unknown_id_has_a_way_out(id, parts, empty):
    done = command(train.main, f"env={'pool' if id == 'CartPole' else 'gym'}", f"env.id={id}")
    assert done.status == 2
    (line,) = done.lines()
    for part in parts:
        assert part in line
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("id", "package"),
    [("BabyAI-GoToObj-v0", "minigrid"), ("ALE/Pong-v5", "ale_py"), ("MiniHack-Eat-v0", "minihack")],
)
def test_packages_are_known_by_their_ids(id, package):
    found = [name for name, start in registered.PROVIDERS.items() if re.match(start, id)]
    assert found == [package]


def test_a_package_that_registers_an_id_is_named(empty, monkeypatch):
    (empty / "own_worlds.py").write_text(
        "import gymnasium\ngymnasium.register('OwnWorld-Room-v0', 'own_worlds:Room')\n"
    )
    monkeypatch.syspath_prepend(empty)
    monkeypatch.setattr(registered, "PROVIDERS", {"own_worlds": "OwnWorld"})
    try:
        done = command(train.main, "env=gym", "env.id=OwnWorld-Room-v0")
        assert done.status == 2
        assert "own_worlds registers it: give env.id=own_worlds:OwnWorld-Room-v0" in done.err
        del gymnasium.registry["OwnWorld-Room-v0"], sys.modules["own_worlds"]
        done = command(train.main, "env=gym", "env.id=OwnWorld-Rom-v0")
        assert "did you mean 'own_worlds:OwnWorld-Room-v0'?" in done.err
    finally:
        del gymnasium.registry["OwnWorld-Room-v0"]


def test_a_missing_package_is_one_line(empty):
    done = command(train.main, "env=gym", "env.id=LunarLander-v3")
    assert done.status == 2
    (line,) = (line for line in done.lines() if not line.startswith(" "))
    assert "pip install" in line


def test_one_seed_gives_one_run_even_of_global_generators(module, empty):
    words = (*SHORT, f"env._target_={module}.Draws", "eval_every=32")
    found = {}
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = command(train.main, *words, f"seed={seed}", f"run_dir={run}")
        assert done.status == 0, done.err
        rows = metrics(empty / run)
        found[run] = [{k: v for k, v in row.items() if "loss" in k} for row in rows]
        assert all(found[run])
    assert found["a"] == found["b"]
    assert found["a"] != found["c"]


def test_an_environment_that_ignores_its_seed_is_named_once(module, empty):
    done = command(
        train.main, *SHORT, f"env._target_={module}.Draws", "eval_every=16", "run_dir=run"
    )
    assert done.status == 0
    told = done.out + done.err
    assert told.count("the environments ignore their seed: the observation 'obs'") == 1
    lawful = ("env=gym", "env.id=CartPole-v1", "eval_every=16", "run_dir=other")
    done = command(train.main, *SHORT, *lawful)
    assert "ignore" not in done.out + done.err


def test_the_next_job_of_a_sweep_goes_on(module, empty):
    done = command(
        train.main,
        *SHORT,
        f"env._target_={module}.Fails,{module}.Draws",
        "eval_every=null",
        "hydra.sweep.dir=sweep",
        "--multirun",
    )
    assert done.status == 2
    assert "Traceback" not in done.err
    assert "raised OSError: no such luck (in step" in done.lines()[-1]
    statuses = sorted(path.read_text() for path in empty.rglob("status.json"))
    assert ['"failed"' in text for text in statuses].count(True) == 1
    assert ['"finished"' in text for text in statuses].count(True) == 1


def test_the_whole_traceback_can_be_asked_for(module, empty, monkeypatch):
    words = (*SHORT, f"env._target_={module}.Fails", "run_dir=run")
    monkeypatch.setattr(errors, "_print_tracebacks", True)
    done = command(train.main, *words)
    assert done.status == 2
    assert "Traceback" in done.err
    assert "envs/runner.py" in done.err
    assert done.lines()[-1].startswith("firstlight: environment 0 (draws.Fails) raised OSError")
