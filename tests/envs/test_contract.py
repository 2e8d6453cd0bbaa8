"""`check_vec` passes for every backend, and fails for adapters that break one rule each."""

import functools

import pytest
import torch
from adapters import (
    Asserts,
    ChangesItsMode,
    IgnoresState,
    Joined,
    KeepsResetRow,
    PassingVec,
    ReusesBuffers,
    StepsBeforeChecking,
    Walk,
    WrapsActions,
    cartpole,
    doorkey,
    pendulum,
    pool,
    with_changed_steps,
)

from firstlight.envs import (
    Chain,
    CollectBall,
    Curling,
    DeepSea,
    GymVec,
    HardMaze,
    Isolated,
    RedundantArm,
    Walks,
    Warehouse,
    check_vec,
    minigrid,
)
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
    "deepsea": lambda: DeepSea(4, size=5),
    "deepsea, next-step": lambda: DeepSea(4, size=5, stochastic=True, autoreset="next_step"),
    "deepsea, coordinates": lambda: DeepSea(4, size=5, view="coordinates"),
    "walks": lambda: Walks(4, width=4, height=3, horizon=7, start=2, slip=0.3),
    "race": lambda: Race(3, horizon=11),
    "race, next-step": lambda: Race(3, horizon=11, autoreset="next_step"),
    "warehouse": lambda: Warehouse(3, max_steps=11),
    "warehouse, next-step": lambda: Warehouse(
        3, scene="complex_dynamic", max_steps=11, autoreset="next_step"
    ),
    "maze": lambda: HardMaze(3, max_steps=11),
    "maze, next-step": lambda: HardMaze(3, max_steps=11, autoreset="next_step"),
    "collect ball": lambda: CollectBall(3, max_steps=11),
    "arm": lambda: RedundantArm(3, max_steps=11),
    "arm, next-step": lambda: RedundantArm(3, max_steps=11, autoreset="next_step"),
    "curling": lambda: Curling(3, max_steps=11),
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
    "minigrid, native": doorkey_with(backend="native", full_grid=True, text=True),
    "minigrid, map of native": doorkey_with(backend="native", view="map"),
    "minigrid, map of envpool": doorkey_with(backend="envpool", view="map", text=True),
    "minigrid, whole grid in Python": doorkey_with(backend="python", view="full"),
    "array-backed": PassingVec,
    "array-backed, next-step": lambda: PassingVec("next-step"),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_passes_check_vec(name):
    check_vec(BACKENDS[name](), steps=40)


CHANGES = {
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
        (with_changed_steps(CHANGES["flags"]), "same-step", "both terminated and truncated"),
        (with_changed_steps(CHANGES["flags"]), "next-step", "both terminated and truncated"),
        (with_changed_steps(CHANGES["rewards"]), "next-step", "reward in a row that is not valid"),
        (with_changed_steps(CHANGES["first"]), "same-step", "is_first is not set"),
        (with_changed_steps(CHANGES["first"]), "next-step", "opens no episode"),
        (with_changed_steps(CHANGES["float64"]), "same-step", "reward is torch.float64"),
        (with_changed_steps(CHANGES["column"]), "same-step", "reward is .* of shape \\(4, 1\\)"),
        (with_changed_steps(CHANGES["missing"]), "same-step", "info has the fields"),
        (with_changed_steps(CHANGES["beyond"]), "same-step", "is outside 0..999"),
        (with_changed_steps(CHANGES["idle"]), "same-step", "not valid in the middle"),
        (ReusesBuffers, "same-step", "obs\\['time'\\] of step 0 changed later"),
        (KeepsResetRow, "next-step", "not valid in the middle"),
        (WrapsActions, "same-step", "too few is accepted"),
        (Asserts, "same-step", "too few raises AssertionError"),
        (StepsBeforeChecking, "same-step", "refused action changes info\\['sum'\\]"),
        (IgnoresState, "same-step", "load_state_dict gives another state"),
        (ChangesItsMode, "same-step", "same-step at some ends and next-step"),
    ],
)
def test_check_vec_names_the_rule_that_an_adapter_breaks(adapter, mode, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_vec(adapter(mode))


def test_check_vec_needs_an_episode_that_ends():
    with pytest.raises(ValueError, match="no episode ended in 5 steps"):
        check_vec(GymVec([cartpole] * 2), steps=5)


def test_a_deterministic_environment_may_ignore_its_seed_unless_random_is_set():
    check_vec(Chain(4, length=3))
    with pytest.raises(AssertionError, match="reset ignores its seed"):
        check_vec(Chain(4, length=3), random=True)
