"""Floor plans of `Warehouse`: vehicles can reach the target, dead ends are closed at one end."""

import math

import numpy as np
import pytest

from firstlight.envs.worlds.warehouse import LAYOUTS, RADIUS
from firstlight.envs.worlds.warehouse_layouts import COMPLEX, SIMPLE, Layout

CELL = 0.1


def reachable(layout, closed=()):
    """Which cells of 0.1 m the middle of a vehicle reaches from the bay.

    Args:
        layout: the plan.
        closed: x, y and half the width of squares that are closed as well.
    """
    width, height = (layout.size / CELL).round().astype(int)
    x, y = np.meshgrid((np.arange(width) + 0.5) * CELL, (np.arange(height) + 0.5) * CELL)
    free = (x > RADIUS) & (y > RADIUS) & (x < width * CELL - RADIUS) & (y < height * CELL - RADIUS)
    for left, low, right, high in layout.racks:
        dx = np.maximum.reduce([left - x, 0 * x, x - right])
        dy = np.maximum.reduce([low - y, 0 * y, y - high])
        free &= np.hypot(dx, dy) > RADIUS
    for a, b, half in closed:
        free &= (np.abs(x - a) > half) | (np.abs(y - b) > half)
    bay = (layout.bay / CELL).round().astype(int)
    assert free[bay[1] : bay[3], bay[0] : bay[2]].all()
    found = np.zeros_like(free)
    found[bay[1], bay[0]] = True
    while True:
        grown = found.copy()
        grown[1:] |= found[:-1]
        grown[:-1] |= found[1:]
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        grown &= free
        if (grown == found).all():
            return found
        found = grown


def is_reached(found, x, y):
    return found[int(y / CELL), int(x / CELL)]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_point_of_the_lane_can_be_reached(kind):
    layout, found = LAYOUTS[kind], reachable(LAYOUTS[kind])
    for (ax, ay), (bx, by) in zip(layout.lane, np.roll(layout.lane, -1, 0), strict=True):
        for share in np.linspace(0, 1, 50):
            assert is_reached(found, ax + share * (bx - ax), ay + share * (by - ay))


def test_the_halls_have_the_stated_sizes():
    assert (SIMPLE.size.tolist(), COMPLEX.size.tolist()) == ([20, 20], [40, 30])
    sides = [np.sort(part.racks[:, 2:] - part.racks[:, :2], 1) for part in (SIMPLE, COMPLEX)]
    assert sides[0].tolist() == [[1, 4]] * 6
    assert sides[1][:24].tolist() == [[1, 5]] * 24
    assert np.diff(COMPLEX.ends).sum() == pytest.approx(COMPLEX.lane_length)
    assert SIMPLE.diagonal == pytest.approx(20 * math.sqrt(2))


@pytest.mark.parametrize(("inner", "entrance"), [((36, 9), (38.5, 6)), ((3, 15), (1.5, 12))])
def test_the_complex_hall_has_two_dead_ends(inner, entrance):
    """Each is a part of an aisle that one gap in a row of racks leads to, and no other."""
    assert is_reached(reachable(COMPLEX), *inner)
    assert not is_reached(reachable(COMPLEX, [(*entrance, 1.6)]), *inner)


def test_gaps_of_neighbouring_rows_are_not_opposite_to_each_other():
    for low, high in ((0, 6), (6, 12), (12, 18)):
        one, other = COMPLEX.racks[low:high], COMPLEX.racks[high : high + 6]
        x = np.arange(0.05, 40, 0.1)
        gaps = [
            ~((x[:, None] > row[:, 0]) & (x[:, None] < row[:, 2])).any(1) for row in (one, other)
        ]
        assert not (gaps[0] & gaps[1]).any()
        assert [part.mean() for part in gaps] == pytest.approx([0.25, 0.25], abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"racks": [(8, 8, 12, 9)]}, "a rack is empty or not inside"),
        ({"racks": [(8, 8, 8, 9)]}, "a rack is empty or not inside"),
        ({"bay": (-1, 1, 2, 2)}, "the bay is empty or not inside"),
        ({"lane": [(1, 1)]}, "the lane has 1 corners"),
        ({"lane": [(1, 1), (11, 1)]}, "the lane leaves the hall"),
    ],
)
def test_invalid_layouts_are_refused(change, message):
    plan = {
        "size": (10, 10),
        "racks": [(4, 4, 6, 6)],
        "bay": (1, 1, 2, 2),
        "lane": [(8, 8), (8, 2)],
    }
    Layout(**plan)
    with pytest.raises(ValueError, match=message):
        Layout(**plan | change)
