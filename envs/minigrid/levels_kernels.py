"""Kernels for random numbers of one environment, and for levels of MultiRoom and DoorKey.

Levels are generated in the same order of draws as in MiniGrid: equal draws give equal levels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from firstlight.envs.minigrid.cells import (
    BALL,
    BLUE,
    CLOSED,
    DOOR,
    EMPTY,
    GOAL,
    GREEN,
    GREY,
    KEY,
    LOCKED,
    PURPLE,
    RED,
    STONE,
    YELLOW,
)

# MiniGrid draws from the names in alphabetical order
ALPHABETICAL = np.array([BLUE, GREEN, GREY, PURPLE, RED, YELLOW], np.int64)
NOBODY = -9  # position of an agent that is not placed yet
MULTIROOM_SIDE = 25
_SMALLEST_ROOM, _ATTEMPTS = 4, 8
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_MIX_AGAIN = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


@njit(cache=True, nogil=True)
def mixed(word):
    """Output function of SplitMix64, uint64: every bit depends on every bit of `word`."""
    word = (word ^ (word >> _30)) * _MIX
    word = (word ^ (word >> _27)) * _MIX_AGAIN
    return word ^ (word >> _31)


@njit(cache=True, nogil=True)
def begin_draws(rng, seed, episode):
    """Seed `rng` [1] uint64 for episode number `episode` of the environment with `seed`."""
    rng[0] = mixed(np.uint64(seed) + mixed(np.uint64(episode) + _STEP))


@njit(cache=True, nogil=True)
def draw(rng, low, high):
    """Draw a random int64 in [low, high)."""
    rng[0] += _STEP
    word = mixed(rng[0]) >> _32
    return low + np.int64(word * np.uint64(high - low) >> _32)


@njit(cache=True, nogil=True)
def any_colour(rng):
    """Draw one of the six colours."""
    return ALPHABETICAL[draw(rng, 0, 6)]


@njit(cache=True, nogil=True)
def other_colour(rng, last):
    """Draw a colour other than `last`; any of the six if `last` is negative."""
    if last < 0:
        return any_colour(rng)
    rank = draw(rng, 0, 5)
    for colour in ALPHABETICAL:
        if colour == last:
            continue
        if rank == 0:
            return colour
        rank -= 1
    return last


@njit(cache=True, nogil=True)
def free_cell(grid, rng, left, top, width, height, agent, distance):
    """Draw an empty cell of the rectangle, at least `distance` steps from the agent."""
    right, bottom = min(left + width, grid.shape[0]), min(top + height, grid.shape[1])
    while True:
        x, y = draw(rng, left, right), draw(rng, top, bottom)
        if grid[x, y] == EMPTY and abs(x - agent[0]) + abs(y - agent[1]) >= distance:
            return x, y


@njit(cache=True, nogil=True)
def place_agent(grid, rng, left, top, width, height, agent):
    """Place the agent on a random empty cell of the rectangle, with a random direction."""
    agent[0], agent[1] = NOBODY, NOBODY
    agent[0], agent[1] = free_cell(grid, rng, left, top, width, height, agent, 0)
    agent[2] = draw(rng, 0, 4)


@njit(cache=True, nogil=True)
def build_walls(grid, left, top, width, height):
    """Write walls to the outermost cells of a rectangle of `grid` [W, H] int16."""
    grid[left : left + width, top] = STONE
    grid[left : left + width, top + height - 1] = STONE
    grid[left, top : top + height] = STONE
    grid[left + width - 1, top : top + height] = STONE


@njit(cache=True, nogil=True)
def doorkey(grid, agent, rng):
    """Generate DoorKey: a locked door, its key before and the goal behind it. Returns 0."""
    side = grid.shape[0]
    build_walls(grid, 0, 0, side, side)
    grid[side - 2, side - 2] = GOAL | GREEN << 4
    split = draw(rng, 2, side - 2)
    grid[split, :] = STONE
    place_agent(grid, rng, 0, 0, split, side, agent)
    grid[split, draw(rng, 1, side - 2)] = DOOR | YELLOW << 4 | LOCKED << 7
    x, y = free_cell(grid, rng, 0, 0, split, side, agent, 1)
    grid[x, y] = KEY | YELLOW << 4
    return np.int64(0)


@njit(cache=True, nogil=True)
def _fits(rooms, count, room):
    """Whether `room` lies inside the grid and overlaps none of `rooms` but the last."""
    x, y, width, height = room[0], room[1], room[2], room[3]
    if x < 0 or y < 0 or x + width > MULTIROOM_SIDE or y + height >= MULTIROOM_SIDE:
        return False
    for k in range(count - 1):
        left, top, wide, high = rooms[k, 0], rooms[k, 1], rooms[k, 2], rooms[k, 3]
        beside = x + width < left or left + wide <= x
        if not (beside or y + height < top or top + high <= y):
            return False
    return True


@njit(cache=True, nogil=True)
def _way_out(rng, room, entry):
    """Draw a wall of `room` other than `entry`, and a cell of it but no corner: wall, x, y."""
    wall = draw(rng, 0, 3)
    wall += wall >= entry
    x, y = room[0], room[1]
    if wall == 0 or wall == 2:
        y += draw(rng, 1, room[3] - 1)
        x += room[2] - 1 if wall == 0 else 0
    else:
        x += draw(rng, 1, room[2] - 1)
        y += room[3] - 1 if wall == 1 else 0
    return wall, x, y


@njit(cache=True, nogil=True)
def _room_behind(rng, largest, entry, x, y, room):
    """Draw a room with the door (x, y) in its wall `entry`, not in a corner."""
    width, height = draw(rng, _SMALLEST_ROOM, largest + 1), draw(rng, _SMALLEST_ROOM, largest + 1)
    if entry == 0 or entry == 2:
        left = x - width + 1 if entry == 0 else x
        top = draw(rng, y - height + 2, y)
    else:
        left = draw(rng, x - width + 2, x)
        top = y - height + 1 if entry == 1 else y
    room[0], room[1], room[2], room[3], room[4], room[5] = left, top, width, height, x, y


@njit(cache=True, nogil=True)
def _chain_rooms(rng, rooms, largest):
    """Draw a chain of `rooms` [R, 6] int64 (left, top, width, height, door). False on failure."""
    room = rooms[0]
    room[0], room[1] = draw(rng, 0, MULTIROOM_SIDE - 2), draw(rng, 0, MULTIROOM_SIDE - 2)
    room[2] = draw(rng, _SMALLEST_ROOM, largest + 1)
    room[3] = draw(rng, _SMALLEST_ROOM, largest + 1)
    if not _fits(rooms, 0, room):
        return False
    entry = 2
    for count in range(1, len(rooms)):
        placed = False
        for _ in range(_ATTEMPTS):
            wall, x, y = _way_out(rng, rooms[count - 1], entry)
            behind = (wall + 2) % 4
            _room_behind(rng, largest, behind, x, y, rooms[count])
            if _fits(rooms, count, rooms[count]):
                entry, placed = behind, True
                break
        if not placed:
            return False
    return True


@njit(cache=True, nogil=True)
def multiroom(grid, agent, rng, fewest, most, largest, noisy):
    """Generate MultiRoom: a chain of rooms joined by closed doors, the goal in the last.

    Args:
        grid: [25, 25] int16, all empty.
        agent: [3] int64, set.
        rng: [1] uint64.
        fewest: minimum number of rooms.
        most: maximum number of rooms.
        largest: maximum cells along a side of a room, walls included.
        noisy: put a ball into the first room.

    Returns:
        0, as there is no target object.
    """
    rooms = np.empty((draw(rng, fewest, most + 1), 6), np.int64)
    while not _chain_rooms(rng, rooms, largest):
        pass
    last = np.int64(-1)
    for k in range(len(rooms)):
        build_walls(grid, rooms[k, 0], rooms[k, 1], rooms[k, 2], rooms[k, 3])
        if k > 0:
            last = other_colour(rng, last)
            grid[rooms[k, 4], rooms[k, 5]] = DOOR | last << 4 | CLOSED << 7
    place_agent(grid, rng, rooms[0, 0], rooms[0, 1], rooms[0, 2], rooms[0, 3], agent)
    end = rooms[len(rooms) - 1]
    x, y = free_cell(grid, rng, end[0], end[1], end[2], end[3], agent, 1)
    grid[x, y] = GOAL | GREEN << 4
    if noisy:
        colour = any_colour(rng)
        x, y = free_cell(grid, rng, rooms[0, 0], rooms[0, 1], rooms[0, 2], rooms[0, 3], agent, 1)
        grid[x, y] = BALL | colour << 4
    return np.int64(0)
