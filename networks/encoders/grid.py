"""The encoder for symbolic grids as in MiniGrid."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.minigrid.cells import (
    AGENT,
    BALL,
    BOX,
    COLOURS,
    DOOR,
    EMPTY,
    FLOOR,
    GOAL,
    KEY,
    LAVA,
    WALL,
)
from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.grid_kernels import SumRows, lookup_rows
from firstlight.networks.encoders.mlp import Flat
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable

_DOOR_STATES, _DIRECTIONS = 3, 4
_PLAIN, _COLOURED = (EMPTY, WALL, GOAL, LAVA), (FLOOR, KEY, BALL, BOX)


def cell_ids() -> tuple[np.ndarray, int]:
    """Assign ids to the contents of a MiniGrid cell; also return the number of ids.

    A cell has up to two ids: its kind (object and state), and, if it has a colour, its content
    (object, colour and state). So what is learnt about open doors applies to rare colours too.

    Returns:
        [16, 8, 4, 2] int32, -1 for none (both for a cell out of view); id 0 is for codes that
        MiniGrid does not use.
    """
    ids, number = np.full((16, 8, 4, 2), -1, np.int32), itertools.count(1)
    ids[1:, :, :, 0] = 0
    for code in (*_PLAIN, *_COLOURED):
        ids[code, :, :, 0] = next(number)
    for code, states in ((DOOR, _DOOR_STATES), (AGENT, _DIRECTIONS)):
        for state in range(states):
            ids[code, :, state, 0] = next(number)
    for code, colour in itertools.product(_COLOURED, range(len(COLOURS))):
        ids[code, colour, :, 1] = next(number)
    for colour, state in itertools.product(range(len(COLOURS)), range(_DOOR_STATES)):
        ids[DOOR, colour, state, 1] = next(number)
    return ids, next(number)


@rebuildable
class Grid(Encoder):
    """Sums one table row for each id of each cell, then applies one more layer.

    This is a first linear layer over one-hot cells that computes only with the ones: a grid of 49
    cells costs about 49 additions of rows, and only for cells in view, instead of a product with a
    matrix of thousands of columns. `cell_ids` defines the rows. Other fields enter by a linear
    layer.

    Args:
        obs_space: of one environment, with a field `key`, Box uint8 [H, W, 3].
        hidden: width of the features.
        key: name of the grid field.
    """

    def __init__(self, obs_space: spaces.Dict, *, hidden: int = 64, key: str = "image"):
        super().__init__()
        height, width, channels = obs_space[key].shape  # type: ignore[misc]
        if channels != 3:
            raise ValueError(f"observation {key!r} has {channels} channels, a symbolic grid has 3")
        self.key, self.cells = key, height * width
        lut, self.num_ids = cell_ids()
        self.lut: Tensor
        self.register_buffer("lut", torch.from_numpy(lut), persistent=False)
        rest = {n: s for n, s in obs_space.spaces.items() if n not in (key, "action_mask")}
        self.table = nn.Parameter(torch.randn(self.cells * self.num_ids, hidden) / self.cells**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.rest = Flat(spaces.Dict(rest)) if rest else None
        self.rest_linear = orthogonal(nn.Linear(self.rest.out_dim, hidden)) if self.rest else None
        self.linear = orthogonal(nn.Linear(hidden, hidden))
        self.out_dim = hidden

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, hidden]."""
        image = obs[self.key].flatten(1, 2)  # [B, H, W, 3] -> [B, cells, 3]
        total = self._sum_cpu(image) if image.device.type == "cpu" else self._sum(image)
        if self.rest is not None and self.rest_linear is not None:
            total = total + self.rest_linear(self.rest(obs))
        return torch.relu(self.linear(torch.relu(total)))

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        rest = {} if self.rest is None else self.rest.describe_fields()
        return {self.key: f"symbolic grid of {self.cells} cells, one-hot", **rest}

    def _sum_cpu(self, image: Tensor) -> Tensor:
        chosen = lookup_rows(image.contiguous().numpy(), self.lut.numpy(), self.num_ids)
        return SumRows.apply(*map(torch.from_numpy, chosen), self.table, self.bias)

    def _sum(self, image: Tensor) -> Tensor:
        obj, colour, state = image.long().unbind(-1)
        ids = self.lut[obj & 15, colour & 7, state & 3].long()  # [B, cells, 2]
        cell = torch.arange(self.cells, device=image.device)[:, None]
        rows = torch.where(ids >= 0, ids + cell * self.num_ids, 0).flatten(1)  # [B, cells * 2]
        seen = (ids >= 0).flatten(1).to(self.table.dtype)
        summed = nn.functional.embedding_bag(rows, self.table, mode="sum", per_sample_weights=seen)
        return summed + self.bias
