"""Items of set functions, computed from observations and info channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs

_STONE, _NO_GLYPH = 2359, 5976  # NetHack 3.6: a blank tile, and no glyph at all
_ROWS, _COLUMNS = 21, 79
_DUNGEONS, _LEVELS = 8, 64
_DNUM, _DLEVEL = 23, 24  # indices in NLE's blstats


class Items(Protocol):
    """Computes items of a set function from observations and info; any such function will do."""

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """Compute items [R, *item] from fields [R, ...] of `R` time steps."""
        ...


class Field:
    """Returns a field of the observation, or else of the info channels, unchanged.

    Args:
        name: of the field.
        sizes: shape of a grid in which the field is a position; the item is then the number of the
            cell, ``x * H + y`` for (W, H) and a field (x, y).

    >>> Field("position", sizes=(4, 3))({}, {"position": torch.tensor([[2, 1]])})
    tensor([7])
    """

    def __init__(self, name: str, *, sizes: Sequence[int] | None = None):
        self.name, self.sizes = name, None if sizes is None else tuple(sizes)

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """See `Items`; ValueError if there is no such field, or a position is outside the grid."""
        fields = obs if self.name in obs else info
        if self.name not in fields:
            raise ValueError(f"no field {self.name!r}; there are {sorted([*obs, *info])}")
        field = fields[self.name]
        if self.sizes is None:
            return field
        sizes = torch.tensor(self.sizes, device=field.device)
        if field.shape[1:] != sizes.shape or bool(((field < 0) | (field >= sizes)).any()):
            raise ValueError(f"{self.name!r} is no position in a grid of shape {self.sizes}")
        strides = [math.prod(self.sizes[i + 1 :]) for i in range(len(self.sizes))]
        return (field * torch.tensor(strides, device=field.device)).sum(-1)


class Binned:
    """Number of the grid cell that contains a position, such as ``x * cells + y``; -1 outside.

    Args:
        name: field of the observation, or else of the info channels: coordinates, or one number.
        low: lower bound of the grid on every axis.
        high: upper bound.
        cells: number of cells along each axis.
        columns: which of the field's numbers are the coordinates; default all.

    Raises:
        ValueError: for empty `columns`, `cells` below 1, or `low` not below `high`.

    >>> ground = Binned("at", low=-2, high=2, cells=4)
    >>> ground({}, {"at": torch.tensor([[-2.0, 1.5], [0.5, -0.5], [9.0, 0.0]])})
    tensor([ 3,  9, -1])
    """

    def __init__(
        self,
        name: str,
        *,
        low: float,
        high: float,
        cells: int,
        columns: Sequence[int] | None = None,
    ):
        if low >= high or cells < 1 or (columns is not None and not columns):
            raise ValueError(
                f"low is {low}, high {high}, cells {cells} and columns {columns}, expected low "
                "below high, cells of at least 1 and columns not empty"
            )
        self.field, self.low, self.high, self.cells = Field(name), low, high, cells
        self.columns = None if columns is None else list(columns)

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """See `Items`; ValueError as `places`."""
        at = self.places(obs, info)
        cell = ((at - self.low) * (self.cells / (self.high - self.low))).floor().long()
        inside = ((cell >= 0) & (cell < self.cells)).all(-1)
        strides = torch.tensor([self.cells**i for i in reversed(range(cell.shape[-1]))])
        return torch.where(inside, (cell * strides.to(cell.device)).sum(-1), -1)

    def places(self, obs: Obs, info: Obs) -> Tensor:
        """Return the coordinates of each row, [R, d] float64.

        Raises:
            ValueError: if there is no such field, or if it has no such columns.
        """
        field = self.field(obs, info)
        table = field[:, None] if field.dim() == 1 else field
        if table.dim() != 2 or max(self.columns or [0]) >= table.shape[1]:
            raise ValueError(
                f"{self.field.name!r} has shape {tuple(field.shape[1:])}, expected coordinates "
                f"with columns {self.columns}"
            )
        return table.double()[:, self.columns or slice(None)]


class ExploredTiles:
    """Explored tiles of a NetHack level, for `Coverage`: numbers [1659] int64, -1 if unexplored.

    A tile is explored if its glyph is not blank. Tiles are numbered by dungeon, level and position,
    from `glyphs` [21, 79] and `blstats` of the observation.
    """

    num_cells = _DUNGEONS * _LEVELS * _ROWS * _COLUMNS
    item_size = _ROWS * _COLUMNS

    def __init__(self, obs_space: spaces.Dict, info_space: spaces.Dict | None = None):
        glyphs = obs_space.spaces.get("glyphs")
        if glyphs is None or glyphs.shape != (_ROWS, _COLUMNS) or "blstats" not in obs_space.spaces:
            raise ValueError("explored tiles need NetHack's glyphs [21, 79] and blstats")

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """See `Items`."""
        glyphs, stats = obs["glyphs"].flatten(1), obs["blstats"].long()
        dungeon = stats[:, _DNUM].clamp(0, _DUNGEONS - 1)
        level = dungeon * _LEVELS + stats[:, _DLEVEL].clamp(0, _LEVELS - 1)
        tiles = torch.arange(self.item_size, device=glyphs.device)
        known = (glyphs != _STONE) & (glyphs != _NO_GLYPH)
        return torch.where(known, level[:, None] * self.item_size + tiles, -1)
