"""Known traps of vector environments, each with an adapter that steps into it and is found out.

"Row n" in a docstring is the n-th complaint of the project's ecosystem study, Part 2; "Gymnasium",
"EnvPool" and "MiniGrid" are the paragraphs of its Part 3.
"""

import dataclasses
import functools
import os
import signal
import time
from pathlib import Path

import envpool
import gymnasium
import numpy as np
import pytest
import torch
from adapters import (
    NO_IDS,
    DrawsEntropy,
    IgnoresSeed,
    Walk,
    cartpole,
    envpool_vector,
    obs_of_the_next_episode,
    pool,
    vector,
    with_changed_steps,
)
from gymnasium.vector import AutoresetMode

from firstlight.envs import Chain, GymVec, Isolated, check_vec
from firstlight.envs.types import take
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.errors import BadInputError


class Filler(EnvPoolVec):
    """Takes the row in which EnvPool resets itself for experience."""

    def recv(self):
        return dataclasses.replace(super().recv(), valid=torch.ones(3, dtype=torch.bool))


def test_a_filler_row_taken_for_experience():
    """Row 1: EnvPool's PPO trained across episode boundaries."""
    vec = Filler("CartPole-v1", num_envs=3, num_threads=1, max_episode_steps=9)
    with pytest.raises(AssertionError, match="a valid row after its end"):
        check_vec(vec)


class LastIsFirst(EnvPoolVec):
    """Says same-step of EnvPool: its last observation is handed on as the next episode's first."""

    def recv(self):
        step = super().recv()
        ended = step.terminated | step.truncated
        ids = ended.nonzero()[:, 0]
        final = {"final_obs": take(step.obs, ids), "final_info": take(step.info, ids)}
        valid = torch.ones(3, dtype=torch.bool)
        return dataclasses.replace(step, valid=valid, is_first=ended, final_ids=ids, **final)


class FirstIsLast(GymVec):
    """Forgets what Gymnasium keeps in final_obs."""

    def step(self, action):
        step = super().step(action)
        return dataclasses.replace(step, final_obs=take(step.obs, step.final_ids))


class NoLast(GymVec):
    def step(self, action):
        step = super().step(action)
        none = {f: take(getattr(step, f), NO_IDS) for f in ("final_obs", "final_info")}
        return dataclasses.replace(step, final_ids=NO_IDS, **none)


def test_a_terminal_observation_that_is_missing():
    """Row 2: autoreset differs from backend to backend, the terminal observation is lost."""
    pool = LastIsFirst("CartPole-v1", num_envs=3, num_threads=1, max_episode_steps=9)
    for vec in (
        pool,
        FirstIsLast([cartpole] * 3),
        with_changed_steps(obs_of_the_next_episode)("next-step"),
    ):
        with pytest.raises(AssertionError, match="last observations are the first ones"):
            check_vec(vec)
    with pytest.raises(AssertionError, match="hides its last observation"):
        check_vec(NoLast([cartpole] * 3))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_vector_of_gymnasium_is_refused(mode):
    """Row 4: Gymnasium 1.0 changed autoreset silently; so no vector resets itself for us."""
    for made in (lambda: vector(mode), lambda: GymVec([functools.partial(vector, mode)])):
        with pytest.raises(ValueError, match="a function that makes one"):
            GymVec(made())
    with pytest.raises(ValueError, match=r"not a .*CartPole.*envs\.vector\.envpool"):
        GymVec([envpool_vector])


@pytest.mark.parametrize("name", ["vector", "envpool_vector"])
def test_a_vector_of_gymnasium_is_refused_under_its_import_path(name):
    """Row 4; EnvPool's are vectors and single environments at once."""
    with pytest.raises(BadInputError, match=f"adapters.{name} made a .*expected one Gymnasium env"):
        make_vec({"_target_": f"adapters.{name}"})


def test_gymnasium_s_two_modes_are_as_our_page_says():
    """Row 5: an official post had the two modes swapped."""
    still = np.zeros(2, np.int64)
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        vec = vector(mode)
        vec.reset(seed=0)
        for _ in range(4):
            obs, _, _, truncated, info = vec.step(still)
        assert truncated.all()
        if mode is AutoresetMode.SAME_STEP:
            assert not np.array_equal(obs, np.stack(info["final_obs"]))
        else:
            assert "final_obs" not in info
            first, reward, _, truncated, _ = vec.step(still)
            assert not np.array_equal(obs, first)
            assert not truncated.any()
            assert reward.tolist() == [0, 0]
    page = (Path(__file__).parents[3] / "docs/environments.md").read_text()
    assert "**next-step**: the call after an end ignores its action" in page
    assert (
        "**same-step**: the call that ends an episode returns the first observation of the next one"
        in page
    )


SHORT = {
    "here": lambda: GymVec([cartpole] * 2),
    "in processes": lambda: GymVec([cartpole] * 2, asynchronous=True),
    "envpool": pool("CartPole-v1"),
    "isolated": lambda: Isolated(pool("CartPole-v1")),
    "chain": Chain,
}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_batch_is_refused_at_once(name):
    """Row 6: with fewer actions than environments, `step` never returned."""
    vec = SHORT[name]()
    vec.reset(0)
    with pytest.raises(ValueError, match=f"{vec.num_envs} environments take actions of shape"):
        vec.step(torch.zeros(vec.num_envs - 1, dtype=torch.int64))
    assert vec.step(torch.zeros(vec.num_envs, dtype=torch.int64)).valid.all()
    vec.close()


class Deaf(Walk):
    """Does not hand its seed on."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class Preset(Walk):
    """Has seeds of its own, which outrank the one given."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes = 0 if self.episodes > 5 else self.episodes + 1
        return super().reset(seed=self.episodes)


class Dropping(gymnasium.Wrapper):
    def reset(self, **ignored):
        return self.env.reset()


def test_an_environment_that_ignores_its_seed():
    """Row 7: NLE's `reset(seed)` was not applied."""
    for vec in (GymVec([Deaf] * 2), DrawsEntropy()):
        with pytest.raises(
            AssertionError, match="equal seeds and actions give different trajectories"
        ):
            check_vec(vec)


def test_seeds_of_one_s_own_that_outrank_the_one_given():
    """Row 8: MiniHack's `seeds` override `seed()`."""
    with pytest.raises(AssertionError, match="reset ignores its seed"):
        check_vec(IgnoresSeed())
    with pytest.raises(AssertionError, match=r"different trajectories|ignores its seed"):
        check_vec(GymVec([Preset] * 2))


def test_a_wrapper_that_drops_the_seed():
    """Row 9: a wrapper of MiniGrid's did."""
    with pytest.raises(AssertionError, match="equal seeds and actions give different trajectories"):
        check_vec(GymVec([lambda: Dropping(Walk())] * 2))


def test_a_mode_that_the_class_of_an_environment_claims_is_not_believed():
    """Gymnasium: one vector with SAME_STEP, and the class itself says so."""
    vector(AutoresetMode.SAME_STEP)
    check_vec(GymVec([cartpole] * 2), steps=40)


def test_a_worker_that_was_killed_does_not_hang_what_comes_after():
    """Gymnasium: after a SIGKILL `step` and `close` both raise a bare BrokenPipeError."""
    vec = GymVec([cartpole] * 2, asynchronous=True)
    vec.reset(0)
    os.kill(vec._vec.processes[0].pid, signal.SIGKILL)
    with pytest.raises((OSError, EOFError)):
        vec.step(torch.zeros(2, dtype=torch.int64))
    vec.close()
    vec.close()


class Slow(Walk):
    """A step lasts a fifth of a second."""

    def step(self, action):
        time.sleep(0.2)
        return super().step(action)


@pytest.mark.parametrize("working", [False, True])
def test_workers_whose_parent_is_gone_end_in_silence(capfd, working):
    """Gymnasium's print two tracebacks each, wherever a signal ended the parent."""
    vec = GymVec([Slow] * 2, asynchronous=True)
    vec.reset(0)
    if working:
        vec._vec.step_async(np.zeros(2, np.int64))
    for pipe in vec._vec.parent_pipes:
        pipe.close()
    for worker in vec._vec.processes:
        worker.join(20)
        assert worker.exitcode == 0
    vec._vec.closed = True
    assert capfd.readouterr().err == ""


class Careless(EnvPoolVec):
    """Trusts EnvPool to heed `reset(seed=...)`."""

    def reset(self, seed=None):
        return super().reset(None)


def test_envpool_ignores_a_seed_given_to_reset():
    """EnvPool: it warns, and goes on with the seeds that it was made with."""
    vec = Careless("CartPole-v1", num_envs=3, num_threads=1, max_episode_steps=9)
    with pytest.raises(AssertionError, match="equal seeds and actions give different trajectories"):
        check_vec(vec)


def test_a_goal_reached_at_the_time_limit_is_truncated_in_envpool():
    """EnvPool: `terminated = done & ~trunc`; Gymnasium's own end outranks the limit."""
    for limit, ends in ((5, (False, True)), (6, (True, False))):
        vec = pool("MiniGrid-Empty-5x5-v0", num_envs=1, steps=limit)()
        vec.reset(0)
        for action in (2, 2, 1, 2, 2):
            step = vec.step(torch.tensor([action]))
        assert step.reward.item() > 0
        assert (step.terminated.item(), step.truncated.item()) == ends


def test_the_reset_itself_is_not_paid():
    """EnvPool: the filler row has a reward other than 0 in dm_control and MetaWorld."""
    raw = envpool.make_gymnasium("CartpoleSwingup-v1", num_envs=2, seed=[1, 2], max_episode_steps=3)
    raw.reset()
    paid = [raw.step(np.zeros((2, 1)))[1] for _ in range(4)]
    assert (paid[3] != 0).all()
    vec = pool("CartpoleSwingup-v1", num_envs=2, steps=3)()
    vec.reset(0)
    steps = [vec.step(torch.zeros(2, 1)) for _ in range(4)]
    assert (steps[2].reward != 0).all()
    assert steps[3].reward.tolist() == [0, 0]


def test_two_backends_of_minigrid_have_levels_of_their_own():
    """EnvPool: equal seeds do not give the layouts of the Python package."""
    rooms = functools.partial(gymnasium.make, "MiniGrid-FourRooms-v0")
    python, _ = GymVec([rooms] * 8).reset(0)
    native, _ = pool("MiniGrid-FourRooms-v0", num_envs=8)().reset(0)
    assert python.keys() == native.keys() == {"image", "direction"}  # MiniGrid: no mission
    assert (python["image"] != native["image"]).flatten(1).any(1).sum() >= 6
