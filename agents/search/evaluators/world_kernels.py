"""Kernels of `WorldEvaluator`: whole episodes of many genomes in one call."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from firstlight.agents.search.controller_kernels import respond
from firstlight.envs.worlds.curling_kernels import play
from firstlight.envs.worlds.redundant_arm_kernels import move_arms
from firstlight.envs.worlds.robot_kernels import bump, drive, read_lasers


@njit(cache=True, nogil=True)
def run_mazes(
    genomes, sizes, start, max_travel, laser_unit, clearance, blocked, at, scenes, before
):
    """Run robots of `HardMaze`.

    Numbers pass through float32 where they do between `HardMaze` and a policy.

    Args:
        genomes: [B, G].
        sizes: of the network.
        start: [3] pose.
        max_travel: units.
        laser_unit: by which distances are divided.
        clearance: of the map.
        blocked: of the map.
        at: [S] int64, steps after which the pose is written; the last is the end.
        scenes: [B, S, 3] float64, written: poses.
        before: [B, 2] float64, written: x and y before the last move.
    """
    widest = 0
    for size in sizes:
        widest = max(widest, size)
    values, spare = np.empty(widest), np.empty(widest)
    for b in range(len(genomes)):
        x, y, heading = start[0], start[1], start[2]
        left = right = 0.0
        first, second, third = read_lasers(x, y, math.cos(heading), math.sin(heading), clearance)
        s = 0
        for t in range(1, at[-1] + 1):
            values[0] = np.float64(np.float32(first / laser_unit))
            values[1] = np.float64(np.float32(second / laser_unit))
            values[2] = np.float64(np.float32(third / laser_unit))
            values[3], values[4] = left, right
            respond(genomes[b], sizes, values, spare)
            go_left = np.float64(np.float32(values[0])) * max_travel
            go_right = np.float64(np.float32(values[1])) * max_travel
            before[b, 0], before[b, 1] = x, y
            x, y, heading, i, j = drive(x, y, heading, go_left, go_right, blocked)
            cosine, sine = math.cos(heading), math.sin(heading)
            left = right = 0.0
            if i >= 0:
                left, right = bump(i, j, cosine, sine, clearance)
            first, second, third = read_lasers(x, y, cosine, sine, clearance)
            while s < len(at) and t == at[s]:
                scenes[b, s, 0], scenes[b, s, 1], scenes[b, s, 2] = x, y, heading
                s += 1


@njit(cache=True, nogil=True)
def run_curling(genomes, sizes, start, limits, at, scenes):
    """Run arms and balls of `Curling`.

    Args:
        genomes: [B, G].
        sizes: of the network.
        start: [2] position of the ball.
        limits: [2] of the joints.
        at: [S] int64, as for `run_mazes`.
        scenes: [B, S, 4] float64, written: x and y of the ball, both angles.
    """
    widest = 0
    for size in sizes:
        widest = max(widest, size)
    values, spare = np.empty(widest), np.empty(widest)
    balls, angles, speeds = np.zeros((1, 4)), np.zeros((1, 2)), np.zeros((1, 2))
    actions = np.zeros((1, 2), np.float32)
    for b in range(len(genomes)):
        balls[:], angles[:], speeds[:] = 0.0, 0.0, 0.0
        balls[0, 0], balls[0, 1] = start[0], start[1]
        s = 0
        for t in range(1, at[-1] + 1):
            for k in range(2):
                values[k] = np.float64(np.float32(balls[0, k]))
                values[2 + k] = np.float64(np.float32(angles[0, k]))
                values[4 + k] = np.float64(np.float32(speeds[0, k]))
            respond(genomes[b], sizes, values, spare)
            actions[0, 0], actions[0, 1] = values[0], values[1]
            play(balls, angles, speeds, actions, limits)
            while s < len(at) and t == at[s]:
                scenes[b, s, 0], scenes[b, s, 1] = balls[0, 0], balls[0, 1]
                scenes[b, s, 2], scenes[b, s, 3] = angles[0, 0], angles[0, 1]
                s += 1


@njit(cache=True, nogil=True)
def run_arms(genomes, sizes, first_angles, first_tip, walls, at, scenes, steps, stuck):
    """Run arms of `RedundantArm` until an illegal move or the end.

    Args:
        genomes: [B, G].
        sizes: of the network.
        first_angles: [J] rad.
        first_tip: [2].
        walls: [W, 4].
        at: [S] int64, as for `run_mazes`.
        scenes: [B, S, 2 + J] float64, written: the tip, then the angles.
        steps: [B] int64, written: steps until the end.
        stuck: [B] bool, written: an illegal move was the end.
    """
    widest, joints = 0, len(first_angles)
    for size in sizes:
        widest = max(widest, size)
    values, spare = np.empty(widest), np.empty(widest)
    angles, speeds, tips = np.empty((1, joints)), np.empty((1, joints)), np.empty((1, 2))
    actions, illegal = np.empty((1, joints), np.float32), np.empty(1, np.bool_)
    for b in range(len(genomes)):
        angles[0], speeds[0], tips[0] = first_angles, 0.0, first_tip
        s, t = 0, 0
        illegal[0] = False
        while t < at[-1] and not illegal[0]:
            t += 1
            for j in range(joints):
                values[j] = np.float64(np.float32(angles[0, j] / math.pi))
            respond(genomes[b], sizes, values, spare)
            for j in range(joints):
                actions[0, j] = values[j]
            move_arms(angles, speeds, actions, walls, tips, illegal)
            while s < len(at) and (t == at[s] or illegal[0]):
                scenes[b, s, :2], scenes[b, s, 2:] = tips[0], angles[0]
                s += 1
        steps[b], stuck[b] = t, illegal[0]
