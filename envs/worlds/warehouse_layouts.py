"""Floor plans of `Warehouse`: racks, the bay where vehicles start, the lane of the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Layout:
    """Rectangular hall with rectangular racks, walls around it, and a closed lane for the target.

    Args:
        size: width and height of the hall in metres; x is from 0 to the width, y to the height.
        racks: [R, 4] lower x, lower y, upper x and upper y of each rack, in metres.
        bay: lower x, lower y, upper x and upper y of the rectangle in which vehicles start.
        lane: [C, 2] corners of a closed polygon; the target moves along it, or stands at the first.

    Attributes:
        corners: [C + 1, 2] of the lane, the first one repeated at the end.
        ends: [C + 1] distance of each of these from the first one along the lane, m.
        lane_length: of the whole polygon, m.
        diagonal: of the hall, m.

    Raises:
        ValueError: for racks, a bay or a lane not inside of the hall, or fewer than two corners.

    >>> hall = Layout((10, 10), [(4, 4, 6, 6)], (1, 1, 2, 2), [(8, 8), (8, 2), (2, 2), (2, 8)])
    >>> hall.lane_length, hall.ends.tolist()
    (24.0, [0.0, 6.0, 12.0, 18.0, 24.0])
    """

    def __init__(
        self,
        size: tuple[float, float],
        racks: Sequence[Sequence[float]],
        bay: Sequence[float],
        lane: Sequence[Sequence[float]],
    ):
        self.size = np.asarray(size, np.float64)
        self.racks = np.asarray(racks, np.float64).reshape(-1, 4)
        self.bay, self.lane = np.asarray(bay, np.float64), np.asarray(lane, np.float64)
        if len(self.lane) < 2:
            raise ValueError(f"the lane has {len(self.lane)} corners, expected at least 2")
        for name, boxes in (("a rack", self.racks), ("the bay", self.bay[None])):
            low, high = boxes[:, :2], boxes[:, 2:]
            if (low < 0).any() or (high > self.size).any() or (low >= high).any():
                raise ValueError(f"{name} is empty or not inside of the hall: {boxes.tolist()}")
        if (self.lane < 0).any() or (self.lane > self.size).any():
            raise ValueError(f"the lane leaves the hall: {self.lane.tolist()}")
        self.corners = np.concatenate([self.lane, self.lane[:1]])
        sides = np.hypot(*np.diff(self.corners, axis=0).T)
        self.ends = np.append(0.0, np.cumsum(sides))
        self.lane_length = float(self.ends[-1])
        self.diagonal = float(np.hypot(*self.size))


def _rows(y: Sequence[float], x: Sequence[Sequence[float]], length: float) -> list[tuple]:
    """List racks of 1 m depth and `length`: at each height of `y`, one from each of its `x` on."""
    return [(a, b, a + length, b + 1) for b, begins in zip(y, x, strict=True) for a in begins]


SIMPLE = Layout(
    (20, 20),
    [(x - 0.5, y, x + 0.5, y + 4) for y in (4, 12) for x in (5, 10, 15)],
    (1.5, 1.5, 3, 3),
    [(17.5, 18), (12.5, 18), (12.5, 10), (17.5, 10)],
)
"""Hall of 20 x 20 m with six racks of 1 x 4 m."""

_ODD, _EVEN = (0, 5, 13, 18, 27, 32), (3, 8, 17, 22, 30, 35)
_DEAD_ENDS = [(33.8, 6.5, 34.2, 11.5), (5.8, 12.5, 6.2, 17.5)]

COMPLEX = Layout(
    (40, 30),
    _rows((5.5, 11.5, 17.5, 23.5), (_ODD, _EVEN, _ODD, _EVEN), 5) + _DEAD_ENDS,
    (1.5, 1.5, 3.5, 3.5),
    [(28.5, 27), (15, 27), (15, 22), (28.5, 22)],
)
"""Hall of 40 x 30 m: 24 racks of 5 x 1 m in four rows with gaps of 3 and 4 m, and two walls.

Gaps of neighbouring rows are not opposite to each other, and the walls, 0.4 m thick, close two
aisles at one end. The target's aisle is four rows away from the bay.
"""
