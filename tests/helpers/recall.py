"""A task of memory: a bit is shown once, and asked for some steps later."""

import torch
from gymnasium import spaces

from firstlight.envs.worlds.array_backed import ArrayBacked


class Recall(ArrayBacked):
    """Shows a random bit in the first observation; the last action must be that bit.

    Observations are one-hot: bit 0, bit 1, nothing, the question. Reward 1 for a right answer.

    Args:
        num_envs: `N`.
        delay: steps between bit and question.
        autoreset: see `ArrayBacked`.
    """

    _saved = ("bit", "elapsed", "over")

    def __init__(self, num_envs, *, delay=4, autoreset="same_step"):
        super().__init__(num_envs, autoreset)
        self.delay = delay
        self.obs_space = spaces.Dict({"obs": spaces.Box(0, 1, (4,))})
        self.info_space = spaces.Dict({})
        self.act_space = spaces.Discrete(2)
        self._bit = torch.zeros(num_envs, dtype=torch.int64)
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64)
        self._draws = torch.Generator()

    def reset(self, seed=None):
        if seed is not None:
            self._draws.manual_seed(seed)
        return self._begin_all()

    def _advance(self, actions, valid):
        asked = self._elapsed == self.delay
        right = asked & (torch.from_numpy(actions) == self._bit)
        self._elapsed = self._elapsed + 1
        return right.float(), asked, torch.zeros_like(asked)

    def _begin(self, ids):
        drawn = torch.randint(0, 2, (len(ids),), generator=self._draws)
        self._bit = self._bit.index_put((ids,), drawn)
        self._elapsed = self._elapsed.index_fill(0, ids, 0)

    def _observe(self, ids):
        elapsed, shown = self._elapsed[ids], torch.full((len(ids),), 2)
        shown = torch.where(elapsed == 0, self._bit[ids], shown)
        shown = torch.where(elapsed == self.delay, 3, shown)
        return {"obs": torch.eye(4)[shown]}, {}
