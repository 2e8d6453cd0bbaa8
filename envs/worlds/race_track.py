"""Closed track of straights and arcs, for `Race`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CORNERS = (
    (0.0, 0.0, 0.5),
    (4.4, 0.0, 0.45),
    (4.4, 1.2, 0.4),
    (3.0, 0.9, 0.35),
    (2.6, 1.7, 0.3),
    (4.1, 2.0, 0.35),
    (3.7, 2.9, 0.4),
    (1.5, 2.7, 0.35),
    (1.9, 1.6, 0.3),
    (1.0, 0.9, 0.35),
    (0.9, 2.4, 0.4),
    (0.0, 2.4, 0.4),
)
"""Twelve corners of the default track: x and y in metres, and the radius of the arc."""


class Track:
    """Centre line of a closed track: a polygon with an arc in place of each corner.

    `s` is the distance along it from the end of the first arc in metres, and grows with each lap;
    `d` is the distance to the left of it. On each of its `S` parts the curvature is constant.

    Args:
        corners: of the polygon, x, y and the radius of the arc, in driving order.
        length: of a lap in metres, to which the track is scaled; None does not scale it.

    Attributes:
        length: of a lap.
        ends: [S] s at the end of each part; the last is `length`.
        curvature: [S] 1 / m, positive to the left.

    Raises:
        ValueError: for fewer than three corners, radii not above 0, or arcs longer than an edge.

    >>> track = Track([(0, 0, 1), (4, 0, 1), (4, 4, 1), (0, 4, 1)], length=None)
    >>> round(track.length - 2 * np.pi, 6), track.position(np.array([2.0]), np.array([0.5]))
    (8.0, array([[3. , 0.5]]))
    """

    def __init__(
        self, corners: Sequence[Sequence[float]] = CORNERS, *, length: float | None = 16.4
    ):
        if len(corners) < 3:
            raise ValueError(f"a track needs at least three corners, got {len(corners)}")
        corner = np.asarray(corners, np.float64)
        place, radius = corner[:, :2], corner[:, 2]
        edge = np.roll(place, -1, 0) - place  # from each corner to the next
        side, angle = np.hypot(*edge.T), np.arctan2(edge[:, 1], edge[:, 0])
        turn = (angle - np.roll(angle, 1) + np.pi) % (2 * np.pi) - np.pi  # at each corner
        cut = radius * np.tan(np.abs(turn) / 2)  # length that the arc takes of each edge
        straight = side - cut - np.roll(cut, -1)
        if (radius <= 0).any() or (straight <= 0).any():
            raise ValueError(
                "arcs need a radius above 0, and must leave a straight part of each edge"
            )
        arc = np.roll(radius * np.abs(turn), -1)  # the one after each straight
        long = np.stack([straight, arc], 1).ravel()
        bend = np.stack([0 * straight, np.roll(np.sign(turn) / radius, -1)], 1).ravel()
        self.length = float(long.sum() if length is None else length)
        scale = self.length / long.sum()
        self.ends, self.curvature = np.cumsum(long) * scale, bend / scale
        self.ends[-1] = self.length
        self._starts = np.append(0.0, self.ends)  # and the end of the lap
        self._headings = angle[0] + np.append(0.0, np.cumsum(long * bend))
        along = edge / side[:, None]
        leaves = place + cut[:, None] * along  # where an arc ends
        meets = np.roll(place, -1, 0) - np.roll(cut, -1)[:, None] * along
        self._points = np.stack([leaves, meets], 1).reshape(-1, 2) * scale

    def part(self, s: np.ndarray) -> np.ndarray:
        """Number of the part at `s` [*]."""
        return np.searchsorted(self.ends[:-1], s % self.length, "right")

    def heading(self, s: np.ndarray) -> np.ndarray:
        """Direction of the centre line at `s` [*] in rad, with one full turn added each lap."""
        laps = np.floor(s / self.length)
        turn = self._headings[-1] - self._headings[0]
        return np.interp(s - laps * self.length, self._starts, self._headings) + laps * turn

    def position(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Position [*, 2], x and y in metres, at `s` [*] and `d` [*] to the left."""
        part = self.part(s)
        gone = s % self.length - self._starts[part]
        half = self.curvature[part] * gone / 2
        chord = gone * np.sinc(half / np.pi)
        toward, heading = self._headings[part] + half, self._headings[part] + 2 * half
        x = self._points[part, 0] + chord * np.cos(toward) - d * np.sin(heading)
        return np.stack(
            [x, self._points[part, 1] + chord * np.sin(toward) + d * np.cos(heading)], -1
        )
