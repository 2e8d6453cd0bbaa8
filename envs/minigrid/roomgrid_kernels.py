"""Kernels for levels of equal rooms: KeyCorridor, ObstructedMaze, Unlock.

The order of draws is MiniGrid's. A plan describes the rooms: ``plan[row, column, side]`` is an
int64 row of (has a neighbour, connected, door column, door row); sides are right, down, left, up.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from firstlight.envs.minigrid.cells import (
    BALL,
    BLUE,
    BOX,
    CLOSED,
    DOOR,
    EMPTY,
    GREEN,
    GREY,
    KEY,
    LOCKED,
    WALL,
)
from firstlight.envs.minigrid.gridworld_kernels import ahead
from firstlight.envs.minigrid.levels_kernels import (
    ALPHABETICAL,
    any_colour,
    build_walls,
    draw,
    free_cell,
    place_agent,
)

_MOST_TRIES = 5000
_NEIGHBOUR, _CONNECTED, _DOOR_X, _DOOR_Y = range(4)
_FROM_AGENT = 2  # minimum steps from objects to the agent's first position
_SIDE_ROOMS = np.array([[2, 1], [1, 2], [0, 1], [1, 0]], np.int64)  # column, row
_CORNERS = np.array([[2, 0], [2, 2], [0, 2], [0, 0]], np.int64)


@njit(cache=True, nogil=True)
def rooms_of(grid, agent, rng, size):
    """Write the walls of all rooms and draw the possible doors. Returns the plan."""
    columns, rows = grid.shape[0] // (size - 1), grid.shape[1] // (size - 1)
    plan = np.zeros((rows, columns, 4, 4), np.int64)
    for j in range(rows):
        for i in range(columns):
            build_walls(grid, i * (size - 1), j * (size - 1), size, size)
    for j in range(rows):
        for i in range(columns):
            left, top = i * (size - 1), j * (size - 1)
            if i < columns - 1:
                x, y = left + size - 1, draw(rng, top + 1, top + size - 1)
                _may_have_door(plan, i, j, 0, x, y)
                _may_have_door(plan, i + 1, j, 2, x, y)
            if j < rows - 1:
                x, y = draw(rng, left + 1, left + size - 1), top + size - 1
                _may_have_door(plan, i, j, 1, x, y)
                _may_have_door(plan, i, j + 1, 3, x, y)
    agent[0] = columns // 2 * (size - 1) + size // 2
    agent[1] = rows // 2 * (size - 1) + size // 2
    agent[2] = 0
    return plan


@njit(cache=True, nogil=True)
def _may_have_door(plan, i, j, side, x, y):
    wall = plan[j, i, side]
    wall[_NEIGHBOUR], wall[_DOOR_X], wall[_DOOR_Y] = 1, x, y


@njit(cache=True, nogil=True)
def _connect(plan, i, j, side):
    dx, dy = ahead(side)
    plan[j, i, side, _CONNECTED] = 1
    plan[j + dy, i + dx, (side + 2) % 4, _CONNECTED] = 1


@njit(cache=True, nogil=True)
def put_door(grid, plan, i, j, side, colour, state):
    """Write a door to a wall of room (i, j). Returns its column and row."""
    x, y = plan[j, i, side, _DOOR_X], plan[j, i, side, _DOOR_Y]
    grid[x, y] = DOOR | colour << 4 | state << 7
    _connect(plan, i, j, side)
    return x, y


@njit(cache=True, nogil=True)
def put_in_room(grid, agent, rng, size, i, j, code):
    """Write an object to a random cell of room (i, j), not beside the agent."""
    left, top = i * (size - 1), j * (size - 1)
    x, y = free_cell(grid, rng, left, top, size, size, agent, _FROM_AGENT)
    grid[x, y] = code


@njit(cache=True, nogil=True)
def put_agent(grid, agent, rng, size, i, j):
    """Place the agent on a random cell of room (i, j), facing an empty cell or a wall."""
    while True:
        place_agent(grid, rng, i * (size - 1), j * (size - 1), size, size, agent)
        dx, dy = ahead(agent[2])
        kind = grid[agent[0] + dx, agent[1] + dy] & 15
        if kind in (EMPTY, WALL):
            return


@njit(cache=True, nogil=True)
def _all_reached(plan, i, j):
    """Whether every room is connected to room (i, j)."""
    rows, columns = plan.shape[0], plan.shape[1]
    reached = np.zeros((rows, columns), np.bool_)
    reached[j, i] = True
    count, before = 1, 0
    while count > before:
        before = count
        for b in range(rows):
            for a in range(columns):
                for side in range(4):
                    if reached[b, a] and plan[b, a, side, _CONNECTED]:
                        dx, dy = ahead(side)
                        count += not reached[b + dy, a + dx]
                        reached[b + dy, a + dx] = True
    return count == rows * columns


@njit(cache=True, nogil=True)
def connect_all(grid, plan, agent, rng, size, locked_i, locked_j):
    """Add doors until every room can be reached, none to the locked one. False on failure."""
    rows, columns = plan.shape[0], plan.shape[1]
    begin_i, begin_j = agent[0] // (size - 1), agent[1] // (size - 1)
    done = _all_reached(plan, begin_i, begin_j)
    tries = 0
    while not done:
        tries += 1
        if tries > _MOST_TRIES:
            return False
        i, j, side = draw(rng, 0, columns), draw(rng, 0, rows), draw(rng, 0, 4)
        if not plan[j, i, side, _NEIGHBOUR] or plan[j, i, side, _CONNECTED]:
            continue
        dx, dy = ahead(side)
        if (i == locked_i and j == locked_j) or (i + dx == locked_i and j + dy == locked_j):
            continue
        put_door(grid, plan, i, j, side, any_colour(rng), CLOSED)
        done = _all_reached(plan, begin_i, begin_j)
    return True


@njit(cache=True, nogil=True)
def _corridor(grid, agent, rng, size):
    """Try to generate `keycorridor`. Returns 0 if a room is left without a door."""
    plan = rooms_of(grid, agent, rng, size)
    rows = plan.shape[0]
    for j in range(1, rows):
        grid[size : 2 * (size - 1), j * (size - 1)] = EMPTY
        _connect(plan, 1, j, 3)
    behind = draw(rng, 0, rows)
    colour = any_colour(rng)
    put_door(grid, plan, 2, behind, 2, colour, LOCKED)
    target = BALL | any_colour(rng) << 4
    put_in_room(grid, agent, rng, size, 2, behind, target)
    put_in_room(grid, agent, rng, size, 0, draw(rng, 0, rows), KEY | colour << 4)
    put_agent(grid, agent, rng, size, 1, rows // 2)
    return target if connect_all(grid, plan, agent, rng, size, 2, behind) else 0


@njit(cache=True, nogil=True)
def keycorridor(grid, agent, rng, size):
    """Generate KeyCorridor: a ball behind a locked door, the key across the corridor.

    Args:
        grid: [W, H] int16, all empty, as for every level.
        agent: [3] int64, set.
        rng: [1] uint64, state of the random numbers.
        size: cells along a side of a room, walls included.

    Returns:
        Code of the ball.
    """
    target = _corridor(grid, agent, rng, size)
    while target == 0:
        grid[:] = EMPTY
        target = _corridor(grid, agent, rng, size)
    return target


@njit(cache=True, nogil=True)
def _shuffled_colours(rng):
    left = ALPHABETICAL.copy()
    out = np.empty(6, np.int64)
    for k in range(6):
        chosen = draw(rng, 0, 6 - k)
        out[k] = left[chosen]
        left[chosen : 5 - k] = left[chosen + 1 : 6 - k].copy()
    return out


@njit(cache=True, nogil=True)
def _key(colour, hidden):
    """Code of a key, or of the grey box that hides it."""
    return BOX | GREY << 4 | KEY << 9 | colour << 12 if hidden else KEY | colour << 4


@njit(cache=True, nogil=True)
def _lock(grid, plan, i, j, side, colour, blocked):
    """Write a locked door of room (i, j), with a ball in front of it if `blocked`."""
    x, y = put_door(grid, plan, i, j, side, colour, LOCKED)
    if blocked:
        dx, dy = ahead(side)
        grid[x - dx, y - dy] = BALL | GREEN << 4


@njit(cache=True, nogil=True)
def obstructed_pair(grid, agent, rng, size, hidden, blocked):
    """Generate ObstructedMaze with two rooms. Returns the code of the target ball."""
    plan = rooms_of(grid, agent, rng, size)
    colour = _shuffled_colours(rng)[0]
    _lock(grid, plan, 0, 0, 0, colour, blocked)
    put_in_room(grid, agent, rng, size, 0, 0, _key(colour, hidden))
    put_in_room(grid, agent, rng, size, 1, 0, BALL | BLUE << 4)
    put_agent(grid, agent, rng, size, 0, 0)
    return BALL | BLUE << 4


@njit(cache=True, nogil=True)
def obstructed(grid, agent, rng, size, hidden, blocked, quarters, begin_i, begin_j, keys_last):
    """Generate ObstructedMaze with nine rooms. Returns the code of the target ball.

    `keys_last` is version 1: keys are placed after balls, so that no ball replaces a key.
    """
    plan = rooms_of(grid, agent, rng, size)
    colours = _shuffled_colours(rng)
    for k in range(quarters):
        put_door(grid, plan, 1, 1, k, colours[k], CLOSED)
        i, j = _SIDE_ROOMS[k]
        for turn in (-1, 1):
            _lock(grid, plan, i, j, (k + turn) % 4, colours[(k + turn) % 6], blocked)
            if not keys_last:
                put_in_room(grid, agent, rng, size, i, j, _key(colours[(k + turn) % 6], hidden))
        if keys_last:
            for turn in (-1, 1):
                put_in_room(grid, agent, rng, size, i, j, _key(colours[(k + turn) % 6], hidden))
    i, j = _CORNERS[draw(rng, 0, quarters)]
    put_in_room(grid, agent, rng, size, i, j, BALL | BLUE << 4)
    put_agent(grid, agent, rng, size, begin_i, begin_j)
    return BALL | BLUE << 4


@njit(cache=True, nogil=True)
def unlock(grid, agent, rng, size, box, blocked):
    """Generate Unlock: a locked door, its key, and a box if `box`. Returns the code of the box."""
    plan = rooms_of(grid, agent, rng, size)
    target = BOX | any_colour(rng) << 4 if box else np.int64(0)
    if box:
        put_in_room(grid, agent, rng, size, 1, 0, target)
    colour = any_colour(rng)
    x, y = put_door(grid, plan, 0, 0, 0, colour, LOCKED)
    if blocked:
        grid[x - 1, y] = BALL | any_colour(rng) << 4
    put_in_room(grid, agent, rng, size, 0, 0, KEY | colour << 4)
    put_agent(grid, agent, rng, size, 0, 0)
    return target
