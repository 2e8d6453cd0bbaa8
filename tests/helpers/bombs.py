"""Environments whose actions abort, exit or block their process."""

import functools
import os
import signal
import time

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from firstlight.envs import GymVec, Isolated

N = 3
ON, ABORT, EXIT, SLEEP, ODD = range(5)


class OddError(Exception):
    """Exception that cannot be rebuilt from its `args`."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Bomb(gymnasium.Env):
    """Observes its step and a number drawn from the episode's seed; terminates after `length`."""

    observation_space = spaces.Box(0, 1e6, (2,), np.float32)
    action_space = spaces.Discrete(5)

    def __init__(self, length=6):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.number = 0, self.np_random.integers(1e6)
        return self.seen(), {}

    def step(self, action):
        if action == ABORT:
            os.abort()
        if action == EXIT:
            os._exit(3)
        if action == SLEEP:
            time.sleep(1000)
        if action == ODD:
            raise OddError("one", "two")
        self.time += 1
        return self.seen(), 1.0, self.time == self.length, False, {}

    def seen(self):
        return np.array([self.time, self.number], np.float32)


class AbortsInThirdStep(Bomb):
    """Aborts in its third step."""

    def step(self, action):
        return super().step(ABORT if self.time == 2 else ON)


class AbortsAtRandom(Bomb):
    """Aborts in every thirtieth step or so."""

    def step(self, action):
        return super().step(ABORT if self.np_random.random() < 1 / 30 else ON)


class AbortsInReset(Bomb):
    """Aborts in its first reset."""

    def reset(self, *, seed=None, options=None):
        os.abort()


def isolated(*envs, **options):
    return Isolated(functools.partial(GymVec, [*(envs or [Bomb] * N)]), **options)


def still(n=N):
    return torch.full((n,), ON)


def kill(vec):
    os.kill(vec._child.process.pid, signal.SIGKILL)
