"""Kernel of `RedundantArm`: motion of a chain of links, and what makes a move illegal."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

DT = 0.01  # seconds, of each of the two moves of a step
LINK = 0.05  # length of a link; the arena is 1 x 1
CLOSEST = 0.95 * LINK  # two points of an arm are at least this far apart, in taxicab distance


@njit(cache=True, nogil=True)
def place(angles, points):
    """Write the points of an arm.

    Args:
        angles: [J] of each link relative to the one before, rad; the first relative to upwards.
        points: [J + 1, 2] float64, written: the base at (0.5, 0.5), then the end of each link.
    """
    points[0, 0] = points[0, 1] = 0.5
    heading = math.pi / 2
    for j in range(len(angles)):
        heading += angles[j]
        points[j + 1, 0] = points[j, 0] + LINK * math.cos(heading)
        points[j + 1, 1] = points[j, 1] + LINK * math.sin(heading)


@njit(cache=True, nogil=True)
def is_legal(points, walls):
    """Whether an arm is in the arena, clear of walls, and not too close to itself.

    Args:
        points: [J + 1, 2] of `place`.
        walls: [W, 4] x, y, width, height.
    """
    for j in range(len(points)):
        x, y = points[j, 0], points[j, 1]
        if not (0.0 <= x < 1.0 and 0.0 <= y < 1.0):
            return False
        for w in range(len(walls)):
            inside_x = walls[w, 0] < x < walls[w, 0] + walls[w, 2]
            if inside_x and walls[w, 1] < y < walls[w, 1] + walls[w, 3]:
                return False
        for k in range(j):
            if abs(x - points[k, 0]) + abs(y - points[k, 1]) < CLOSEST:
                return False
    return True


@njit(cache=True, nogil=True)
def move_arms(angles, speeds, actions, walls, tips, illegal):
    """Make the two moves of a step; an arm stops at the first illegal one, which is not made.

    Args:
        angles: [N, J] float64, changed, rad.
        speeds: [N, J] float64, changed, rad/s.
        actions: [N, J] float32, acceleration of each joint in rad/s².
        walls: [W, 4] x, y, width, height.
        tips: [N, 2] float64, changed: the last point of each arm.
        illegal: [N] bool, written.
    """
    joints = angles.shape[1]
    turned, points = np.empty(joints), np.empty((joints + 1, 2))
    for n in range(len(angles)):
        illegal[n] = False
        for _ in range(2):
            for j in range(joints):
                a = np.float64(actions[n, j])
                turned[j] = angles[n, j] + speeds[n, j] * DT + a / 2 * DT * DT
            place(turned, points)
            x, y = points[joints, 0], points[joints, 1]
            moved = math.hypot(x - tips[n, 0], y - tips[n, 1])
            last = (turned[joints - 1] - angles[n, joints - 1]) / DT
            if moved / 2 + last > 1.0 or not is_legal(points, walls):
                illegal[n] = True
                break
            for j in range(joints):
                speeds[n, j] = (turned[j] - angles[n, j]) / DT  # grows by only half of a * DT
                angles[n, j] = turned[j]
            tips[n, 0], tips[n, 1] = x, y
