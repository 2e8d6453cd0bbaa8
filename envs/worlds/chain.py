"""A combination lock: the smallest task in which a random agent never sees a reward."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import checked_actions
from firstlight.envs.worlds.array_backed import Saved


class Chain(Saved):
    """`length` cells in a row; one of two actions leads on, the other back to the start.

    Which action leads on differs from cell to cell and is fixed by `seed`. Only the last cell pays
    (1, and ends the episode), so a random policy gets there with probability 2^-length an attempt.
    Written as arrays over environments; its state can be saved and restored.

    Args:
        num_envs: `N`.
        length: cells after the first one.
        horizon: steps after which an episode is truncated; default twice the length.
        autoreset: "same_step" shows the new episode at once, "next_step" spends a call on it.
        seed: of the lock, not of the episodes (they have no randomness).

    >>> chain = Chain(num_envs=2, length=4)
    >>> obs, info = chain.reset()
    >>> obs["obs"].shape, chain.act_space.n
    (torch.Size([2, 5]), np.int64(2))
    """

    _rows = ("position", "elapsed", "over")

    def __init__(
        self,
        num_envs: int = 8,
        *,
        length: int = 8,
        horizon: int | None = None,
        autoreset: Literal["same_step", "next_step"] = "same_step",
        seed: int = 0,
    ):
        if autoreset not in ("same_step", "next_step"):
            raise ValueError(f"autoreset is 'same_step' or 'next_step', not {autoreset!r}")
        self.num_envs, self.length, self.horizon = num_envs, length, horizon or 2 * length
        self.autoreset = autoreset
        self.obs_space = spaces.Dict({"obs": spaces.Box(0, 1, (length + 1,), np.uint8)})
        self.info_space = spaces.Dict(
            {"position": spaces.Discrete(length + 1), "success": spaces.Box(-1, 1, (), np.int8)}
        )
        self.act_space: spaces.Space = spaces.Discrete(2)
        generator = torch.Generator().manual_seed(derive(seed, "chain"))
        self.combination = torch.randint(0, 2, (length,), generator=generator)  # [length]
        self._onehot = torch.eye(length + 1, dtype=torch.uint8)
        self.reset()

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere; `seed` changes nothing."""
        self._position = torch.zeros(self.num_envs, dtype=torch.int64)
        self._elapsed = torch.zeros(self.num_envs, dtype=torch.int64)
        self._over = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._obs(self._position), self._info(self._position)

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 of 0 and 1."""
        checked_actions(action, self.act_space, self.num_envs)
        valid = ~self._over  # next-step autoreset: this call resets those that are over
        wanted = self.combination[self._position.clamp(max=self.length - 1)]
        moved = torch.where(action == wanted, self._position + 1, 0)
        self._position = torch.where(valid, moved, 0)
        self._elapsed = torch.where(valid, self._elapsed + 1, 0)
        terminated = valid & (self._position == self.length)
        truncated = valid & ~terminated & (self._elapsed >= self.horizon)
        done = terminated | truncated
        reward = terminated.float()
        none = torch.zeros(0, dtype=torch.int64)
        if self.autoreset == "next_step":
            self._over, final_ids, final, is_first = done, none, none, ~valid
        else:
            final_ids = done.nonzero()[:, 0]
            final, is_first = self._position[final_ids], done
            self._position = torch.where(done, 0, self._position)
            self._elapsed = torch.where(done, 0, self._elapsed)
        return Step(
            obs=self._obs(self._position),
            info=self._info(self._position),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            is_first=is_first,
            final_ids=final_ids,
            final_obs=self._obs(final),
            final_info=self._info(final),
        )

    def render(self, env_id: int = 0) -> np.ndarray:
        """The cells in a row, the agent's lit. Returns [16, 16 * (length + 1), 3] uint8."""
        cells = np.full((self.length + 1, 3), 40, np.uint8)
        cells[-1] = (40, 120, 40)
        cells[int(self._position[env_id])] = (250, 210, 80)
        return np.kron(cells[None], np.ones((16, 16, 1), np.uint8))

    def _shown(self, ids: Tensor) -> tuple[Obs, Obs]:
        here = self._position[ids]
        return self._obs(here), self._info(here)

    def _obs(self, position: Tensor) -> Obs:
        return {"obs": self._onehot[position]}

    def _info(self, position: Tensor) -> Obs:
        return {"position": position.clone(), "success": (position == self.length).to(torch.int8)}
