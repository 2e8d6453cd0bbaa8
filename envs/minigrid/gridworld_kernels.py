"""Kernels of MiniGrid's rules: effects of actions, and views."""

from __future__ import annotations

import numpy as np
from numba import njit

from firstlight.envs.minigrid.cells import (
    BALL,
    BOX,
    CLOSED,
    DOOR,
    EMPTY,
    FLOOR,
    GOAL,
    KEY,
    LAVA,
    LOCKED,
    OPEN,
    STONE,
    VIEW,
    WALL,
)
from firstlight.envs.minigrid.levels_kernels import any_colour

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
AT_GOAL, TAKE_TARGET, OPEN_DOOR = range(3)  # rules of success
_MIDDLE, _NEAR = VIEW // 2, VIEW - 1  # the agent's own cell in its view


@njit(cache=True, nogil=True)
def ahead(direction):
    """Change of column and row by a step towards `direction`."""
    if direction == 0:
        return 1, 0
    if direction == 1:
        return 0, 1
    if direction == 2:
        return -1, 0
    return 0, -1


@njit(cache=True, nogil=True)
def cell_at(grid, x, y):
    """Code of a cell of `grid` [W, H] int16; that of a wall outside of it."""
    if 0 <= x < grid.shape[0] and 0 <= y < grid.shape[1]:
        return np.int64(grid[x, y])
    return STONE


@njit(cache=True, nogil=True)
def toggled(code, carrying):
    """Code of the cell `code` after an agent that carries `carrying` toggled it."""
    kind, state = code & 15, code >> 7 & 3
    if kind == BOX:
        inner = code >> 9
        return inner & 7 | (inner >> 3) << 4 if inner else EMPTY
    if kind != DOOR:
        return code
    colour = code >> 4 & 7
    if state == LOCKED:
        fits = carrying & 15 == KEY and carrying >> 4 & 7 == colour
        return DOOR | colour << 4 | (OPEN if fits else LOCKED) << 7
    return DOOR | colour << 4 | (CLOSED if state == OPEN else OPEN) << 7


@njit(cache=True, nogil=True)
def recolour_ball(grid, carrying, rng):
    """Draw a new colour for the one ball, in `grid` [W, H] or carried. Returns `carrying`."""
    colour = any_colour(rng)
    if carrying & 15 == BALL:
        return BALL | colour << 4
    for x in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            if grid[x, y] & 15 == BALL:
                grid[x, y] = BALL | colour << 4
    return carrying


@njit(cache=True, nogil=True)
def act(grid, agent, carrying, target, action, rule, noisy, rng):
    """Apply `action` to one environment.

    Args:
        grid: [W, H] int16, changed.
        agent: [3] int64, column, row and direction; changed.
        carrying: code of the carried object, 0 for none.
        target: code of the object to take, under `TAKE_TARGET`.
        action: number of the action in MiniGrid.
        rule: rule of success, such as `AT_GOAL`.
        noisy: the action drop changes the colour of the ball instead.
        rng: [1] uint64, state of the random numbers; changed.

    Returns:
        carrying, whether the episode terminated, and whether it is a success.
    """
    dx, dy = ahead(agent[2])
    x, y = agent[0] + dx, agent[1] + dy
    front = cell_at(grid, x, y)
    kind = front & 15
    if action == LEFT:
        agent[2] = (agent[2] + 3) % 4
    elif action == RIGHT:
        agent[2] = (agent[2] + 1) % 4
    elif action == FORWARD:
        open_door = kind == DOOR and front >> 7 & 3 == OPEN
        if kind in (EMPTY, GOAL, FLOOR, LAVA) or open_door:
            agent[0], agent[1] = x, y
        return carrying, kind in (GOAL, LAVA), kind == GOAL
    elif action == PICKUP:
        if kind in (KEY, BALL, BOX) and carrying == 0:
            carrying = front
            grid[x, y] = EMPTY
        taken = rule == TAKE_TARGET and carrying & 127 == target
        return carrying, taken, taken
    elif action == DROP:
        if noisy:
            return recolour_ball(grid, carrying, rng), False, False
        if kind == EMPTY and carrying != 0:
            grid[x, y] = carrying
            carrying = np.int64(0)
    elif action == TOGGLE and kind in (DOOR, BOX):
        after = toggled(front, carrying)
        grid[x, y] = after
        opened = rule == OPEN_DOOR and after & 15 == DOOR and after >> 7 & 3 == OPEN
        return carrying, opened, opened
    return carrying, False, False


@njit(cache=True, nogil=True)
def advance(
    action, rule, noisy, limit, reward, ended, cut, grid, agent, carrying, elapsed, target, rng
):
    """Apply one action to every environment.

    Args:
        action: [N] int64.
        rule: see `act`.
        noisy: see `act`.
        limit: maximum steps of an episode.
        reward: [N] float32, output.
        ended: [N] bool, output: the episode terminated.
        cut: [N] bool, output: the episode reached the limit.
        grid: [N, W, H] int16; this and the following arrays are changed.
        agent: [N, 3] int64.
        carrying: [N] int64.
        elapsed: [N] int64, steps of the episode.
        target: [N] int64.
        rng: [N] uint64.
    """
    for n in range(len(action)):
        elapsed[n] += 1
        carrying[n], over, well = act(
            grid[n], agent[n], carrying[n], target[n], action[n], rule, noisy, rng[n : n + 1]
        )
        reward[n] = 1 - 0.9 * (elapsed[n] / limit) if well else 0.0
        ended[n] = over
        cut[n] = not over and elapsed[n] >= limit


def _light_table() -> np.ndarray:
    """Table of lit cells of a row of the view and of the row beyond: [2**VIEW, 2**VIEW] int64.

    The first index holds the cells lit by the row before, the second the transparent cells of the
    row. In the entries, bits below VIEW are cells of the row, those above of the next row. Light
    spreads first to the right and then to the left, as in MiniGrid.
    """
    lit, clear = np.indices((1 << VIEW, 1 << VIEW))
    beyond = np.zeros_like(lit)
    for step, cells in ((1, range(VIEW - 1)), (-1, range(VIEW - 1, 0, -1))):
        for i in cells:
            shines = lit >> i & clear >> i & 1
            lit |= shines << (i + step)
            beyond |= shines << (i + step) | shines << i
    return lit | beyond << VIEW


LIGHT = _light_table()


@njit(cache=True, nogil=True)
def look(grid, agent, carrying, light, image):
    """Compute the view of one agent.

    Args:
        grid: [W, H] int16.
        agent: [3] int64, column, row and direction.
        carrying: code, 0 for nothing.
        light: `LIGHT`.
        image: [VIEW, VIEW, 3] uint8, output: object, colour and state, 0 where not visible.
    """
    fx, fy = ahead(agent[2])
    codes = np.empty(VIEW, np.int64)
    image[:] = 0
    lit = 1 << _MIDDLE
    for j in range(_NEAR, -1, -1):
        x = agent[0] + fx * (_NEAR - j) + fy * _MIDDLE
        y = agent[1] + fy * (_NEAR - j) - fx * _MIDDLE
        clear = 0
        for i in range(VIEW):
            codes[i] = cell_at(grid, x - fy * i, y + fx * i)
            kind = codes[i] & 15
            clear |= (kind != WALL and (kind != DOOR or codes[i] >> 7 & 3 == OPEN)) << i
        both = light[lit, clear]
        for i in range(VIEW):
            if both >> i & 1:
                image[i, j, 0] = codes[i] & 15
                image[i, j, 1] = codes[i] >> 4 & 7
                image[i, j, 2] = codes[i] >> 7 & 3
        lit = both >> VIEW
        if lit == 0:
            break
    held = carrying if carrying else np.int64(EMPTY)
    image[_MIDDLE, _NEAR, 0], image[_MIDDLE, _NEAR, 1] = held & 15, held >> 4 & 7
    image[_MIDDLE, _NEAR, 2] = 0


@njit(cache=True, nogil=True)
def look_all(grid, agent, carrying, light, rows, image):
    """Write the views of `rows` [M] int64 to `image` [N, VIEW, VIEW, 3] uint8."""
    for n in rows:
        look(grid[n], agent[n], carrying[n], light, image[n])


@njit(cache=True, nogil=True)
def look_from_above(grid, agent, rows, image):
    """Write the whole grids with the agent, of `rows` [M] int64, to `image` [N, W, H, 3] uint8."""
    for n in rows:
        for x in range(grid.shape[1]):
            for y in range(grid.shape[2]):
                code = grid[n, x, y]
                image[n, x, y, 0] = code & 15
                image[n, x, y, 1] = code >> 4 & 7
                image[n, x, y, 2] = code >> 7 & 3
        x, y = agent[n, 0], agent[n, 1]
        image[n, x, y, 0], image[n, x, y, 1], image[n, x, y, 2] = 10, 0, agent[n, 2]
