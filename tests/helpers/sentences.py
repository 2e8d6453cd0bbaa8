"""Tasks in which a sentence decides the right action."""

import gymnasium
import numpy as np
from gymnasium import spaces

ORDERS = ("go left not right", "go right not left", "stay not go", "go not stay")
"""Sentences of pairwise equal words in other orders, for the actions 0 to 3."""
RELATIONS = ("the same as the sign", "not the same as the sign")


class Bandit(gymnasium.Env):
    """Rewards the action that belongs to the sentence; an episode is `length` sentences long."""

    action_space = spaces.Discrete(len(ORDERS))

    def __init__(self, length=8):
        self.length = length
        self.observation_space = spaces.Dict(
            {"sentence": spaces.Text(32), "time": spaces.Box(0, 1, (1,), np.float32)}
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        reward = float(action == self.right)
        return self.seen(), reward, self.t == self.length, False, {"success": reward}

    def seen(self):
        self.right = int(self.np_random.integers(len(ORDERS)))
        time = np.array([self.t / self.length], np.float32)
        return {"sentence": ORDERS[self.right], "time": time}


class Relation(Bandit):
    """The sentence says whether the action should equal the field `sign`, or differ from it."""

    action_space = spaces.Discrete(2)

    def __init__(self, length=8):
        self.length = length
        fields = {"sentence": spaces.Text(32), "sign": spaces.Discrete(2)}
        self.observation_space = spaces.Dict(fields)

    def seen(self):
        differs, sign = (int(n) for n in self.np_random.integers(2, size=2))
        self.right = sign ^ differs
        return {"sentence": RELATIONS[differs], "sign": sign}


class TextAlone(Bandit):
    """The sentence is all of the observation."""

    def __init__(self, length=8):
        super().__init__(length)
        self.observation_space = spaces.Text(32)

    def seen(self):
        return super().seen()["sentence"]
