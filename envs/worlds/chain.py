"""Combination lock: a small task in which a random policy hardly ever gets a reward."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset


class Chain(ArrayBacked):
    """A row of cells; one of two actions leads to the next cell, the other back to the first.

    Which action leads on differs from cell to cell and is fixed by `seed`. Only the last cell has a
    reward (1, and ends the episode); a random policy gets there with probability 2^-length an
    attempt.

    Args:
        num_envs: `N`.
        length: cells after the first one.
        horizon: steps after which an episode is truncated; default twice the length.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.
        seed: of the right actions. Episodes have no randomness.

    >>> chain = Chain(num_envs=2, length=4)
    >>> obs, info = chain.reset()
    >>> obs["obs"].shape, chain.act_space.n
    (torch.Size([2, 5]), np.int64(2))
    """

    _saved = ("position", "elapsed", "over")

    def __init__(
        self,
        num_envs: int = 8,
        *,
        length: int = 8,
        horizon: int | None = None,
        autoreset: Autoreset = "same_step",
        seed: int = 0,
    ):
        super().__init__(num_envs, autoreset)
        self.length, self.horizon = length, horizon or 2 * length
        self.obs_space = spaces.Dict({"obs": spaces.Box(0, 1, (length + 1,), np.uint8)})
        self.info_space = spaces.Dict(
            {"position": spaces.Discrete(length + 1), "success": spaces.Box(-1, 1, (), np.int8)}
        )
        self.act_space: spaces.Space = spaces.Discrete(2)
        generator = torch.Generator().manual_seed(derive(seed, "chain"))
        self.combination = torch.randint(0, 2, (length,), generator=generator)  # [length]
        self._onehot = torch.eye(length + 1, dtype=torch.uint8)
        self._position = torch.zeros(num_envs, dtype=torch.int64)
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; `seed` has no effect."""
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of the cells with the agent lit, [16, 16 * (length + 1), 3] uint8."""
        cells = np.full((self.length + 1, 3), 40, np.uint8)
        cells[-1] = (40, 120, 40)
        cells[int(self._position[env_id])] = (250, 210, 80)
        return np.kron(cells[None], np.ones((16, 16, 1), np.uint8))

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        digit = self.combination[self._position.clamp(max=self.length - 1)]
        right = torch.from_numpy(actions) == digit
        self._position = torch.where(right, self._position + 1, 0)
        self._elapsed = self._elapsed + 1
        terminated = self._position == self.length
        return terminated.float(), terminated, ~terminated & (self._elapsed >= self.horizon)

    def _begin(self, ids: Tensor) -> None:
        self._position = self._position.index_fill(0, ids, 0)
        self._elapsed = self._elapsed.index_fill(0, ids, 0)

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        position = self._position[ids]
        success = (position == self.length).to(torch.int8)
        return {"obs": self._onehot[position]}, {"position": position, "success": success}
