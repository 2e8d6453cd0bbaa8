"""Kernel that draws small pictures of discs and bars, with smooth edges."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def draw_capsules(background, capsules, colours, pictures):
    """Draw capsules over a background.

    Args:
        background: [H, W, 3] float64.
        capsules: [B, C, 5] float64: both ends and the radius of each, in pixels from the upper left
            corner, x to the right and y down; a disc has equal ends.
        colours: [C, 3] float64.
        pictures: [B, H, W, 3] uint8, written.
    """
    height, width = background.shape[:2]
    canvas = np.empty_like(background)
    for b in range(len(capsules)):
        canvas[:] = background
        for c in range(capsules.shape[1]):
            ax, ay, bx, by, radius = capsules[b, c]
            left = max(0, math.floor(min(ax, bx) - radius - 1))
            right = min(width, math.ceil(max(ax, bx) + radius + 1))
            top = max(0, math.floor(min(ay, by) - radius - 1))
            bottom = min(height, math.ceil(max(ay, by) + radius + 1))
            dx, dy = bx - ax, by - ay
            length = dx * dx + dy * dy
            for row in range(top, bottom):
                for column in range(left, right):
                    px, py = column + 0.5 - ax, row + 0.5 - ay
                    share = 0.0
                    if length > 0:
                        share = min(max((px * dx + py * dy) / length, 0.0), 1.0)
                    gap = math.hypot(px - share * dx, py - share * dy)
                    cover = min(max(radius - gap + 0.5, 0.0), 1.0)
                    if cover > 0:
                        for k in range(3):
                            old = canvas[row, column, k]
                            canvas[row, column, k] = old + cover * (colours[c, k] - old)
        for row in range(height):
            for column in range(width):
                for k in range(3):
                    pictures[b, row, column, k] = np.uint8(canvas[row, column, k] + 0.5)
