"""`Coverage`, the weight of all cells sensed, and functions for sensor footprints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.intrinsic.submodular.base import SetFunction, as_weights, checked_index
from firstlight.intrinsic.submodular.coverage_kernels import cover


class Coverage(SetFunction):
    """``F(S) = sum of w(cell) over the union of the cells that the items of S cover``.

    An item is a list of cells [C] in which negative numbers are ignored; with `senses` it is the
    number of a place, which covers the cells of that row, or nothing if it is negative.

    Args:
        num_cells: number of cells.
        weights: [num_cells], at least 0; default 1 each.
        senses: [P, C] int64, cells sensed from each of P places, padded with -1; see `disc` and
            `line_of_sight`.
        max_cells: C of an item, without `senses`.

    Raises:
        ValueError: for weights or cells that do not match `num_cells`.

    >>> coverage = Coverage(9, senses=disc(3, 3, radius=1))
    >>> coverage.value([torch.tensor([4]), torch.tensor([4, 0, 4])])
    tensor([5., 6.], dtype=torch.float64)
    """

    covered: Tensor

    def __init__(
        self,
        num_cells: int,
        *,
        weights: Sequence[float] | Tensor | None = None,
        senses: Sequence[Sequence[int]] | Tensor | None = None,
        max_cells: int = 1,
    ):
        super().__init__()
        if num_cells < 1:
            raise ValueError(f"num_cells is {num_cells}, expected at least 1")
        self.num_cells = num_cells
        self.weights = as_weights(weights, num_cells, "cells")
        self.senses = None if senses is None else torch.as_tensor(senses, dtype=torch.int64)
        if self.senses is not None:
            if self.senses.dim() != 2:
                shape = tuple(self.senses.shape)
                raise ValueError(f"senses has shape {shape}, expected [places, cells]")
            self._check(self.senses)
        self.item_shape = (max_cells,) if self.senses is None else ()
        self.register_rows("covered", ((num_cells + 7) // 8,), torch.uint8)

    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """See `SetFunction.marginal`."""
        if self.senses is None:
            cells = self._check(items)
        else:
            places = checked_index(items.clamp(min=0), len(self.senses), "place")
            cells = torch.where(items[:, None] < 0, -1, self.senses[places])
        gain = torch.empty(len(rows), dtype=torch.float64)
        covered, weights = self.covered.numpy(), self.weights.numpy()
        cover(covered, rows.numpy(), cells.contiguous().numpy(), weights, write, gain.numpy())
        return gain

    def _check(self, cells: Tensor) -> Tensor:
        if cells.numel() and int(cells.max()) >= self.num_cells:
            raise ValueError(f"there is no cell {int(cells.max())}; there are {self.num_cells}")
        return cells


def disc(width: int, height: int, radius: float) -> Tensor:
    """List the cells within `radius` (Euclidean) of each cell of a grid.

    Cells and places are numbered ``x * height + y``. With radius 1 these are a cell and its four
    neighbours.

    Returns:
        [width * height, C] int64 for `Coverage`, padded with -1.
    """
    return _padded(_near(width, height, radius))


def line_of_sight(walls: Any, radius: float) -> Tensor:
    """List the cells within `radius` that are visible from each cell of a grid.

    A wall hides all cells whose straight line to the place, from centre to centre, passes through
    the inside of the wall. Walls themselves are visible; a line passes between two walls that touch
    at a corner.

    Args:
        walls: [width, height] bool.
        radius: Euclidean.

    Returns:
        [width * height, C] int64 for `Coverage`, padded with -1. Cells and places are numbered
        ``x * height + y``.
    """
    walls = np.asarray(walls, bool)
    width, height = walls.shape
    near = _near(width, height, radius)
    wx, wy = walls.nonzero()
    for place, cells in enumerate(near):
        here = divmod(place, height)
        near[place] = [c for c in cells if not _hidden(here, divmod(c, height), wx, wy)]
    return _padded(near)


def _hidden(a: tuple[int, int], b: tuple[int, int], wx: np.ndarray, wy: np.ndarray) -> bool:
    """Whether one of the walls at (wx, wy) [W] blocks the line from `a` to `b`."""
    (x, y), (u, v) = a, b
    dx, dy = u - x, v - y
    off = np.abs(dx * (wy - y) - dy * (wx - x))  # times the line's length: distance of the centre
    across = 2 * off < abs(dx) + abs(dy)
    across &= (wx >= min(x, u)) & (wx <= max(x, u)) & (wy >= min(y, v)) & (wy <= max(y, v))
    ends = ((wx == x) & (wy == y)) | ((wx == u) & (wy == v))
    return bool((across & ~ends).any())


def _near(width: int, height: int, radius: float) -> list[list[int]]:
    x, y = np.divmod(np.arange(width * height), height)
    square = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    return [np.flatnonzero(row).tolist() for row in square <= radius**2]


def _padded(cells: list[list[int]]) -> Tensor:
    most = max(map(len, cells))
    return torch.tensor([row + [-1] * (most - len(row)) for row in cells])
