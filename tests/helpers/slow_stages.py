"""Environments and a command whose stages take as long as the test says, without other results.

`$DELAY` is the seconds of each step, in training; `$EVALUATION_DELAY` in evaluation. A run with
delays and one without make the same steps.
"""

import os
import time
from pathlib import Path

from gymnasium.envs.classic_control import CartPoleEnv

from firstlight.agents.session import signals
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic.bonuses.count import HashCount

MADE = []


class SlowChain(Chain):
    """A chain that sleeps in each step; the second one made is that of evaluations."""

    def __init__(self, num_envs, **options):
        super().__init__(num_envs, **options)
        MADE.append(self)
        self.name = ("DELAY", "EVALUATION_DELAY")[len(MADE) - 1]

    def step(self, action):
        _sleep(self.name)
        return super().step(action)


class SlowCartPole(CartPoleEnv):
    """A single environment that sleeps in each step."""

    def step(self, action):
        _sleep("DELAY")
        return super().step(action)


class SlowCount(HashCount):
    """A bonus whose computation takes the time of a step."""

    def compute(self, rollout):
        _sleep("COMPUTE_DELAY")
        return super().compute(rollout)

    def warmup(self, rollout):
        _sleep("COMPUTE_DELAY")


def _sleep(name):
    seconds = float(os.environ.get(name, 0))
    if seconds:
        mark = Path(os.environ["REACHED"]) / name
        mark.touch()
        time.sleep(seconds)


def train():
    """Train, with the time that an iteration has after a signal from `$GRACE`."""
    from firstlight.scripts.train import main

    signals.GRACE_SECONDS = float(os.environ.get("GRACE", signals.GRACE_SECONDS))
    signals.FORCE_SECONDS = float(os.environ.get("FORCE", signals.FORCE_SECONDS))
    main()
