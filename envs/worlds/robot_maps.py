"""Maps of `HardMaze` and `CollectBall`: 200 x 200 pixels of three units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from firstlight.envs.worlds.robot_kernels import (
    MARGIN,
    PIXEL,
    measure_blocked,
    measure_clearance,
)

SIDE = 200  # pixels
SIZE = SIDE * PIXEL  # units

HARD_WALLS = (
    (396.9, 77.7, 164.4, 147.0, 16.2),  # top diagonal
    (-1.2, 132.6, 183.3, 146.4, 18.3),  # left shelf
    (173.7, 138.0, 173.7, 457.0, 14.0),  # long vertical
    (6.3, 217.8, 106.2, 347.1, 15.9),  # left diagonal
    (258.6, 256.8, 598.5, 434.4, 13.5),  # funnel, top
    (170.7, 302.7, 461.1, 464.7, 13.8),  # funnel, bottom
    (323.1, 471.0, 220.5, 589.8, 14.7),  # lower stub
)
"""Walls of the hard maze: both ends of the centre line, and the thickness, in units.

Fitted to the bitmap of the published maze (Lehman & Stanley 2011, as in fastsim); 42 of its 5,216
wall pixels differ, all at edges.
"""


class RobotMap:
    """Pixels of walls, and those where a robot would touch one.

    Args:
        walls: [200, 200] bool, first axis x to the right, second axis y down.

    Attributes:
        walls: [280, 280] bool, with a margin of walls.
        blocked: [280, 280] bool, where the centre of a robot would touch a wall.
        clearance: [280, 280] uint8, distance in pixels to the nearest wall pixel, in king's moves.
    """

    def __init__(self, walls: np.ndarray):
        self.walls = np.pad(walls, MARGIN, constant_values=True)
        self.blocked = measure_blocked(self.walls)
        self.clearance = measure_clearance(self.walls)

    def picture(self) -> np.ndarray:
        """Picture from above, [600, 600, 3] uint8, a pixel for each unit."""
        inner = self.walls[MARGIN:-MARGIN, MARGIN:-MARGIN].T
        large = np.kron(inner, np.ones((int(PIXEL), int(PIXEL)), bool))
        return np.where(large[..., None], np.uint8(90), np.uint8(244)).repeat(3, 2)


def draw_walls(
    segments: Sequence[Sequence[float]], *, low: float = 7.5, high: float = 589.5
) -> np.ndarray:
    """Compute which pixels of the map are walls, [200, 200] bool.

    Args:
        segments: [S, 5] both ends of the centre line and the thickness, in units; ends are flat.
        low: pixels whose centre is below this coordinate form the border, in units.
        high: and those at or above this one.
    """
    centre = PIXEL * np.arange(SIDE)
    x, y = np.meshgrid(centre, centre, indexing="ij")
    walls = (x < low) | (y < low) | (x >= high) | (y >= high)
    for from_x, from_y, to_x, to_y, thickness in segments:
        length = np.hypot(to_x - from_x, to_y - from_y)
        along = np.array([to_x - from_x, to_y - from_y]) / length
        ahead = (x - from_x) * along[0] + (y - from_y) * along[1]
        aside = (y - from_y) * along[0] - (x - from_x) * along[1]
        walls |= (ahead >= 0) & (ahead <= length) & (np.abs(aside) <= thickness / 2)
    return walls


def hard_maze() -> RobotMap:
    """Make the map of the hard maze."""
    return RobotMap(draw_walls(HARD_WALLS))


def collect_ball_arena() -> RobotMap:
    """Make the map of `CollectBall`: a bar across it, and a post below, each with an opening."""
    walls = np.zeros((SIDE, SIDE), bool)
    walls[:5], walls[195:], walls[:, :5], walls[:, 195:] = True, True, True, True
    for columns in (slice(0, 127), slice(174, 200)):
        walls[columns, 99:102] = True
    for rows in (slice(102, 127), slice(174, 195)):
        walls[99:102, rows] = True
    return RobotMap(walls)
