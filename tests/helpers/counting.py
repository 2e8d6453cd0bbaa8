"""Environments whose observations are their seed and step, and a checker of their rows."""

import os
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit, TransformObservation

from firstlight.envs.seeding import derive

ON, SLEEP, SPIN, ABORT, RAISE, NAP = range(6)


class Counting(gymnasium.Env):
    """Observes the seed and step of its episode; the length follows from the seed.

    Some actions block, abort or raise instead. NAP waits as long as the file `held` exists; SLEEP
    and SPIN create a file in the folder that the environment variable ``ENTERED`` names.
    """

    observation_space = spaces.Dict({"count": spaces.Box(0, 2**31, (2,), np.int64)})
    action_space = spaces.Discrete(6)

    def __init__(self, held="none"):
        self.render_mode, self.held = "rgb_array", Path(held)

    def reset(self, *, seed=None, options=None):
        self.seed, self.time = seed, 0
        self.length = length_of(seed)
        return self.shown(), {"twice": 0}

    def step(self, action):
        if action in (SLEEP, SPIN) and "ENTERED" in os.environ:
            Path(os.environ["ENTERED"], str(action)).touch()
        if action == SLEEP:
            time.sleep(1000)
        if action == SPIN:
            sum(range(10**13))  # in C, with the interpreter's lock
        if action == ABORT:
            os.abort()
        if action == RAISE:
            raise ZeroDivisionError("requested by an action")
        while action == NAP and self.held.exists():
            time.sleep(0.01)
        self.time += 1
        over, cut = self.time == self.length, self.length % 2 == 0
        info = {"twice": 2 * self.time, "success": over and not cut}
        return self.shown(), self.time / 8, over and not cut, over and cut, info

    def shown(self):
        return {"count": np.array([self.seed, self.time])}

    def render(self):
        return np.full((2, 3, 3), self.time, np.uint8)


class CountingOnly(Counting):
    """`Counting` in which every action is an ordinary step."""

    action_space = spaces.Discrete(3, start=-1)

    def step(self, action):
        return super().step(ON)


class Buffered(CountingOnly):
    """Writes observations into buffers from `set_buffers`, or else into its own array."""

    def __init__(self):
        super().__init__()
        self.array = np.zeros(2, np.int64)

    def set_buffers(self, views):
        self.array = views["count"]

    def shown(self):
        self.array[:] = self.seed, self.time
        return {"count": self.array}


class Raising(Counting):
    """Raises in a hundredth of its steps."""

    dice = np.random.default_rng()

    def step(self, action):
        return super().step(RAISE if self.dice.random() < 0.01 else ON)


class Nested(gymnasium.Env):
    """Nested observations with text, dtypes that torch does not have, continuous actions."""

    observation_space = spaces.Dict(
        {
            "where": spaces.Tuple([spaces.Box(-99, 99, (2,), np.float64), spaces.Text(9)]),
            "left": spaces.Discrete(40, start=2),
            "wide": spaces.Box(0, 2**16 - 1, (), np.uint16),
            "bits": spaces.MultiBinary(3),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.left = self.np_random.normal(size=2), int(self.np_random.integers(3, 9))
        return self.shown(), {"is_success": False}

    def step(self, action):
        self.x = self.x + action + self.np_random.normal(size=2)
        self.left -= 1
        home = bool(abs(self.x).max() < 0.3)
        return self.shown(), float(self.x.sum()), home, self.left == 2, {"success": home}

    def shown(self):
        bits = self.np_random.integers(0, 2, 3)
        wide = np.array(60_000 + self.left, np.uint16)
        return {"where": (self.x.copy(), "hm"), "left": self.left, "wide": wide, "bits": bits}


class TextOnly(gymnasium.Env):
    observation_space, action_space = spaces.Text(5), spaces.Discrete(2)


class BadShape(Counting):
    def shown(self):
        return {"count": np.zeros((1, 2), np.int64)}


class RefusesSeeds(Counting):
    """Reset raises for two of three seeds."""

    def reset(self, *, seed=None, options=None):
        if seed % 3:
            raise RuntimeError("not with this seed")
        return super().reset(seed=seed)


class Stuck(Counting):
    """Reset raises after the first episode."""

    begun = 0

    def reset(self, *, seed=None, options=None):
        Stuck.begun += 1
        if Stuck.begun > 1:
            raise RuntimeError("no more")
        return super().reset(seed=seed)


def broken():
    raise ZeroDivisionError("in the factory")


def cartpole():
    return gymnasium.make("CartPole-v1", max_episode_steps=12)


def cartpoles():
    return gymnasium.vector.SyncVectorEnv([cartpole])


def doorkey():
    return gymnasium.make("minigrid:MiniGrid-DoorKey-5x5-v0", max_steps=11)


def limited():
    return TimeLimit(Buffered(), 4)


def moved():
    """Returns other observations than it writes into its buffers."""
    space = Buffered.observation_space
    return TransformObservation(Buffered(), lambda obs: {"count": obs["count"] + 1}, space)


def length_of(seed):
    """1, 2, 3, 5, 8 or 13."""
    return (1, 2, 3, 5, 8, 13)[seed % 6]


class RowChecker:
    """Checks every row of counting environments against the row before, and counts rows.

    Args:
        seed: seed of the reset.
        obs: observations of the reset.
    """

    def __init__(self, seed, obs):
        self.seed, count = seed, obs["count"].tolist()
        self.episode = [0] * len(count)
        self.now = count
        self.valid = self.lost = self.ends = 0
        for i, row in enumerate(count):
            assert row == [derive(seed, "episode", i, 0), 0]

    def add(self, step, ids=None):
        """Check a step of all environments, or of `ids`."""
        ids = range(len(self.now)) if ids is None else ids.tolist()
        rows = zip(ids, step.obs["count"].tolist(), strict=True)
        finals = dict(zip(step.final_ids.tolist(), step.final_obs["count"].tolist(), strict=True))
        lost = step.crashed_ids.tolist()
        for m, (i, row) in enumerate(rows):
            seed, past = self.now[i]
            assert bool(step.valid[m]) == (i not in lost)
            over = i not in lost and past + 1 == length_of(seed)
            assert bool(step.terminated[m]) == (over and length_of(seed) % 2 == 1)
            assert bool(step.truncated[m]) == (over and length_of(seed) % 2 == 0)
            assert (i in finals) == over
            assert bool(step.is_first[m]) == (over or i in lost)
            assert step.reward[m].item() == (0.0 if i in lost else (past + 1) / 8)
            if over:
                assert finals[i] == [seed, past + 1]
            if over or i in lost:
                self.episode[i] = self._later(i, row, exactly=over)
                assert row[1] == 0
            else:
                assert row == [seed, past + 1]
            self.now[i] = row
            self.valid, self.lost = self.valid + (i not in lost), self.lost + (i in lost)
            self.ends += over

    def _later(self, i, row, exactly):
        """Number of the episode that begins in `row`: the next, or a later one after a crash."""
        candidates = range(self.episode[i] + 1, self.episode[i] + (2 if exactly else 5))
        (found,) = [e for e in candidates if derive(self.seed, "episode", i, e) == row[0]]
        return found
