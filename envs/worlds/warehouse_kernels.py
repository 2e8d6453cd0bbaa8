"""Kernels of `warehouse`: motion of the vehicles, lidar and line of sight."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_X, _Y, _HEADING = range(3)
_TINY = 1e-12  # least size of a component of a direction, so that nothing is divided by 0


@njit(cache=True, nogil=True)
def _is_free(x, y, racks, width, height, radius):
    """Return whether a disc touches neither the walls nor a rack."""
    if x < radius or y < radius or x > width - radius or y > height - radius:
        return False
    for k in range(len(racks)):
        dx = max(racks[k, 0] - x, 0.0, x - racks[k, 2])
        dy = max(racks[k, 1] - y, 0.0, y - racks[k, 3])
        if dx * dx + dy * dy < radius * radius:
            return False
    return True


@njit(cache=True, nogil=True)
def _approach(value, goal, step):
    """Change `value` towards `goal` by at most `step`."""
    return value + min(max(goal - value, -step), step)


@njit(cache=True, nogil=True)
def move(pose, speed, actions, contact, racks, size, radius, dt, limits, acceleration):
    """Move each vehicle for `dt` seconds: a unicycle whose speeds follow the actions.

    Speeds change by at most `acceleration` and are then constant for the step, so the path is an
    arc, which is computed exactly. A vehicle that would touch a wall or a rack turns but stays
    where it is, and its forward speed becomes 0.

    Args:
        pose: [N, 3] float64, changed: x and y in metres, heading in rad.
        speed: [N, 2] float64, changed: forward speed in m/s, turning speed in rad/s.
        actions: [N, 2] float32 from -1 to 1, the two speeds to reach, between their limits.
        contact: [N] bool, written: whether the vehicle was stopped.
        racks: [R, 4] lower x, lower y, upper x, upper y.
        size: [2] width and height of the hall.
        radius: of the vehicles, m.
        dt: seconds.
        limits: [3] of the speed forwards, backwards, and of turning.
        acceleration: [2] most change of the speeds, m/s² and rad/s².
    """
    for n in range(len(pose)):
        forward = (limits[0] - limits[1]) / 2 + actions[n, 0] * (limits[0] + limits[1]) / 2
        v = _approach(speed[n, 0], forward, acceleration[0] * dt)
        turn = _approach(speed[n, 1], actions[n, 1] * limits[2], acceleration[1] * dt)
        half = turn * dt / 2
        chord = v * dt * (math.sin(half) / half if abs(half) > 1e-9 else 1.0)
        middle = pose[n, _HEADING] + half
        x = pose[n, _X] + chord * math.cos(middle)
        y = pose[n, _Y] + chord * math.sin(middle)
        contact[n] = not _is_free(x, y, racks, size[0], size[1], radius)
        if contact[n]:
            v = 0.0
        else:
            pose[n, _X] = x
            pose[n, _Y] = y
        pose[n, _HEADING] = (middle + half) % (2 * math.pi)
        speed[n, 0] = v
        speed[n, 1] = turn


@njit(cache=True, nogil=True)
def locate(place, corners, ends, target):
    """Write where each target is.

    Args:
        place: [N] float64, distance along the lane from its first corner, also negative or
            longer than the lane.
        corners: [C + 1, 2] of the lane, the first one repeated at the end.
        ends: [C + 1] distance of each corner, from 0 to the length of the lane.
        target: [N, 2] float64, written: x and y.
    """
    for n in range(len(place)):
        s = place[n] % ends[-1]
        side = 1
        while side < len(ends) - 1 and s > ends[side]:
            side += 1
        share = (s - ends[side - 1]) / (ends[side] - ends[side - 1])
        for i in range(2):
            target[n, i] = corners[side - 1, i] + share * (corners[side, i] - corners[side - 1, i])


@njit(cache=True, nogil=True)
def judge(pose, target, contact, elapsed, rules, collisions, found, reward, terminated, truncated):
    """Count collisions, and write the rewards of a step and the ends of episodes.

    Args:
        pose: [N, 3] after the step.
        target: [N, 2] after the step.
        contact: [N] bool, whether the vehicle was stopped.
        elapsed: [N] int64, steps of the episode with this one.
        rules: [4] float64: distance at which the target is reached, reward of a collision, 1 if a
            collision ends the episode, step limit.
        collisions: [N] int64, changed.
        found: [N] bool, written: whether the target is reached.
        reward: [N] float32, written.
        terminated: [N] bool, written.
        truncated: [N] bool, written.
    """
    for n in range(len(pose)):
        dx, dy = target[n, 0] - pose[n, _X], target[n, 1] - pose[n, _Y]
        found[n] = dx * dx + dy * dy <= rules[0] * rules[0]
        reward[n] = 1.0 if found[n] else 0.0
        if contact[n]:
            collisions[n] += 1
            reward[n] += rules[1]
        terminated[n] = found[n] or (contact[n] and rules[2] > 0)
        truncated[n] = not terminated[n] and elapsed[n] >= rules[3]


@njit(cache=True, nogil=True)
def _entry(x, y, dx, dy, box):
    """Distance along a ray at which it enters `box` [4], infinite if it does not."""
    left, right = (box[0] - x) / dx, (box[2] - x) / dx
    below, above = (box[1] - y) / dy, (box[3] - y) / dy
    enters = max(min(left, right), min(below, above))
    leaves = min(max(left, right), max(below, above))
    return max(enters, 0.0) if leaves >= max(enters, 0.0) else np.inf


@njit(cache=True, nogil=True)
def _direction(component):
    """Component of a direction, moved away from 0."""
    return math.copysign(max(abs(component), _TINY), component)


@njit(cache=True, nogil=True)
def sense(pose, speed, target, racks, size, beams, reach, sight, units, lidar, motion, relative):
    """Write what each vehicle senses.

    A beam begins at the middle of the vehicle and measures the distance to the first rack or wall.

    Args:
        pose: [N, 3] x, y, heading.
        speed: [N, 2].
        target: [N, 2] position of each vehicle's target.
        racks: [R, 4] lower x, lower y, upper x, upper y.
        size: [2] width and height of the hall.
        beams: [B, 2] directions relative to the heading, of length 1.
        reach: of the beams, m.
        sight: distance up to which the target is seen, if no rack is between; a negative number
            shows it everywhere, also through racks.
        units: [3] of the two speeds and of the distance to the target.
        lidar: [N, B] float32, written: distances, as shares of `reach`, at most 1.
        motion: [N, 2] float32, written: the speeds.
        relative: [N, 3] float32, written: distance, cosine and sine of the direction to the target
            relative to the heading; zeros if it is not seen.
    """
    close = np.empty(len(racks), np.int64)
    for n in range(len(pose)):
        x, y = pose[n, _X], pose[n, _Y]
        cosine, sine = math.cos(pose[n, _HEADING]), math.sin(pose[n, _HEADING])
        motion[n, 0] = speed[n, 0] / units[0]
        motion[n, 1] = speed[n, 1] / units[1]
        count = 0
        for k in range(len(racks)):  # the others are too far for every beam
            aside = max(racks[k, 0] - x, 0.0, x - racks[k, 2])
            along = max(racks[k, 1] - y, 0.0, y - racks[k, 3])
            if aside * aside + along * along < reach * reach:
                close[count] = k
                count += 1
        for b in range(len(beams)):
            dx = _direction(cosine * beams[b, 0] - sine * beams[b, 1])
            dy = _direction(sine * beams[b, 0] + cosine * beams[b, 1])
            first = min((size[0] - x if dx > 0 else -x) / dx, (size[1] - y if dy > 0 else -y) / dy)
            for i in range(count):
                first = min(first, _entry(x, y, dx, dy, racks[close[i]]))
            lidar[n, b] = min(first / reach, 1.0)
        dx, dy = target[n, 0] - x, target[n, 1] - y
        distance = max(math.sqrt(dx * dx + dy * dy), _TINY)
        dx, dy = dx / distance, dy / distance
        seen = sight < 0 or distance <= sight
        if seen and sight >= 0:
            for k in range(len(racks)):
                if _entry(x, y, _direction(dx), _direction(dy), racks[k]) < distance:
                    seen = False
                    break
        relative[n, 0] = distance / units[2] if seen else 0.0
        relative[n, 1] = cosine * dx + sine * dy if seen else 0.0
        relative[n, 2] = cosine * dy - sine * dx if seen else 0.0
