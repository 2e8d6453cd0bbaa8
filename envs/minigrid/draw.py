"""Draw pictures of MiniGrid environments."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from firstlight.envs.minigrid.cells import (
    BALL,
    BOX,
    CLOSED,
    DOOR,
    GOAL,
    KEY,
    LAVA,
    LOCKED,
    OPEN,
    VIEW,
    WALL,
)
from firstlight.envs.minigrid.gridworld_kernels import LIGHT, look

TILE = 16
_PALETTE = np.array(
    [(235, 60, 50), (60, 190, 75), (65, 105, 225), (150, 80, 200), (240, 205, 60), (120, 120, 125)],
    np.uint8,
)
_FLOOR, _LINE, _AGENT = (18, 18, 22), (44, 44, 50), (250, 95, 75)
_WALL, _LAVA = (96, 96, 102), (255, 128, 0)
_LIT = 34  # added to the brightness of cells that the agent sees
_MIDDLE = (np.arange(TILE) + 0.5) / TILE
_X, _Y = _MIDDLE[None, :], _MIDDLE[:, None]


def _box(left: float, right: float, top: float, bottom: float) -> np.ndarray:
    """Pixels of a rectangle, [TILE, TILE] bool; edges as fractions of the tile."""
    return (left <= _X) & (right >= _X) & (top <= _Y) & (bottom >= _Y)


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    return (_X - x) ** 2 + (_Y - y) ** 2 <= radius**2


def _ring(inset: float) -> np.ndarray:
    """Frame along the tile's edge, `inset` wide."""
    return ~_box(inset, 1 - inset, inset, 1 - inset)


def _shape(kind: int, state: int) -> np.ndarray:
    """Pixels of an object in its own colour, [TILE, TILE] bool."""
    if kind == DOOR and state == OPEN:
        return _box(0.82, 1, 0, 1)
    if kind == DOOR:
        return _ring(0.13) | _disc(0.74, 0.5, 0.1)
    if kind == KEY:
        ring = _disc(0.5, 0.3, 0.2) & ~_disc(0.5, 0.3, 0.09)
        teeth = _box(0.5, 0.72, 0.6, 0.68) | _box(0.5, 0.72, 0.78, 0.86)
        return ring | _box(0.44, 0.56, 0.45, 0.9) | teeth
    if kind == BALL:
        return _disc(0.5, 0.5, 0.32)
    if kind == BOX:
        hollow = _box(0.24, 0.76, 0.24, 0.76) & ~_box(0.24, 0.76, 0.45, 0.55)
        return _box(0.14, 0.86, 0.14, 0.86) & ~hollow
    return np.ones((TILE, TILE), bool)


@lru_cache(maxsize=512)
def tile(code: int, heading: int, lit: bool) -> np.ndarray:
    """Draw one cell, [TILE, TILE, 3] uint8, with the agent in it if `heading` >= 0."""
    image = np.empty((TILE, TILE, 3), np.uint8)
    image[:] = _FLOOR
    image[0], image[:, 0] = _LINE, _LINE
    kind, state = code & 15, code >> 7 & 3
    colour = {WALL: np.array(_WALL), LAVA: np.array(_LAVA)}.get(kind, _PALETTE[code >> 4 & 7])
    if kind in (WALL, LAVA, GOAL, DOOR, KEY, BALL, BOX):
        if kind == DOOR and state in (CLOSED, LOCKED):
            image[:] = colour // (2 if state == LOCKED else 6)
        image[_shape(kind, state)] = colour
    if heading >= 0:
        wedge = (np.abs(_Y - 0.5) <= (0.88 - _X) * 0.45) & (_X >= 0.14)
        image[np.rot90(wedge, -heading)] = _AGENT
    if lit:
        image = np.minimum(image.astype(np.int16) + _LIT, 255).astype(np.uint8)
    image.setflags(write=False)
    return image


def draw_grid(grid: np.ndarray, agent: np.ndarray, carrying: int) -> np.ndarray:
    """Draw one environment: visible cells are lit, a carried object is drawn on the agent's cell.

    Args:
        grid: [W, H] int16, codes of `cells`.
        agent: [3] int64, column, row and direction.
        carrying: code of the carried object, 0 for none.

    Returns:
        [TILE * H, TILE * W, 3] uint8.
    """
    W, H = grid.shape
    lit = _lit(grid, agent, carrying)
    picture = np.empty((H * TILE, W * TILE, 3), np.uint8)
    x, y, heading = (int(value) for value in agent)
    for i in range(W):
        for j in range(H):
            here = (i, j) == (x, y)
            code = carrying if here and carrying else int(grid[i, j])
            rows, columns = slice(j * TILE, (j + 1) * TILE), slice(i * TILE, (i + 1) * TILE)
            picture[rows, columns] = tile(code & 511, heading if here else -1, bool(lit[i, j]))
    return picture


def _lit(grid: np.ndarray, agent: np.ndarray, carrying: int) -> np.ndarray:
    """Cells of the grid that the agent sees, [W, H] bool."""
    image = np.empty((VIEW, VIEW, 3), np.uint8)
    look(grid, agent, carrying, LIGHT, image)
    out = np.zeros(grid.shape, bool)
    ahead = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])[agent[2]]
    right = np.array([-ahead[1], ahead[0]])
    for i, j in np.argwhere(image[..., 0]):
        x, y = agent[:2] + ahead * (VIEW - 1 - j) + right * (i - VIEW // 2)
        if 0 <= x < grid.shape[0] and 0 <= y < grid.shape[1]:
            out[x, y] = True
    return out
