"""Codes of grid cells: one integer per cell, and MiniGrid's three bytes for it.

A code is ``object | colour << 4 | state << 7 | inner object << 9 | inner colour << 12``: object,
colour and state are MiniGrid's own numbers, the inner ones are the object in a box (0 for none).
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

OBJECTS = (
    *("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent"),
)
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
EMPTY, WALL, FLOOR, DOOR, KEY, BALL, BOX, GOAL, LAVA, AGENT = range(1, 11)
RED, GREEN, BLUE, PURPLE, YELLOW, GREY = range(6)
OPEN, CLOSED, LOCKED = range(3)
STONE = WALL | GREY << 4  # a wall; cells outside of the grid count as one
VIEW = 7  # cells along a side of the view
LEVEL, TARGET = "level", "target"
"""Side channels with the codes of all cells, and with that of the object to take."""


def position_space(width: int, height: int) -> spaces.Box:
    """Space of the side channel `agent_pos`, column and row, [2] int64."""
    return spaces.Box(np.zeros(2, np.int64), np.array([width - 1, height - 1]), dtype=np.int64)


def pack(cells: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Convert encoded cells to codes.

    Args:
        cells: [..., 3] uint8, object, colour and state.
        inside: [..., 3] uint8, the same of the objects in boxes.

    Returns:
        [...] int16.

    >>> int(pack(np.array([WALL, GREY, 0]))) == STONE
    True
    """
    wide = cells.astype(np.int16)
    codes = wide[..., 0] | wide[..., 1] << 4 | wide[..., 2] << 7
    if inside is None:
        return codes
    hidden = inside.astype(np.int16)
    return codes | hidden[..., 0] << 9 | hidden[..., 1] << 12


def unpack(codes: np.ndarray) -> np.ndarray:
    """Convert codes [...] to MiniGrid's bytes [..., 3] uint8: object, colour and state."""
    return np.stack([codes & 15, codes >> 4 & 7, codes >> 7 & 3], -1).astype(np.uint8)


def name_of(cell: np.ndarray) -> str:
    """Colour and object of one encoded cell [3] uint8, such as "yellow key"."""
    return f"{COLOURS[cell[1]]} {OBJECTS[cell[0]]}"
