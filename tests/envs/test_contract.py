"""Every backend keeps the contract of `VecEnv`; adapters that break it are found out.

What "rows" and names in docstrings mean is said in `test_complaints.py`.
"""

import functools

import pytest
import torch
from adapters import (
    Asserts,
    ChangesItsMode,
    ForgetsToForget,
    Joined,
    Lawful,
    LosesItsPlace,
    MovesBeforeItLooks,
    ReusesBuffers,
    Walk,
    WrapsActions,
    cartpole,
    doorkey,
    pendulum,
    pool,
    spoilt,
)

from firstlight.envs import Chain, GymVec, Isolated, Walks, check_vec, minigrid
from firstlight.envs.vector.envpool import make
from firstlight.envs.worlds.race import Race

LENGTHS = (2, 3, 5, 8)


def doorkey_with(**options):
    return functools.partial(
        minigrid.make, "MiniGrid-DoorKey-5x5-v0", num_envs=3, max_steps=11, **options
    )


BACKENDS = {
    "chain": lambda: Chain(5, length=3, horizon=5),
    "chain, next-step": lambda: Chain(5, length=3, horizon=5, autoreset="next_step"),
    "walks": lambda: Walks(4, width=4, height=3, horizon=7, start=2, slip=0.3),
    "race": lambda: Race(3, horizon=11),
    "race, next-step": lambda: Race(3, horizon=11, autoreset="next_step"),
    "gym": lambda: GymVec([cartpole] * 3),
    "gym, in processes": lambda: GymVec([cartpole] * 2, asynchronous=True),
    "gym, nested": lambda: GymVec([Walk] * 3),
    "gym, nested, in processes": lambda: GymVec([Walk] * 2, asynchronous=True),
    "gym, ends at different times": lambda: GymVec([functools.partial(Walk, n) for n in LENGTHS]),
    "gym, time limit only": lambda: GymVec([pendulum] * 3),
    "gym, MiniGrid": lambda: GymVec([doorkey] * 3),
    "gym, a user's next-step adapter": lambda: Joined([cartpole, cartpole], "next-step"),
    "envpool, MiniGrid": pool("MiniGrid-DoorKey-5x5-v0"),
    "envpool, BabyAI": pool("BabyAI-GoToRedBall-v0"),
    "envpool, classic control": pool("CartPole-v1"),
    "envpool, Atari": pool("Pong-v5", num_envs=2),
    "envpool, MuJoCo": pool("Ant-v4"),
    "envpool, dm_control": pool("CartpoleSwingup-v1"),
    "isolated chain": lambda: Isolated(functools.partial(Chain, 3, length=3)),
    "isolated envpool": lambda: make(
        "CartPole-v1", num_envs=3, isolated=True, max_episode_steps=12
    ),
    "minigrid, our own world": doorkey_with(backend="native", full_grid=True, text=True),
    "minigrid, map of our own world": doorkey_with(backend="native", view="map"),
    "minigrid, map of envpool": doorkey_with(backend="envpool", view="map", text=True),
    "minigrid, whole grid in Python": doorkey_with(backend="python", view="full"),
    "lawful": Lawful,
    "lawful, next-step": lambda: Lawful("next-step"),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_keeps_the_contract(name):
    """Rows 1 to 3 and 6 to 9, Gymnasium, EnvPool, MiniGrid: `check_vec` asks for all of it."""
    check_vec(BACKENDS[name](), steps=40)


SAID = {
    "flags": lambda vec, step: {"truncated": step.truncated | step.terminated},
    "rewards": lambda vec, step: {"reward": torch.ones(4)},
    "first": lambda vec, step: {"is_first": torch.zeros(4, dtype=torch.bool)},
    "float64": lambda vec, step: {"reward": step.reward.double()},
    "column": lambda vec, step: {"reward": step.reward[:, None]},
    "missing": lambda vec, step: {"info": {}},
    "beyond": lambda vec, step: {"obs": step.obs | {"level": step.obs["level"] + 1000}},
    "idle": lambda vec, step: {"valid": torch.zeros(4, dtype=torch.bool)},
}


@pytest.mark.parametrize(
    ("adapter", "mode", "sentence"),
    [
        (spoilt(SAID["flags"]), "same-step", "both terminated and truncated"),
        (spoilt(SAID["flags"]), "next-step", "both terminated and truncated"),
        (spoilt(SAID["rewards"]), "next-step", "reward in a row that is not valid"),
        (spoilt(SAID["first"]), "same-step", "obs is not said to open an episode"),
        (spoilt(SAID["first"]), "next-step", "opens no episode"),
        (spoilt(SAID["float64"]), "same-step", "reward is torch.float64"),
        (spoilt(SAID["column"]), "same-step", "reward is .* of shape \\(4, 1\\)"),
        (spoilt(SAID["missing"]), "same-step", "info has the fields"),
        (spoilt(SAID["beyond"]), "same-step", "leaves 0..999"),
        (spoilt(SAID["idle"]), "same-step", "not valid in the middle"),
        (ReusesBuffers, "same-step", "obs\\['time'\\] of answer 0 changed later"),
        (ForgetsToForget, "next-step", "not valid in the middle"),
        (WrapsActions, "same-step", "too few is taken"),
        (Asserts, "same-step", "too few raises AssertionError"),
        (MovesBeforeItLooks, "same-step", "leaves a trace in info\\['sum'\\]"),
        (LosesItsPlace, "same-step", "load_state_dict goes somewhere else"),
        (ChangesItsMode, "same-step", "now same-step, now next-step"),
    ],
)
def test_a_broken_adapter_is_found_out(adapter, mode, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_vec(adapter(mode))


def test_what_never_ends_is_not_said_to_be_right():
    with pytest.raises(ValueError, match="no episode ended in 5 steps"):
        check_vec(GymVec([cartpole] * 2), steps=5)


def test_a_deterministic_environment_need_not_heed_its_seed_unless_one_says_so():
    check_vec(Chain(4, length=3))
    with pytest.raises(AssertionError, match="reset ignores its seed"):
        check_vec(Chain(4, length=3), random=True)
