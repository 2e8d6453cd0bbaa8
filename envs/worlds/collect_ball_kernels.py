"""Kernels of `CollectBall`: what a robot takes, puts down and sees of lights."""

from __future__ import annotations

import math

from numba import njit

from firstlight.envs.worlds.robot_kernels import bump, drive, read_lasers, to_pixel, trace

REACH = 10.0  # units: how near a ball or the drop zone must be
LYING, HELD, GONE = 0, 1, 2  # states of a ball
SECTOR = math.radians(25)  # half the angle that a light sensor sees
ASIDE = math.radians(20)  # from the heading to the middle of a sector


@njit(cache=True, nogil=True)
def handle(x, y, closes, drop, places, states):
    """Take, put down or deliver a ball of one robot; returns the reward.

    Args:
        x: of the robot, units.
        y: of the robot.
        closes: whether its gripper closes.
        drop: [2] drop zone.
        places: [B, 2] float64 of the balls, changed.
        states: [B] int64, changed.
    """
    held = -1
    for b in range(len(states)):
        if states[b] == HELD:
            held = b
    if closes and held < 0:
        for b in range(len(states)):
            if states[b] == LYING and math.hypot(places[b, 0] - x, places[b, 1] - y) <= REACH:
                states[b] = HELD
                return 0.0
    elif not closes and held >= 0:
        if math.hypot(drop[0] - x, drop[1] - y) <= REACH:
            states[held] = GONE
            return 1.0
        states[held] = LYING
        places[held, 0], places[held, 1] = x, y
    return 0.0


@njit(cache=True, nogil=True)
def see_light(x, y, heading, light_x, light_y, clearance):
    """Whether the left and the right sector of a robot show a light: (left, right), 0.0 or 1.0.

    One at the robot's own place is in no direction, and is not seen.
    """
    if light_x == x and light_y == y:
        return 0.0, 0.0
    if trace(to_pixel(x), to_pixel(y), to_pixel(light_x), to_pixel(light_y), clearance) >= 0:
        return 0.0, 0.0
    bearing = math.atan2(light_y - y, light_x - x) - heading
    bearing = math.atan2(math.sin(bearing), math.cos(bearing))
    left = 1.0 if abs(bearing + ASIDE) <= SECTOR else 0.0
    right = 1.0 if abs(bearing - ASIDE) <= SECTOR else 0.0
    return left, right


@njit(cache=True, nogil=True)
def sense_collector(pose, drop, places, states, clearance, sensors):
    """Write lasers, lights and grip of one robot.

    Args:
        pose: [3].
        drop: [2] drop zone.
        places: [B, 2] of the balls.
        states: [B] int64.
        clearance: [W, H] uint8 of the map.
        sensors: [10] float64, changed: three lasers in units, two bumpers that are left as they
            are, a ball to the left and to the right, the drop zone to the right and to the left,
            and whether a ball is held.
    """
    x, y, heading = pose[0], pose[1], pose[2]
    first, second, third = read_lasers(x, y, math.cos(heading), math.sin(heading), clearance)
    sensors[0], sensors[1], sensors[2] = first, second, third
    sensors[5:10] = 0.0
    for b in range(len(states)):
        if states[b] == HELD:
            sensors[9] = 1.0
        elif states[b] == LYING:
            left, right = see_light(x, y, heading, places[b, 0], places[b, 1], clearance)
            sensors[5], sensors[6] = max(sensors[5], left), max(sensors[6], right)
    left, right = see_light(x, y, heading, drop[0], drop[1], clearance)
    sensors[7], sensors[8] = right, left


@njit(cache=True, nogil=True)
def step_collectors(
    pose, travel, grip, drop, places, states, before_move, clearance, blocked, sensors, reward
):
    """Move each robot, let it take or put down a ball, and read its sensors.

    Args:
        pose: [N, 3] float64, changed.
        travel: [N, 2] float64 of both wheels, units.
        grip: [N] the gripper closes where it is above 0.
        drop: [2] drop zone.
        places: [N, B, 2] float64 of the balls, changed.
        states: [N, B] int64, changed.
        before_move: compare with the position before the move.
        clearance: [W, H] uint8 of the map.
        blocked: [W, H] bool of the map.
        sensors: [N, 10] float64, changed, see `sense_collector`.
        reward: [N] float64, written.
    """
    for n in range(len(pose)):
        old_x, old_y = pose[n, 0], pose[n, 1]
        x, y, heading, i, j = drive(old_x, old_y, pose[n, 2], travel[n, 0], travel[n, 1], blocked)
        pose[n, 0], pose[n, 1], pose[n, 2] = x, y, heading
        sensors[n, 3] = sensors[n, 4] = 0.0
        if i >= 0:
            sensors[n, 3], sensors[n, 4] = bump(
                i, j, math.cos(heading), math.sin(heading), clearance
            )
        if before_move:
            x, y = old_x, old_y
        reward[n] = handle(x, y, grip[n] > 0, drop, places[n], states[n])
        sense_collector(pose[n], drop, places[n], states[n], clearance, sensors[n])


@njit(cache=True, nogil=True)
def sense_collectors(pose, drop, places, states, clearance, sensors):
    """Write the sensors of robots that have not moved, without bumpers; [N, ...] each."""
    for n in range(len(pose)):
        sensors[n] = 0.0
        sense_collector(pose[n], drop, places[n], states[n], clearance, sensors[n])
