"""Counts of the cells that a MiniGrid agent has seen in an episode, and its pose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import DOOR, EMPTY, FLOOR, GOAL, LAVA, OPEN, VIEW
from firstlight.envs.minigrid.map_kernels import REACH, SIDE
from firstlight.envs.minigrid.map_memory import check_view
from firstlight.envs.minigrid.seen_cells import POSE, SeenCells, cells_around
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper

SEEN = "seen"
_PREFIX = "seen."
_FORWARD = 2
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # east, south, west, north


class SeenMap(MemoryWrapper):
    """Wrapper that adds the agent's pose, and how often each cell around it was seen.

    A marginal gain depends on everything seen before in the episode, so it is not a function of the
    view; with these counts the policy observes what it depends on.

    - side channel `pose` [3] int64: x, y and heading. From the side channel `agent_pos` if there is
      one, else tracked from (63, 63) by the agent's actions, as in `MapMemory`.
    - with `show`, field `seen` [size, size] float32: ``log2(1 + n) / 8`` of the cells around the
      agent, n the number of the episode's observations, up to 255, that showed the cell. Turned to
      the agent's heading, with the agent in the middle ([x, y] with y = 0 in front).

    Args:
        vec: with MiniGrid's view as `image`, `direction`, and MiniGrid's actions.
        size: cells along a side of `seen`, odd.
        show: whether the policy gets `seen`.

    Raises:
        ValueError: if `vec` lacks these fields or has `pose` or `seen` already, or `size` is even.
    """

    prefix, saved_as, what = _PREFIX, "seen", "a map of seen cells"

    def __init__(self, vec: VecEnv, *, size: int = 15, show: bool = True):
        check_view(vec.obs_space)
        if taken := {POSE, SEEN} & {*vec.info_space.spaces, *vec.obs_space.spaces}:
            raise ValueError(
                f"the environment has {min(taken)!r} already: SeenMap wraps it once only"
            )
        if size < 1 or size % 2 == 0:
            raise ValueError(
                f"size is {size}, expected an odd number, so that the agent is in the middle"
            )
        super().__init__(vec)
        self.size, self.show = size, show
        picture = {SEEN: OptionalBox(0, 1, (size, size), default=0.0)} if show else {}
        self.obs_space = spaces.Dict({**vec.obs_space.spaces, **picture})
        where = {POSE: spaces.Box(-(2**31), 2**31, (3,), np.int64)}
        self.info_space = spaces.Dict({**vec.info_space.spaces, **where})
        self._has_position = "agent_pos" in vec.info_space.spaces
        self._cells = SeenCells(self.obs_space, self.info_space)
        N = vec.num_envs
        self._all = torch.arange(N)
        self._xy = np.zeros((N, 2), np.int64)
        self._free = np.zeros(N, bool)  # whether the cell ahead can be walked on
        self._counts = np.zeros((N if show else 0, SIDE * SIDE), np.uint8)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, with no cell seen."""
        obs, info = self._vec.reset(seed)
        yes = torch.ones(self.num_envs, dtype=torch.bool)
        return self._observe(self._all, obs, info, torch.zeros_like(self._all), yes, yes)

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        ids, yes = step.final_ids, torch.ones(len(step.final_ids), dtype=torch.bool)
        final_obs, final_info = step.final_obs, step.final_info
        if len(ids):  # the last observation, before `is_first` clears the counts
            final_obs, final_info = self._observe(
                ids, final_obs, final_info, action[ids], ~yes, yes
            )
        else:
            final_obs, final_info = self._with_memory(ids, final_obs, final_info)
        obs, info = self._observe(self._all, step.obs, step.info, action, step.is_first, step.valid)
        return dataclasses.replace(
            step, obs=obs, info=info, final_obs=final_obs, final_info=final_info
        )

    def _observe(
        self, env_ids: Tensor, obs: Obs, info: Obs, action: Tensor, opens: Tensor, valid: Tensor
    ) -> tuple[Obs, Obs]:
        """Update the memory of `M` environments. Returns obs and info with the memory in them."""
        ids, first = env_ids.numpy(), opens.numpy()
        moves = valid.numpy() & ~first
        if self._has_position:
            self._xy[ids] = info["agent_pos"].numpy()
        else:
            walks = moves & (action.numpy() == _FORWARD) & self._free[ids]
            self._xy[ids] += _STEPS[obs["direction"].numpy()] * walks[:, None]
            self._xy[ids[first]] = REACH
            self._free[ids] = _walkable(obs["image"][:, VIEW // 2, VIEW - 2].numpy())
        if self.show:
            self._counts[ids[first]] = 0
            rows = np.flatnonzero(moves | first)
            cells = self._cells(obs, self._where(env_ids, obs)).numpy()[rows]
            m, c = (cells >= 0).nonzero()
            at = ids[rows[m]], cells[m, c]  # each cell is at most once in a view
            self._counts[at] += self._counts[at] < 255
        return self._with_memory(env_ids, obs, info)

    def _where(self, env_ids: Tensor, obs: Obs) -> Obs:
        xy = torch.from_numpy(self._xy[env_ids.numpy()])
        return {POSE: torch.cat([xy, obs["direction"].long()[:, None]], 1)}

    def _with_memory(self, env_ids: Tensor, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        """Add the memory to observations and side channels, each [M, ...]."""
        where = self._where(env_ids, obs)
        if self.show:
            cells = cells_around(where[POSE], self.size, centred=True).numpy()
            counts = self._counts[env_ids.numpy()[:, None, None], cells].astype(np.float32)
            seen = np.where(cells >= 0, np.log2(1 + counts) / 8, np.float32(0))
            obs = {**obs, SEEN: torch.from_numpy(seen)}
        return obs, {**info, **where}

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        """Memory of one environment."""
        arrays = {"xy": self._xy[n], "free": self._free[n]}
        if self.show:
            cells = np.flatnonzero(self._counts[n])
            arrays |= {"cells": cells, "counts": self._counts[n, cells]}
        return {_PREFIX + name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}

    def _load_memories(
        self, env_ids: Tensor, memories: Sequence[Any], obs: Obs, info: Obs, restarted: Tensor
    ) -> tuple[Obs, Obs, Tensor]:
        """Load the memories of environments that were not restarted."""
        self._observe(
            env_ids, obs, info, torch.zeros_like(env_ids), restarted, torch.zeros_like(restarted)
        )
        for n, arrays, gone in zip(env_ids.tolist(), memories, restarted.tolist(), strict=True):
            if gone:
                continue
            own = {name.removeprefix(_PREFIX): array.numpy() for name, array in arrays.items()}
            self._xy[n], self._free[n] = own["xy"], own["free"]
            if self.show:
                self._counts[n] = 0
                self._counts[n, own["cells"]] = own["counts"]
        return *self._with_memory(env_ids, obs, info), restarted


def _walkable(cell: np.ndarray) -> np.ndarray:
    """Whether an agent can step onto encoded cells [M, 3], by MiniGrid's rule: [M] bool."""
    kind, state = cell[:, 0], cell[:, 2]
    return np.isin(kind, (EMPTY, FLOOR, GOAL, LAVA)) | ((kind == DOOR) & (state == OPEN))
