"""Which items a moment of an episode is: what set functions are fed from observations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs

_STONE, _NO_GLYPH = 2359, 5976  # NetHack 3.6: what is blank, and what is no glyph at all
_ROWS, _COLUMNS = 21, 79
_DUNGEONS, _LEVELS = 8, 64
_DNUM, _DLEVEL = 23, 24  # places in NLE's blstats


class Items(Protocol):
    """Turns moments into items of a set function."""

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """Fields [R, ...] of `R` moments to items [R, *item]."""
        ...


class Field:
    """A field of the observation, or else of the side channels, as it is.

    Args:
        name: of the field.
        sizes: the field is a place in a grid of these sides, and its item the number of the cell;
            for (W, H) and a field (x, y) that is ``x * H + y``.

    >>> Field("position", sizes=(4, 3))({}, {"position": torch.tensor([[2, 1]])})
    tensor([7])
    """

    def __init__(self, name: str, *, sizes: Sequence[int] | None = None):
        self.name, self.sizes = name, None if sizes is None else tuple(sizes)

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """See `Items`; ValueError if there is no such field, or a place outside of the grid."""
        fields = obs if self.name in obs else info
        if self.name not in fields:
            raise ValueError(f"no field {self.name!r}; there are {sorted([*obs, *info])}")
        field = fields[self.name]
        if self.sizes is None:
            return field
        sizes = torch.tensor(self.sizes, device=field.device)
        if field.shape[1:] != sizes.shape or bool(((field < 0) | (field >= sizes)).any()):
            raise ValueError(f"{self.name!r} is no place in a grid of {self.sizes}")
        strides = [math.prod(self.sizes[i + 1 :]) for i in range(len(self.sizes))]
        return (field * torch.tensor(strides, device=field.device)).sum(-1)


class Binned:
    """The cell of an even grid in which a body is, such as ``x * cells + y``; -1 outside of it.

    Args:
        name: of a field of the observation, or else of the side channels: coordinates, or one
            number.
        low: where the grid begins, on every axis.
        high: where it ends.
        cells: along each axis.
        columns: which of the field's numbers are the coordinates; default all.

    Raises:
        ValueError: if there are no columns, no cells, or no ground between `low` and `high`.

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
                f"low {low} is below high {high}, cells {cells} is at least 1, and columns "
                f"{columns} are some"
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
        """The coordinates of each row, [R, d] float64.

        Raises:
            ValueError: if there is no such field, or if it has no such columns.
        """
        field = self.field(obs, info)
        body = field[:, None] if field.dim() == 1 else field
        if body.dim() != 2 or max(self.columns or [0]) >= body.shape[1]:
            raise ValueError(
                f"{self.field.name!r} is {tuple(field.shape[1:])}, and no row of coordinates with "
                f"the columns {self.columns}"
            )
        return body.double()[:, self.columns or slice(None)]


class ExploredTiles:
    """The tiles of a NetHack level that the map shows, for `Coverage`: [1659] int64, else -1.

    A tile is explored once its glyph is anything but blank. Tiles are numbered by dungeon, level
    and place, from `glyphs` [21, 79] and `blstats` of the observation.
    """

    num_cells = _DUNGEONS * _LEVELS * _ROWS * _COLUMNS
    item_size = _ROWS * _COLUMNS

    def __init__(self, obs_space: spaces.Dict, info_space: spaces.Dict | None = None):
        shape = getattr(obs_space.spaces.get("glyphs"), "shape", None)
        if shape != (_ROWS, _COLUMNS) or "blstats" not in obs_space.spaces:
            raise ValueError("explored tiles need NetHack's glyphs [21, 79] and blstats")

    def __call__(self, obs: Obs, info: Obs) -> Tensor:
        """See `Items`."""
        glyphs, stats = obs["glyphs"].flatten(1), obs["blstats"].long()
        dungeon = stats[:, _DNUM].clamp(0, _DUNGEONS - 1)
        level = dungeon * _LEVELS + stats[:, _DLEVEL].clamp(0, _LEVELS - 1)
        tiles = torch.arange(self.item_size, device=glyphs.device)
        known = (glyphs != _STONE) & (glyphs != _NO_GLYPH)
        return torch.where(known, level[:, None] * self.item_size + tiles, -1)
