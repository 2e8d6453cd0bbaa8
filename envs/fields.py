"""Tell pictures, symbolic grids and bytes apart by the space of an observation field."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

LARGE = 36
"""Smallest side of a picture that fits the convolutions of Mnih et al. 2015."""
_SMALLEST = 8  # side of a picture; what is smaller is a vector or a table
_VIEW = 7  # sides of MiniGrid's usual view
_DIRECTIONS = 4


def is_bytes(space: spaces.Space) -> bool:
    """Whether a space is a Box of uint8 with bounds 0 and 255 only."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return bool((space.low == 0).all() and (space.high == 255).all())


def is_symbolic(obs_space: spaces.Dict, name: str) -> bool:
    """Whether a field is a grid of MiniGrid's codes: object, colour and state of each cell.

    Its space is that of a small picture, uint8 [W, H, 3] with bounds 0 and 255. It is taken for a
    grid if MiniGrid's `direction` lies beside it, or if it is no larger than MiniGrid's view.
    """
    space = obs_space[name]
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    if len(space.shape) != 3 or space.shape[2] != 3 or max(space.shape) >= LARGE:
        return False
    direction = obs_space.spaces.get("direction")
    faces = isinstance(direction, spaces.Discrete) and direction.n == _DIRECTIONS
    return faces or max(space.shape) <= _VIEW


def picture_axes(space: spaces.Space) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Find the axes of a picture: those of its channels, and those of height and width.

    Pictures are [H, W], [C, H, W] or [H, W, C], or stacked frames [S, C, H, W] or [S, H, W, C]; of
    uint8 with bounds 0 and 255, or large and of uint8 or floats, but not [H, W] of floats, which is
    rather a table. None for anything else.

    >>> picture_axes(spaces.Box(0, 255, (84, 96, 3), np.uint8))
    ((2,), (0, 1))
    """
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3, 4):
        return None
    known = space.dtype == np.uint8 or (np.dtype(space.dtype).kind == "f" and len(space.shape) > 2)
    axes = channel_axes(space.shape) if len(space.shape) > 2 else ((), (0, 1))
    height, width = (space.shape[axis] for axis in axes[1])
    deep = any(space.shape[axis] >= min(height, width) for axis in axes[0])
    smallest = _SMALLEST if is_bytes(space) else LARGE
    return axes if known and not deep and min(height, width) >= smallest else None


def channel_axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the axes of channels, and of height and width, of pictures of these dimensions."""
    first = len(shape) - 3
    last = shape[-1] < shape[first] and shape[-1] < LARGE
    if last:
        return (*range(first), len(shape) - 1), (first, first + 1)
    return tuple(range(first + 1)), (first + 1, first + 2)
