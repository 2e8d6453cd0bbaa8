"""A queue of observations, the oldest of which are replaced once it is full."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs
from firstlight.envs.vec import lawful
from firstlight.intrinsic.state import GrowingBuffers


class ObservationQueue(GrowingBuffers):
    """Holds up to `size` observations, in the dtypes of the environment.

    Part of the `state_dict`, and moved with its module.

    Args:
        obs_space: observation space of the policy.
        names: of the fields to hold.
        size: largest number of observations.

    Attributes:
        added: [] int64, how many have been added so far.

    Raises:
        ValueError: if `size` is below 1.
    """

    added: Tensor

    def __init__(self, obs_space: spaces.Dict, names: Sequence[str], size: int):
        super().__init__()
        if size < 1:
            raise ValueError(f"size is {size}, expected at least 1")
        self.names, self.size = tuple(names), size
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))
        for i, name in enumerate(self.names):  # a field's name need not be one for a buffer
            shape, dtype = obs_space[name].shape or (), obs_space[name].dtype
            empty = torch.from_numpy(np.zeros((0, *shape), lawful(np.dtype(dtype))))
            self.register_buffer(f"field_{i}", empty)

    def __len__(self) -> int:
        return min(int(self.added), self.size)

    def fields(self) -> Obs:
        """Return the observations held, [Q, ...] by name."""
        return {name: self.get_buffer(f"field_{i}") for i, name in enumerate(self.names)}

    def add(self, obs: Obs, rows: Tensor, generator: torch.Generator) -> None:
        """Add `rows` [M] int64 of observations [B, ...], or `size` of them drawn at random."""
        if len(rows) > self.size:
            order = torch.randperm(len(rows), generator=generator)[: self.size]
            rows = rows[order.to(rows.device)]
        count = len(rows)
        place = (int(self.added) + torch.arange(count, device=rows.device)) % self.size
        room = min(int(self.added) + count, self.size)
        for i, (name, old) in enumerate(self.fields().items()):
            new = obs[name].index_select(0, rows)
            held = new.new_zeros(room, *new.shape[1:])
            held[: len(old)] = old
            held[place] = new
            self.register_buffer(f"field_{i}", held)
        self.added = self.added + count
