"""Kernels of the wheeled robot of `HardMaze` and `CollectBall`: motion, lasers, bumpers.

Maps are grids of pixels with a margin on each side, so that no kernel needs a check of bounds.
Lengths are in units, three a pixel. x is to the right and y down: positive angles turn right.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

PIXEL = 3.0  # units
MARGIN = 40  # pixels of wall around a map, more than the range of a laser and a step
RADIUS = 10.0  # of the robot in units; it touches walls within 3 pixels of its centre's pixel
LASER_RANGE = 100.0  # units
LASERS = (math.pi / 4, 0.0, -math.pi / 4)  # directions relative to the heading
_DISC = 3  # pixels
_HALF = math.sqrt(0.5)
_STRAIGHT = 1e-10  # rad: a step that turns by no more is a straight one


@njit(cache=True, nogil=True)
def to_pixel(length):
    """Index, in a map with its margin, of the pixel at a coordinate in units."""
    return math.floor(length / PIXEL + 0.5) + MARGIN


@njit(cache=True, nogil=True)
def drive(x, y, heading, left, right, blocked):
    """Move a robot whose wheels travel `left` and `right` units, on an arc.

    The published formula goes round a centre left/turn + `RADIUS` away, which loses digits in small
    turns; this is the chord of the same arc. A robot that would touch a wall turns and stays.

    Args:
        x: units.
        y: units.
        heading: rad.
        left: travel of the wheel `RADIUS` to the left of the centre, units.
        right: that of the other wheel.
        blocked: [W, H] bool, pixels where the robot's centre would touch a wall.

    Returns:
        x, y, heading from -pi to pi, and the x and y of the pixel that it tried to reach if it was
        stopped, else -1 twice.
    """
    turn = (right - left) / (2.0 * RADIUS)
    if abs(turn) <= _STRAIGHT:
        turn, chord = 0.0, left
    else:
        chord = (left + right) * math.sin(turn / 2) / turn
    middle = heading + turn / 2
    new_x, new_y = x + chord * math.cos(middle), y + chord * math.sin(middle)
    heading += turn
    if heading > math.pi:
        heading -= 2 * math.pi
    elif heading <= -math.pi:
        heading += 2 * math.pi
    i, j = to_pixel(new_x), to_pixel(new_y)
    if blocked[i, j]:
        return x, y, heading, i, j
    return new_x, new_y, heading, -1, -1


@njit(cache=True, nogil=True)
def bump(i, j, cosine, sine, clearance):
    """Which side of a robot centred at pixel i, j touches walls: (left, right), each 0.0 or 1.0.

    The right side are wall pixels inside of the disc at a bearing between 0 and pi/2, the left side
    those between -pi/2 and 0. `cosine` and `sine` are those of the heading.
    """
    left = right = 0.0
    for dx in range(-_DISC, _DISC + 1):
        for dy in range(-_DISC, _DISC + 1):
            if dx * dx + dy * dy <= _DISC * _DISC and clearance[i + dx, j + dy] == 0:
                ahead, aside = cosine * dx + sine * dy, cosine * dy - sine * dx
                if ahead > 0 and aside > 0:
                    right = 1.0
                elif ahead > 0 and aside < 0:
                    left = 1.0
    return left, right


@njit(cache=True, nogil=True)
def trace(i, j, to_i, to_j, clearance):
    """Squared distance in pixels to the first wall pixel between two pixels, or -1.

    A pixel is between them if its closed square touches the line between the two centres; where the
    line goes through a corner, the nearer of the two pixels beside it counts first. In the open,
    steps are as long as `clearance` allows.

    Args:
        i: of the first pixel.
        j: of the first pixel.
        to_i: of the last pixel.
        to_j: of the last pixel.
        clearance: [W, H] uint8, see `measure_clearance`.
    """
    width = clearance.shape[1]
    flat = clearance.reshape(-1)
    far, near = abs(to_i - i), abs(to_j - j)  # along the longer axis and the other one
    along, aside = (width if to_i > i else -width), (1 if to_j > j else -1)
    if near > far:
        far, near, along, aside = near, far, aside, along
    start = i * width + j
    a = b = 0  # pixels gone along both axes
    error = near - far  # (2 a + 1) near - (2 b + 1) far: below 0, the line leaves along the longer
    share = 0.5 / max(far, 1)
    while True:
        here = start + a * along + b * aside
        room = int(flat[here])
        if room == 0:
            return a * a + b * b
        if a == far and b == near:
            return -1
        if room > 3 and a < far:
            a += min(room - 2, far - a)
            b = int((2 * a * near + far) * share)  # where the line crosses the middle of column a
            error = (2 * a + 1) * near - (2 * b + 1) * far
        elif error < 0:
            a += 1
            error += 2 * near
        elif error > 0:
            b += 1
            error -= 2 * far
        else:
            ahead, beside = flat[here + along] == 0, flat[here + aside] == 0
            if beside:  # the nearer one, since a >= b
                return a * a + (b + 1) * (b + 1)
            if ahead:
                return (a + 1) * (a + 1) + b * b
            a, b = a + 1, b + 1
            error += 2 * (near - far)


@njit(cache=True, nogil=True)
def measure(x, y, cosine, sine, clearance):
    """Reading in units, at most `LASER_RANGE`, of a laser with this direction."""
    end_i, end_j = to_pixel(x + LASER_RANGE * cosine), to_pixel(y + LASER_RANGE * sine)
    squared = trace(to_pixel(x), to_pixel(y), end_i, end_j, clearance)
    return LASER_RANGE if squared < 0 else min(math.sqrt(squared) * PIXEL, LASER_RANGE)


@njit(cache=True, nogil=True)
def read_lasers(x, y, cosine, sine, clearance):
    """Readings of the lasers of a robot whose heading has this cosine and sine."""
    return (
        measure(x, y, (cosine - sine) * _HALF, (sine + cosine) * _HALF, clearance),
        measure(x, y, cosine, sine, clearance),
        measure(x, y, (cosine + sine) * _HALF, (sine - cosine) * _HALF, clearance),
    )


@njit(cache=True, nogil=True)
def sense(pose, sensors, clearance):
    """Write the three laser readings of each robot to the first columns of `sensors`.

    Args:
        pose: [N, 3] float64, x, y, heading.
        sensors: [N, 3 or more] float64, changed.
        clearance: [W, H] uint8, see `measure_clearance`.
    """
    for n in range(len(pose)):
        x, y, heading = pose[n, 0], pose[n, 1], pose[n, 2]
        first, second, third = read_lasers(x, y, math.cos(heading), math.sin(heading), clearance)
        sensors[n, 0], sensors[n, 1], sensors[n, 2] = first, second, third


@njit(cache=True, nogil=True)
def step_robots(pose, travel, sensors, clearance, blocked):
    """Move each robot, then read its lasers and bumpers.

    Args:
        pose: [N, 3] float64, changed.
        travel: [N, 2] float64, of the left and the right wheel in units.
        sensors: [N, 5 or more] float64, changed: three lasers, left and right bumper.
        clearance: [W, H] uint8, see `measure_clearance`.
        blocked: [W, H] bool, see `drive`.
    """
    for n in range(len(pose)):
        x, y, heading, i, j = drive(
            pose[n, 0], pose[n, 1], pose[n, 2], travel[n, 0], travel[n, 1], blocked
        )
        pose[n, 0], pose[n, 1], pose[n, 2] = x, y, heading
        cosine, sine = math.cos(heading), math.sin(heading)
        sensors[n, 3] = sensors[n, 4] = 0.0
        if i >= 0:
            sensors[n, 3], sensors[n, 4] = bump(i, j, cosine, sine, clearance)
        first, second, third = read_lasers(x, y, cosine, sine, clearance)
        sensors[n, 0], sensors[n, 1], sensors[n, 2] = first, second, third


@njit(cache=True, nogil=True)
def measure_clearance(walls):
    """Distance of each pixel to the nearest wall pixel, in king's moves; at most 255.

    Args:
        walls: [W, H] bool.

    Returns:
        [W, H] uint8, 0 in walls.
    """
    width, height = walls.shape
    clearance = np.where(walls, 0, 255).astype(np.uint8)
    for sweep in range(2):  # a pass of the chamfer transform in each direction
        sign = 1 - 2 * sweep
        for k in range(width):
            i = k if sweep == 0 else width - 1 - k
            for m in range(height):
                j = m if sweep == 0 else height - 1 - m
                for di, dj in ((-1, -1), (-1, 0), (-1, 1), (0, -1)):
                    p, q = i + sign * di, j + sign * dj
                    if 0 <= p < width and 0 <= q < height and clearance[p, q] < clearance[i, j]:
                        clearance[i, j] = clearance[p, q] + 1
    return clearance


@njit(cache=True, nogil=True)
def measure_blocked(walls):
    """Pixels where a robot's centre would touch a wall, [W, H] bool like `walls`."""
    blocked = np.ones_like(walls)
    width, height = walls.shape
    for i in range(_DISC, width - _DISC):
        for j in range(_DISC, height - _DISC):
            found = False
            for dx in range(-_DISC, _DISC + 1):
                for dy in range(-_DISC, _DISC + 1):
                    if dx * dx + dy * dy <= _DISC * _DISC and walls[i + dx, j + dy]:
                        found = True
            blocked[i, j] = found
    return blocked
