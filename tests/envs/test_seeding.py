"""Derived seeds never change, and parts and runs share none."""

import numpy as np
import pytest
import torch

from firstlight.envs.seeding import derive, derive_many, generator
from firstlight.envs.vector.gym import GymVec

NAMES = ("envs", "actions", "ppo", "envpool", "evaluation", "rnd", "networks")


@pytest.mark.parametrize(
    ("args", "seed"),
    [
        ((0, "envs"), 1566339044),
        ((1, "envs"), 1911278633),
        ((0, "envs", 1), 1492241499),
        ((0, "actions"), 1547811076),
        ((12345, "episode", 3, 7), 423706690),
        ((2**40 + 1, "envs"), 1732635244),
    ],
)
def test_seeds_equal_stored_values(args, seed):
    """Changed numbers would change every published run."""
    assert derive(*args) == seed


def test_derive_many_and_generator_equal_stored_values():
    assert derive_many(0, "envpool", 4).tolist() == [2080551290, 77878163, 191819117, 2069236232]
    numbers = torch.rand(2, generator=generator(0, "actions")).tolist()
    assert numbers == pytest.approx([0.6342501640319824, 0.7433026432991028], abs=1e-7)


def test_more_environments_do_not_change_the_seeds_of_the_first_ones():
    assert derive_many(5, "envpool", 256)[:64].tolist() == derive_many(5, "envpool", 64).tolist()
    assert derive_many(5, "envpool", 3, 1)[0] == derive(5, "envpool", 1)


def test_neighbouring_runs_share_no_environment_seed():
    seeds = np.concatenate([derive_many(run, "envpool", 256) for run in range(20)])
    assert len(set(seeds.tolist())) == 20 * 256


def test_neighbouring_runs_share_no_episode_seed():
    """Seeds differ for all pairs of run, environment and episode."""
    seeds = [
        derive(run, "episode", env, episode)
        for run in range(6)
        for env in range(12)
        for episode in range(12)
    ]
    assert len(set(seeds)) == 6 * 12 * 12


def test_seeds_depend_on_run_name_and_number():
    seeds = {derive(run, name, number) for run in range(4) for name in NAMES for number in range(4)}
    assert len(seeds) == 4 * len(NAMES) * 4
    assert derive(0, "episode", 1, 2) != derive(0, "episode", 2, 1)


def test_seeds_are_31_bits_and_cover_the_range():
    seeds = derive_many(3, "envpool", 10_000)
    assert seeds.dtype == np.int64
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    assert abs(seeds.mean() / 2**30 - 1) < 0.03  # and use the whole range
    np.random.default_rng(derive(3, "envs"))
    torch.Generator().manual_seed(derive(3, "envs"))


def test_generators_of_different_parts_are_independent():
    draws = [torch.randn(2000, generator=generator(run, name)) for run in (0, 1) for name in NAMES]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.12
    again = torch.randn(2000, generator=generator(0, NAMES[0]))
    assert torch.equal(again, draws[0])


def test_deriving_seeds_does_not_change_the_global_generators():
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    derive_many(0, "envs", 10)
    torch.rand(3, generator=generator(0, "envs"))
    assert torch.equal(torch.get_rng_state(), expected)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_gym_vec_resets_with_derived_seeds():
    import gymnasium

    seen = []

    class Recording(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(2)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            seen.append(seed)
            return 0, {}

    GymVec([Recording] * 3).reset(seed=11)
    assert seen == [derive(11, "episode", env, 0) for env in range(3)]
