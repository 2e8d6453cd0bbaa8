"""Kernels of the oracle teacher: the objects on the way through a level, and noise on them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from firstlight.envs.minigrid.cells import (
    BALL,
    BOX,
    DOOR,
    EMPTY,
    GOAL,
    KEY,
    LAVA,
    LOCKED,
    OPEN,
    WALL,
)
from firstlight.envs.minigrid.gridworld_kernels import ahead
from firstlight.envs.minigrid.levels_kernels import draw, mixed

MOST = 32
"""Most subgoals of a plan; later ones are left out."""

_COLOURS = 6
_COST = np.array([1, 2, 4, 20], np.int64)  # of free cells, closed doors, locked doors, objects
_FREE, _CLOSED_DOOR, _LOCKED_DOOR, _OBJECT = range(4)
_NOBODY = -1


@njit(cache=True, nogil=True)
def is_object(code):
    """Whether a cell holds what an agent can pick up."""
    return code & 15 in (KEY, BALL, BOX)


@njit(cache=True, nogil=True)
def _find_end(grid, target):
    """Cell of the object to take; without one the goal, or the locked door. (-1, -1) for none."""
    door_x, door_y = _NOBODY, _NOBODY
    for x in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            code = np.int64(grid[x, y])
            if target and code & 127 == target:
                return x, y
            if not target and code & 15 == GOAL:
                return x, y
            if code & 15 == DOOR and code >> 7 & 3 == LOCKED:
                door_x, door_y = x, y
    return (_NOBODY, _NOBODY) if target else (door_x, door_y)


@njit(cache=True, nogil=True)
def _find_key(grid, colour):
    """Cell of the key of a colour, or of the box with it. (-1, -1) for none."""
    for x in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            code = np.int64(grid[x, y])
            if code & 15 == KEY and code >> 4 & 7 == colour:
                return x, y
            if code & 15 == BOX and code >> 9 & 7 == KEY and code >> 12 & 7 == colour:
                return x, y
    return _NOBODY, _NOBODY


@njit(cache=True, nogil=True)
def find_path(grid, barred, begin_x, begin_y, end_x, end_y, path):
    """Find the cheapest path; objects may be in the way, but cost much.

    Args:
        grid: [W, H] int16.
        barred: [W, H] bool, cells that no path may enter.
        begin_x: column of the first cell.
        begin_y: its row.
        end_x: column of the last cell, whatever it holds.
        end_y: its row.
        path: [W * H, 2] int64, output.

    Returns:
        Number of cells of the path, without the first; 0 if there is none.
    """
    W, H = grid.shape
    unknown = np.int64(1 << 40)
    cost = np.full((W, H), unknown)
    came = np.full((W, H), -1, np.int64)
    queue = np.empty((W * H, 2), np.int64)
    waits = np.zeros((W, H), np.bool_)
    head, count = 0, 1
    queue[0, 0], queue[0, 1] = begin_x, begin_y
    cost[begin_x, begin_y] = 0
    while count:
        x, y = queue[head, 0], queue[head, 1]
        head, count = (head + 1) % (W * H), count - 1
        waits[x, y] = False
        for side in range(4):
            dx, dy = ahead(side)
            a, b = x + dx, y + dy
            if not (0 <= a < W and 0 <= b < H) or barred[a, b]:
                continue
            code = np.int64(grid[a, b])
            kind = code & 15
            if kind in (WALL, LAVA) and not (a == end_x and b == end_y):
                continue
            step = _COST[_FREE]
            if kind == DOOR and code >> 7 & 3 != OPEN:
                step = _COST[_LOCKED_DOOR if code >> 7 & 3 == LOCKED else _CLOSED_DOOR]
            elif is_object(code):
                step = _COST[_OBJECT]
            if cost[x, y] + step < cost[a, b]:
                cost[a, b] = cost[x, y] + step
                came[a, b] = side
                if not waits[a, b]:
                    last = (head + count) % (W * H)
                    queue[last, 0], queue[last, 1] = a, b
                    waits[a, b] = True
                    count += 1
    if cost[end_x, end_y] == unknown:
        return 0
    length, x, y = 0, end_x, end_y
    while x != begin_x or y != begin_y:
        path[length, 0], path[length, 1] = x, y
        length += 1
        dx, dy = ahead(came[x, y])
        x, y = x - dx, y - dy
    path[:length] = path[:length][::-1].copy()
    return length


@njit(cache=True, nogil=True)
def _append(grid, x, y, cells, codes, length):
    """Append the object of a cell to a plan. Returns the plan's new length."""
    if length == len(cells):
        return length
    cells[length, 0], cells[length, 1] = x, y
    codes[length] = grid[x, y]
    return length + 1


@njit(cache=True, nogil=True)
def plan_level(grid, agent, target, all_doors, cells, codes):
    """Plan the way from the agent to the end of a level, as a list of objects.

    A locked door needs its key, which is fetched first, also out of a box and through other doors;
    what lies in the way of that door is moved before.

    Args:
        grid: [W, H] int16, codes of cells.
        agent: [2] int64, column and row.
        target: code of the object to take; 0 for none, see `_find_end`.
        all_doors: list closed doors, not only locked ones. Without a target they always are.
        cells: [P, 2] int16, output: column and row of each subgoal.
        codes: [P] int16, output: codes of those cells.

    Returns:
        Number of subgoals; 0 if the level has no end or no way to it.
    """
    work = grid.copy()
    barred = np.zeros(grid.shape, np.bool_)
    path = np.empty((grid.size, 2), np.int64)
    has_key = np.zeros(_COLOURS + 2, np.bool_)
    wanted = np.empty((_COLOURS + 1, 2), np.int64)  # a stack: the end, and keys before it
    doors = np.empty((_COLOURS + 1, 2), np.int64)  # the door that each key opens
    wanted[0, 0], wanted[0, 1] = _find_end(grid, target)
    if wanted[0, 0] == _NOBODY:
        return 0
    x, y = agent[0], agent[1]
    depth, length = 0, 0
    lists_doors = all_doors or target == 0
    while depth >= 0:
        end_x, end_y = wanted[depth, 0], wanted[depth, 1]
        steps = find_path(work, barred, x, y, end_x, end_y, path)
        if steps == 0 and (x != end_x or y != end_y):
            return 0
        locked, last = (
            -1,
            -1,
        )  # places in the path: of the first such door, of the last object before
        for i in range(steps):
            code = np.int64(work[path[i, 0], path[i, 1]])
            if code & 15 == DOOR and code >> 7 & 3 == LOCKED and not has_key[code >> 4 & 7]:
                locked = i
                break
            if is_object(code):
                last = i
        walk = last + 1 if locked >= 0 else steps - 1
        for i in range(walk):
            a, b = path[i, 0], path[i, 1]
            code = np.int64(work[a, b])
            if code & 15 == DOOR and code >> 7 & 3 != OPEN:
                if lists_doors or code >> 7 & 3 == LOCKED:
                    length = _append(work, a, b, cells, codes, length)
                work[a, b] = code & 127 | OPEN << 7
            elif is_object(code):
                length = _append(work, a, b, cells, codes, length)
                work[a, b] = EMPTY
                if code & 15 == KEY:  # the key itself lies in the way
                    has_key[code >> 4 & 7] = True
                elif code & 15 == BOX and code >> 9 & 7 == KEY:
                    has_key[code >> 12 & 7] = True
            x, y = a, b
        if locked >= 0:
            a, b = path[locked, 0], path[locked, 1]
            if has_key[np.int64(work[a, b]) >> 4 & 7]:
                continue
            key_x, key_y = _find_key(work, np.int64(work[a, b]) >> 4 & 7)
            if key_x == _NOBODY or depth == _COLOURS:
                return 0
            barred[a, b] = True
            depth += 1
            wanted[depth, 0], wanted[depth, 1] = key_x, key_y
            doors[depth, 0], doors[depth, 1] = a, b
            continue
        length = _append(work, end_x, end_y, cells, codes, length)
        if depth > 0:
            a, b = doors[depth, 0], doors[depth, 1]
            has_key[np.int64(work[a, b]) >> 4 & 7] = True
            barred[a, b] = False
            work[end_x, end_y] = EMPTY
            x, y = end_x, end_y
        depth -= 1
    return length


@njit(cache=True, nogil=True)
def nearest_door(grid, agent, cells, codes):
    """Write the door with the cheapest path as the only subgoal; returns 1, or 0 without doors."""
    path = np.empty((grid.size, 2), np.int64)
    barred = np.zeros(grid.shape, np.bool_)
    best = grid.size + 1
    for x in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            if grid[x, y] & 15 == DOOR:
                steps = find_path(grid, barred, agent[0], agent[1], x, y, path)
                if 0 < steps < best:
                    best = steps
                    _append(grid, x, y, cells, codes, 0)
    return 1 if best <= grid.size else 0


@njit(cache=True, nogil=True)
def level_key(grid, agent, target, seed):
    """Hash a level and a seed, uint64: equal levels have equal noise, whenever they are played."""
    key = mixed(np.uint64(seed) + np.uint64(target))
    key = mixed(key + np.uint64(agent[0] * grid.shape[1] + agent[1]))
    for x in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            key = mixed(key + np.uint64(grid[x, y]))
    return key


@njit(cache=True, nogil=True)
def _uniform(rng):
    """Draw a number in (0, 1]."""
    return (draw(rng, 0, 1 << 30) + 1) / (1 << 30)


@njit(cache=True, nogil=True)
def _cell_off(grid, rng, x, y, distance):
    """Draw a cell of the grid at this Manhattan distance; at a smaller one if there is none."""
    W, H = grid.shape
    while distance > 0:
        count = 0
        for a in range(W):
            for b in range(H):
                count += abs(a - x) + abs(b - y) == distance
        if count:
            chosen = draw(rng, 0, count)
            for a in range(W):
                for b in range(H):
                    if abs(a - x) + abs(b - y) == distance:
                        if chosen == 0:
                            return a, b
                        chosen -= 1
        distance -= 1
    return x, y


@njit(cache=True, nogil=True)
def _is_candidate(code, doors_only):
    return code & 15 == DOOR or (not doors_only and (is_object(code) or code & 15 == GOAL))


@njit(cache=True, nogil=True)
def _other_object(grid, rng, x, y, doors_only):
    """Draw the cell of another object of the level; the same one if there is no other."""
    count = 0
    for a in range(grid.shape[0]):
        for b in range(grid.shape[1]):
            count += _is_candidate(grid[a, b], doors_only) and not (a == x and b == y)
    if count == 0:
        return x, y
    chosen = draw(rng, 0, count)
    for a in range(grid.shape[0]):
        for b in range(grid.shape[1]):
            if _is_candidate(grid[a, b], doors_only) and not (a == x and b == y):
                if chosen == 0:
                    return a, b
                chosen -= 1
    return x, y


@njit(cache=True, nogil=True)
def corrupt(grid, rng, accuracy, mean, std, by_position, doors_only, cells, codes, length):
    """Replace each subgoal of a plan with probability ``1 - accuracy``, in place.

    Args:
        grid: [W, H] int16.
        rng: [1] uint64, state of the random numbers.
        accuracy: probability of a right subgoal.
        mean: of the error in cells, which is rounded and at least 1.
        std: of the error.
        by_position: by a cell at that Manhattan distance; otherwise by another object.
        doors_only: other objects are doors.
        cells: [P, 2] int16, of the plan.
        codes: [P] int16, of the plan.
        length: of the plan.
    """
    for p in range(length):
        wrong = _uniform(rng) > accuracy
        normal = math.sqrt(-2 * math.log(_uniform(rng))) * math.cos(2 * math.pi * _uniform(rng))
        if not wrong:
            continue
        x, y = np.int64(cells[p, 0]), np.int64(cells[p, 1])
        if by_position:
            x, y = _cell_off(grid, rng, x, y, max(1, round(mean + std * normal)))
        else:
            x, y = _other_object(grid, rng, x, y, doors_only)
        cells[p, 0], cells[p, 1] = x, y
        codes[p] = grid[x, y]


@njit(cache=True, nogil=True)
def insert_random(grid, rng, by_position, cells, codes, length):
    """Insert a random subgoal anywhere but at the end. Returns the plan's new length."""
    if length <= 0 or length == len(cells):
        return length
    x, y = np.int64(-1), np.int64(-1)
    if by_position:
        while x < 0 or grid[x, y] & 15 == WALL:
            x, y = draw(rng, 0, grid.shape[0]), draw(rng, 0, grid.shape[1])
    else:
        x, y = _other_object(grid, rng, -1, -1, False)
    p = draw(rng, 0, length)
    for q in range(length, p, -1):
        cells[q], codes[q] = cells[q - 1], codes[q - 1]
    cells[p, 0], cells[p, 1] = x, y
    codes[p] = grid[x, y]
    return length + 1


@njit(cache=True, nogil=True)
def plan_levels(grid, agent, target, all_doors, door_only, cells, codes, length):
    """Plan M levels: `grid` [M, W, H], `agent` [M, 2], `target` [M] to the outputs [M, P, ...]."""
    for m in range(len(grid)):
        if door_only:
            length[m] = nearest_door(grid[m], agent[m], cells[m], codes[m])
        else:
            length[m] = plan_level(grid[m], agent[m], target[m], all_doors, cells[m], codes[m])


@njit(cache=True, nogil=True)
def corrupt_levels(
    grid,
    agent,
    target,
    seed,
    accuracy,
    mean,
    std,
    by_position,
    doors_only,
    extra,
    cells,
    codes,
    length,
):
    """Corrupt the plans of M levels, and insert `extra` random subgoals into each."""
    rng = np.empty(1, np.uint64)
    for m in range(len(grid)):
        rng[0] = level_key(grid[m], agent[m], target[m], seed)
        if accuracy < 1:
            corrupt(
                grid[m],
                rng,
                accuracy,
                mean,
                std,
                by_position,
                doors_only,
                cells[m],
                codes[m],
                length[m],
            )
        for _ in range(extra):
            length[m] = insert_random(grid[m], rng, by_position, cells[m], codes[m], length[m])


@njit(cache=True, nogil=True)
def advance_subgoals(
    rows, level, agent, before, cells, length, index, since, done, limit, pay_last, bonus
):
    """Test which subgoals a step reached, and reward the current one.

    A subgoal is reached if the agent stands on its cell or the cell's content changed. One that is
    reached before its turn is passed over without a reward.

    Args:
        rows: [M] int64, environments that made a step.
        level: [M, W, H] int16, after it.
        agent: [M, 2] int64, after it.
        before: [N, W, H] int16, levels before it; changed to those after it.
        cells: [N, P, 2] int16.
        length: [N] int64.
        index: [N] int64, the current subgoal; changed, as the following two.
        since: [N] int64, steps since the last subgoal.
        done: [N, P] bool.
        limit: time limit of an episode.
        pay_last: reward the last subgoal too.
        bonus: [M] float32, output: ``1 - since / limit`` at a current subgoal, else 0.
    """
    for m in range(len(rows)):
        n = rows[m]
        since[n] += 1
        bonus[m] = 0
        for p in range(length[n]):
            x, y = cells[n, p, 0], cells[n, p, 1]
            stands = agent[m, 0] == x and agent[m, 1] == y
            done[n, p] |= stands or before[n, x, y] != level[m, x, y]
        payable = length[n] if pay_last else length[n] - 1
        if index[n] < payable and done[n, index[n]]:
            bonus[m] = max(0.0, 1 - since[n] / limit)
            since[n] = 0
            index[n] += 1
            while index[n] < length[n] and done[n, index[n]]:
                index[n] += 1
        before[n] = level[m]


@njit(cache=True, nogil=True)
def turned(dx, dy, direction):
    """Turn an offset in columns and rows to a heading: cells ahead, and to the right."""
    if direction == 0:
        return dx, dy
    if direction == 1:
        return dy, -dx
    if direction == 2:
        return -dx, -dy
    return -dy, dx


@njit(cache=True, nogil=True)
def show_ways(rows, agent, heading, cells, index, usable, egocentric, unit, field):
    """Write the way from each agent to its current subgoal.

    Args:
        rows: [M] int64, environments.
        agent: [M, 2] int64.
        heading: [M] int64.
        cells: [N, P, 2] int16.
        index: [N] int64.
        usable: [N] int64, subgoals that are shown; from there on the field stays as it is.
        egocentric: turn the way to the heading.
        unit: cells that count as 1.
        field: [M, 2] float32, output.
    """
    for m in range(len(rows)):
        n = rows[m]
        if index[n] < usable[n]:
            dx = cells[n, index[n], 0] - agent[m, 0]
            dy = cells[n, index[n], 1] - agent[m, 1]
            if egocentric:
                dx, dy = turned(dx, dy, heading[m])
            field[m, 0], field[m, 1] = dx / unit, dy / unit
