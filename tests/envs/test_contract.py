"""Every backend keeps the contract of `VecEnv`; adapters that break it are found out.

"Row n" in a docstring is the n-th complaint of the project's ecosystem study, Part 2; "Gymnasium",
"EnvPool" and "MiniGrid" are the paragraphs of its Part 3.
"""

import dataclasses
import functools
import time
from pathlib import Path

import envpool
import gymnasium
import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import pytest
import torch
from adapters import (
    NO_IDS,
    Asserts,
    ChangesItsMode,
    DrawsEntropy,
    ForgetsToForget,
    HasSeedsOfItsOwn,
    Joined,
    Lawful,
    LosesItsPlace,
    MovesBeforeItLooks,
    ReusesBuffers,
    WrapsActions,
    obs_of_the_next_episode,
    spoilt,
)
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from firstlight.agents.returns import gae, successor_values
from firstlight.envs import Chain, GymVec, Isolated, RandomActor, Runner, check_vec
from firstlight.envs.envpool import EnvPoolVec, make
from firstlight.envs.types import take
from firstlight.intrinsic.mixer import RewardMixer, Term


class Walk(gymnasium.Env):
    """A nested observation, continuous actions, an own end after some steps and noise."""

    observation_space = spaces.Dict(
        {
            "where": spaces.Dict({"x": spaces.Box(-99, 99, (2,), np.float64)}),
            "left": spaces.Discrete(40),
            "wide": spaces.Box(0, 2**16 - 1, (), np.uint16),
            "said": spaces.Text(9),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, length=5):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.left = self.np_random.normal(size=2), self.length
        return self.seen(), {}

    def step(self, action):
        self.x = self.x + action + self.np_random.normal(size=2)
        self.left -= 1
        home = bool(abs(self.x).max() < 0.3)
        return self.seen(), float(home), home, self.left == 0, {"success": home}

    def seen(self):
        wide = np.array(60_000 + self.left, np.uint16)
        return {"where": {"x": self.x.copy()}, "left": self.left, "wide": wide, "said": "hm"}


def cartpole(limit=None):
    return gymnasium.make("CartPole-v1", max_episode_steps=limit)


def pendulum():
    return gymnasium.make("Pendulum-v1", max_episode_steps=9)


def doorkey():
    return gymnasium.make("MiniGrid-DoorKey-5x5-v0", max_steps=11)


def pool(task, num_envs=3, steps=12, **options):
    return functools.partial(
        EnvPoolVec, task, num_envs=num_envs, num_threads=1, max_episode_steps=steps, **options
    )


LENGTHS = (2, 3, 5, 8)
BACKENDS = {
    "chain": lambda: Chain(5, length=3, horizon=5),
    "chain, next-step": lambda: Chain(5, length=3, horizon=5, autoreset="next_step"),
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
    for vec in (pool, FirstIsLast([cartpole] * 3), spoilt(obs_of_the_next_episode)("next-step")):
        with pytest.raises(AssertionError, match="last observations are the first ones"):
            check_vec(vec)
    with pytest.raises(AssertionError, match="hides its last observation"):
        check_vec(NoLast([cartpole] * 3))


def test_nothing_in_an_idle_row_reaches_an_advantage():
    """Row 3: one garbage sample per episode and environment."""
    vec = pool("CartPole-v1", steps=7)()
    rollout = Runner(vec).collect(RandomActor(vec.act_space), 40)
    idle = ~rollout.valid
    assert idle.sum() > 8
    value = torch.randn(41, 3, 1, generator=torch.Generator().manual_seed(0))
    expected = advantages(dataclasses.replace(rollout, value=value))
    value[:-1][idle] = torch.nan
    reward = torch.where(idle, torch.nan, rollout.reward)
    garbage = dataclasses.replace(rollout, value=value, reward=reward)
    got = advantages(garbage)
    assert torch.equal(got[rollout.valid], expected[rollout.valid])
    assert got[rollout.valid].isfinite().all()


def advantages(rollout, gamma=0.9):
    rewards = RewardMixer({"reward": Term(gamma=gamma)})(rollout, {})
    final = torch.zeros(len(rollout.final_at), 1)
    onward = successor_values(rollout, rollout.value, final, rewards.carry)
    args = (rewards.reward, rollout.value[:-1], onward, rewards.discount, rewards.carry)
    return gae(*args, rollout.valid, 0.95)


def vector(mode):
    return SyncVectorEnv([functools.partial(cartpole, 4)] * 2, autoreset_mode=mode)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_vector_of_gymnasium_is_refused(mode):
    """Row 4: Gymnasium 1.0 changed autoreset silently; so no vector resets itself for us."""
    for made in (lambda: vector(mode), lambda: GymVec([functools.partial(vector, mode)])):
        with pytest.raises(ValueError, match="a function that makes one"):
            GymVec(made())
    with pytest.raises(ValueError, match="not a .*CartPole.*firstlight.envs.envpool"):
        GymVec([functools.partial(envpool.make_gymnasium, "CartPole-v1", num_envs=2)])


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
    page = (Path(__file__).parents[2] / "docs/environments.md").read_text()
    assert "**next-step**: the call after an end ignores its action" in page
    assert "**same-step**: the call that ends an episode already shows the next one" in page


@pytest.mark.parametrize("name", [name for name in BACKENDS if "lawful" not in name])
def test_a_short_batch_is_refused_at_once(name):
    """Row 6: with fewer actions than environments, `step` never returned."""
    vec = BACKENDS[name]()
    vec.reset(0)
    actions = RandomActor(vec.act_space)({}, {}, torch.ones(1, vec.num_envs, dtype=torch.bool))
    action = actions.sample(torch.Generator().manual_seed(0))[0]
    began = time.monotonic()
    with pytest.raises(ValueError, match=f"{vec.num_envs} environments take actions of shape"):
        vec.step(action[:-1])
    assert time.monotonic() - began < 2
    vec.step(action)
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
        with pytest.raises(AssertionError, match="the same seed and actions give something else"):
            check_vec(vec)


def test_seeds_of_one_s_own_that_outrank_the_one_given():
    """Row 8: MiniHack's `seeds` override `seed()`."""
    with pytest.raises(AssertionError, match="reset ignores its seed"):
        check_vec(HasSeedsOfItsOwn())
    with pytest.raises(AssertionError, match="something else|ignores its seed"):
        check_vec(GymVec([Preset] * 2))


def test_a_wrapper_that_drops_the_seed():
    """Row 9: a wrapper of MiniGrid's did."""
    with pytest.raises(AssertionError, match="the same seed and actions give something else"):
        check_vec(GymVec([lambda: Dropping(Walk())] * 2))
