"""Kernel of `Curling`: an arm that obeys its speeds, and a ball that it pushes.

The contact model is ours, in place of Box2D's: the arm has no mass and obeys; the ball is a disc
without spin or friction; each link is a capsule. See `Curling`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

DT, SUBSTEPS = 1.0 / 60.0, 4
BASE_Y = -1.5  # of the first joint, at x = 0; y is up
UPPER = 1.0  # from the first joint to the second
LOWER = 0.9  # from the second joint to the tip
HALF_WIDTH = 0.05  # of a link
BALL = 0.15  # radius
INNER = 1.45  # distance of the inner face of each wall from the middle
DAMPING = 1.1  # 1/s
BOUNCE, BOUNCE_ABOVE = 0.9, 1.0  # restitution, and the approach speed above which it counts
_TOLERANCE = 1e-6  # overlap of ball and link above which the arm is held


@njit(cache=True, nogil=True)
def joints_at(first, second):
    """Compute the second joint and the middle of the round end, x and y each, from angles in rad.

    Angles are counter-clockwise; both 0 is straight up.
    """
    x, y = -UPPER * math.sin(first), BASE_Y + UPPER * math.cos(first)
    reach = LOWER - HALF_WIDTH
    return x, y, x - reach * math.sin(first + second), y + reach * math.cos(first + second)


@njit(cache=True, nogil=True)
def _fits(first, second):
    """Whether the end of the arm is between the walls."""
    _, _, x, y = joints_at(first, second)
    return abs(x) <= INNER - HALF_WIDTH and y >= -INNER + HALF_WIDTH


@njit(cache=True, nogil=True)
def _rebound(vx, vy, nx, ny, speed):
    """Velocity after a contact with normal `n`, whose surface moves at `speed` along the normal."""
    approach = speed - (vx * nx + vy * ny)
    if approach <= 0:
        return vx, vy
    gain = approach * (1.0 + (BOUNCE if approach > BOUNCE_ABOVE else 0.0))
    return vx + gain * nx, vy + gain * ny


@njit(cache=True, nogil=True)
def _meet_link(ball, ax, ay, bx, by, shoulder, elbow):
    """Push the ball out of a link from a to b, and change its velocity. Returns whether it touched.

    Args:
        ball: [4] x, y and velocity, changed.
        ax: of a.
        ay: of a.
        bx: of b.
        by: of b.
        shoulder: speed of the first joint, rad/s, which turns the link round the base.
        elbow: speed of the joint at a, rad/s.
    """
    dx, dy = bx - ax, by - ay
    share = ((ball[0] - ax) * dx + (ball[1] - ay) * dy) / (dx * dx + dy * dy)
    share = min(max(share, 0.0), 1.0)
    px, py = ax + share * dx, ay + share * dy
    nx, ny = ball[0] - px, ball[1] - py
    gap = math.hypot(nx, ny)
    if gap >= BALL + HALF_WIDTH or gap == 0.0:
        return False
    nx, ny = nx / gap, ny / gap
    ball[0], ball[1] = px + nx * (BALL + HALF_WIDTH), py + ny * (BALL + HALF_WIDTH)
    cx, cy = px + nx * HALF_WIDTH, py + ny * HALF_WIDTH
    speed = shoulder * (cx * ny - (cy - BASE_Y) * nx) + elbow * ((cx - ax) * ny - (cy - ay) * nx)
    ball[2], ball[3] = _rebound(ball[2], ball[3], nx, ny, speed)
    return True


@njit(cache=True, nogil=True)
def _meet_arm(ball, angles, speeds):
    """Let the ball meet both links of an arm. Returns whether it touched one."""
    x, y, end_x, end_y = joints_at(angles[0], angles[1])
    first = _meet_link(ball, 0.0, BASE_Y, x, y, speeds[0], 0.0)
    return _meet_link(ball, x, y, end_x, end_y, speeds[0], speeds[1]) or first


@njit(cache=True, nogil=True)
def _meet_walls(ball):
    """Let the ball meet the four walls."""
    limit = INNER - BALL
    for k in range(2):
        if abs(ball[k]) > limit:
            side = 1.0 if ball[k] > 0 else -1.0
            ball[k] = side * limit
            nx, ny = (-side, 0.0) if k == 0 else (0.0, -side)
            ball[2], ball[3] = _rebound(ball[2], ball[3], nx, ny, 0.0)


@njit(cache=True, nogil=True)
def overlap(ball_x, ball_y, first, second):
    """Depth by which a ball overlaps an arm, 0 if it does not."""
    x, y, end_x, end_y = joints_at(first, second)
    deepest = 0.0
    for ax, ay, bx, by in ((0.0, BASE_Y, x, y), (x, y, end_x, end_y)):
        dx, dy = bx - ax, by - ay
        share = ((ball_x - ax) * dx + (ball_y - ay) * dy) / (dx * dx + dy * dy)
        share = min(max(share, 0.0), 1.0)
        gap = math.hypot(ball_x - ax - share * dx, ball_y - ay - share * dy)
        deepest = max(deepest, BALL + HALF_WIDTH - gap)
    return deepest


@njit(cache=True, nogil=True)
def play(balls, angles, speeds, actions, limits):
    """Step each table by 1/60 s.

    Args:
        balls: [N, 4] float64, changed: x, y and velocity.
        angles: [N, 2] float64, changed, rad.
        speeds: [N, 2] float64, written: of the joints, rad/s; 0 where one is stopped.
        actions: [N, 2] float32, wanted speeds of the joints, rad/s.
        limits: [2] most angle of each joint.
    """
    h = DT / SUBSTEPS
    before = np.empty(4)
    for n in range(len(balls)):
        ball = balls[n]
        ball[2] /= 1.0 + DAMPING * DT
        ball[3] /= 1.0 + DAMPING * DT
        for k in range(2):
            speeds[n, k] = actions[n, k]
        for _ in range(SUBSTEPS):
            first, second = angles[n, 0], angles[n, 1]
            for k in range(2):
                old = angles[n, k]
                angles[n, k] = min(max(old + speeds[n, k] * h, -limits[k]), limits[k])
                if not _fits(angles[n, 0], angles[n, 1]):
                    angles[n, k] = old
                if angles[n, k] == old:
                    speeds[n, k] = 0.0
            ball[0] += ball[2] * h
            ball[1] += ball[3] * h
            before[:] = ball
            touched = _meet_arm(ball, angles[n], speeds[n])
            _meet_walls(ball)
            if touched and overlap(ball[0], ball[1], angles[n, 0], angles[n, 1]) > _TOLERANCE:
                ball[:] = before  # pinned: the arm is held, as a heavy ball would hold it
                angles[n, 0], angles[n, 1] = first, second
                speeds[n, 0] = speeds[n, 1] = 0.0
                _meet_arm(ball, angles[n], speeds[n])
                _meet_walls(ball)
