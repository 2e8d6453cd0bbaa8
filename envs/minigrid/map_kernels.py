"""Kernels of `map_memory`: track the agent's pose, update its map, and show it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from firstlight.envs.minigrid.cells import DOOR, EMPTY, FLOOR, GOAL, LAVA, OPEN, VIEW

REACH = 63
"""Distance from the start of the episode, along either axis, up to which cells are stored."""

SIDE = 2 * REACH + 1
BUCKETS = 7
_CLASSES = 16 * 8 * 4  # object, colour, state, packed into 4, 3 and 2 bits
_BEHELD = VIEW // 2, VIEW - 1  # the agent's own cell in its view
_ASSUMED = _CLASSES  # flag of the start cell until the view has shown it
_LEFT, _RIGHT, _FORWARD = 0, 1, 2  # MiniGrid's actions
_DX, _DY = (1, 0, -1, 0), (0, 1, 0, -1)  # a step east, south, west, north


class Memory(NamedTuple):
    """Memory of the running episodes of `N` agents.

    Cells are coded as ``object << 5 | colour << 2 | state``, 0 where nothing was seen yet, and
    stored at [x, y] with the start of the episode at [REACH, REACH].

    Args:
        cells: [N, SIDE, SIDE] int16.
        visits: [N, SIDE, SIDE] uint8, observations made from the cell, up to 255.
        places: [N, SIDE, SIDE] int32, a bit for each carried object with which the agent was there.
        changes: [N, ...] uint8, a bit for each pair of cell contents, before and after a change.
        pose: [N, 3] int64, x, y and heading (0 east, 1 south, 2 west, 3 north).
        hand: [N] int16, the agent's own cell in the view, which shows the carried object.
        ahead: [N] int16, the cell in front of the agent.
        extent: [N] int64, distance from the start up to which cells are stored so far.
        counts: [N, 3] int64, new cells, new changes and new places of the last step.
    """

    cells: np.ndarray
    visits: np.ndarray
    places: np.ndarray
    changes: np.ndarray
    pose: np.ndarray
    hand: np.ndarray
    ahead: np.ndarray
    extent: np.ndarray
    counts: np.ndarray


def blank(num_envs: int) -> Memory:
    """Create an empty memory."""
    return Memory(
        cells=np.zeros((num_envs, SIDE, SIDE), np.int16),
        visits=np.zeros((num_envs, SIDE, SIDE), np.uint8),
        places=np.zeros((num_envs, SIDE, SIDE), np.int32),
        changes=np.zeros((num_envs, _CLASSES * _CLASSES // 8), np.uint8),
        pose=np.full((num_envs, 3), (REACH, REACH, 0), np.int64),
        hand=np.zeros(num_envs, np.int16),
        ahead=np.zeros(num_envs, np.int16),
        extent=np.zeros(num_envs, np.int64),
        counts=np.zeros((num_envs, 3), np.int64),
    )


@njit(cache=True, nogil=True)
def _pack(cell):
    return (int(cell[0]) & 15) << 5 | (int(cell[1]) & 7) << 2 | (int(cell[2]) & 3)


@njit(cache=True, nogil=True)
def _unpack(cell, out):
    out[0], out[1], out[2] = cell >> 5 & 15, cell >> 2 & 7, cell & 3


@njit(cache=True, nogil=True)
def _inside(x, y):
    return 0 <= x < SIDE and 0 <= y < SIDE


@njit(cache=True, nogil=True)
def _walkable(cell):
    """Whether an agent can step onto `cell`, by MiniGrid's rule."""
    kind = cell >> 5
    return kind in (EMPTY, FLOOR, GOAL, LAVA) or (kind == DOOR and cell & 3 == OPEN)


@njit(cache=True, nogil=True)
def _move(pose, ahead, action):
    """Apply `action` to `pose` [3], given the cell ahead."""
    if action == _LEFT:
        pose[2] = (pose[2] + 3) % 4
    elif action == _RIGHT:
        pose[2] = (pose[2] + 1) % 4
    elif action == _FORWARD and _walkable(ahead):
        pose[0] += _DX[pose[2]]
        pose[1] += _DY[pose[2]]


@njit(cache=True, nogil=True)
def _first(bits, index):
    """Set a bit of `bits` [...] uint8. Returns True if it was not set."""
    byte, mask = index >> 3, 1 << (index & 7)
    known = int(bits[byte])
    bits[byte] = known | mask
    return known & mask == 0


@njit(cache=True, nogil=True)
def _look(memory, n, image):
    """Write a view [VIEW, VIEW, 3] into the map; count new cells and changes."""
    x, y, heading = memory.pose[n]
    right = (heading + 1) % 4
    cells = memory.cells[n]
    new = changed = 0
    for i in range(VIEW):
        for j in range(VIEW):
            cell = _pack(image[i, j])
            if cell >> 5 == 0 or (i, j) == _BEHELD:
                continue
            forward, aside = _BEHELD[1] - j, i - _BEHELD[0]
            u = x + forward * _DX[heading] + aside * _DX[right]
            v = y + forward * _DY[heading] + aside * _DY[right]
            if not _inside(u, v) or cells[u, v] == cell:
                continue
            old = int(cells[u, v])
            cells[u, v] = cell
            if old == 0:
                new += 1
                far = max(abs(u - REACH), abs(v - REACH))
                memory.extent[n] = max(memory.extent[n], far)
            elif old < _ASSUMED and _first(memory.changes[n], old * _CLASSES + cell):
                changed += 1
    memory.hand[n] = _pack(image[_BEHELD])
    memory.ahead[n] = _pack(image[_BEHELD[0], _BEHELD[1] - 1])
    memory.counts[n, 0], memory.counts[n, 1] = new, changed


@njit(cache=True, nogil=True)
def _arrive(memory, n):
    """Count the visit, and whether it is the first one with the carried object."""
    x, y = memory.pose[n, 0], memory.pose[n, 1]
    memory.counts[n, 2] = 0
    if not _inside(x, y):
        return
    memory.visits[n, x, y] = min(int(memory.visits[n, x, y]) + 1, 255)
    hand = int(memory.hand[n])
    held = 0 if hand >> 5 == EMPTY else 1 + (hand >> 5 & 3) * 6 + (hand >> 2 & 7) % 6
    known = int(memory.places[n, x, y])
    memory.places[n, x, y] = known | 1 << held
    memory.counts[n, 2] = known >> held & 1 == 0


@njit(cache=True, nogil=True)
def _begin(memory, n, image, heading):
    """Clear the map, and write the first view of a new episode into it."""
    low, high = REACH - memory.extent[n], REACH + memory.extent[n] + 1
    memory.cells[n, low:high] = 0
    memory.visits[n, low:high] = 0
    memory.places[n, low:high] = 0
    memory.changes[n] = 0
    memory.extent[n] = 0
    memory.pose[n, 0], memory.pose[n, 1], memory.pose[n, 2] = REACH, REACH, heading
    memory.cells[n, REACH, REACH] = _ASSUMED | EMPTY << 5
    _look(memory, n, image)
    _arrive(memory, n)
    memory.counts[n] = 0


@njit(cache=True, nogil=True)
def observe(memory, env_ids, image, heading, action, opens, valid):
    """Update the memory of `M` environments with their observations.

    Args:
        memory: of all environments; changed.
        env_ids: [M] int64.
        image: [M, VIEW, VIEW, 3] uint8.
        heading: [M] int64, sets the pose at an episode's first observation, else compared with it.
        action: [M] int64, the action before this observation.
        opens: [M] bool, this is an episode's first observation.
        valid: [M] bool, an action was taken.

    Returns:
        An environment whose heading does not follow from its actions, or -1.
    """
    stray = -1
    for m in range(len(env_ids)):
        n = env_ids[m]
        if opens[m]:
            _begin(memory, n, image[m], heading[m])
        elif valid[m]:
            _move(memory.pose[n], memory.ahead[n], action[m])
            _look(memory, n, image[m])
            _arrive(memory, n)
            if memory.pose[n, 2] != heading[m]:
                stray = n
        else:
            memory.counts[n] = 0
    return stray


@njit(cache=True, nogil=True)
def draw(memory, env_ids, image, carrying, visits, visited):
    """Write the maps of `M` environments as their agents are turned.

    Args:
        memory: of all environments.
        env_ids: [M] int64.
        image: [M, S, S, 3] uint8, output: the map around the agent; axis 0 points right, 1 back.
        carrying: [M, 2] int64, output: object and colour.
        visits: [M] int64, output: bucket of visits here: 1, 2, 3 to 4, 5 to 8 ... 33 and more.
        visited: [M, 4] int8, output: the agent was ahead, to the right, behind, to the left.
    """
    middle = image.shape[1] // 2
    for m in range(len(env_ids)):
        n = env_ids[m]
        x, y, heading = memory.pose[n]
        right = (heading + 1) % 4
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                forward, aside = middle - j, i - middle
                u = x + forward * _DX[heading] + aside * _DX[right]
                v = y + forward * _DY[heading] + aside * _DY[right]
                _unpack(memory.cells[n, u, v] if _inside(u, v) else 0, image[m, i, j])
        carrying[m, 0], carrying[m, 1] = memory.hand[n] >> 5, memory.hand[n] >> 2 & 7
        here = int(memory.visits[n, x, y]) if _inside(x, y) else 0
        visits[m] = 0
        while 1 << visits[m] < here and visits[m] < BUCKETS - 1:
            visits[m] += 1
        for k in range(4):
            way = (heading + k) % 4
            u, v = x + _DX[way], y + _DY[way]
            visited[m, k] = _inside(u, v) and memory.visits[n, u, v] > 0
