"""`Levels` that a teacher sees, the `Plans` that it makes of them, and words for both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firstlight.envs.minigrid.cells import (
    BALL,
    BOX,
    COLOURS,
    DOOR,
    GOAL,
    KEY,
    LOCKED,
    OBJECTS,
    WALL,
)
from firstlight.intrinsic.subgoals.planner_kernels import MOST, level_key

UNKNOWN = -1
"""Length of a plan that the teacher does not know yet: it may be asked again."""

_KINDS = (DOOR, KEY, BALL, BOX)
PHRASES = (
    "goal",
    *(f"locked {colour} door" for colour in COLOURS),
    *(f"{colour} {OBJECTS[kind]}" for kind in _KINDS for colour in COLOURS),
)
"""Names of subgoals; an empty cell has none."""

_NUMBERS = {phrase: number for number, phrase in enumerate(PHRASES)}
NO_PHRASE = len(PHRASES)


@dataclass(frozen=True, slots=True)
class Levels:
    """M levels as they are at the beginning of an episode.

    Args:
        grid: [M, W, H] int16, codes of the cells (`envs.minigrid.cells`), without the agent.
        agent: [M, 2] int64, column and row.
        target: [M] int64, code of the object to take; 0 if the goal is to be reached.
    """

    grid: np.ndarray
    agent: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.grid)

    def take(self, rows: np.ndarray) -> Levels:
        """Select levels by number, [*] int64."""
        return Levels(self.grid[rows], self.agent[rows], self.target[rows])

    def keys(self, seed: int = 0) -> list[str]:
        """Hash each level to 16 hexadecimal digits."""
        rows = zip(self.grid, self.agent, self.target, strict=True)
        return [f"{int(level_key(*row, np.uint64(seed))):016x}" for row in rows]


@dataclass(frozen=True, slots=True)
class Plans:
    """Subgoals of M levels, in order.

    Args:
        cells: [M, P, 2] int16, column and row.
        codes: [M, P] int16, what these cells held when the plan was made.
        length: [M] int64, 0 without a plan, `UNKNOWN` if it may come later.
    """

    cells: np.ndarray
    codes: np.ndarray
    length: np.ndarray

    @classmethod
    def empty(cls, number: int) -> Plans:
        """No subgoals for any of `number` levels."""
        return cls(
            np.zeros((number, MOST, 2), np.int16),
            np.zeros((number, MOST), np.int16),
            np.zeros(number, np.int64),
        )

    def put(self, row: int, cells: list[tuple[int, int]], grid: np.ndarray) -> None:
        """Write the plan of level `row`, whose cells are in `grid` [W, H] int16."""
        self.length[row] = min(len(cells), MOST)
        for p, (x, y) in enumerate(cells[:MOST]):
            self.cells[row, p] = x, y
            self.codes[row, p] = grid[x, y]


def phrase_of(code: int) -> str:
    """Name what a cell holds, such as "locked red door"; "" for empty cells and walls.

    >>> from firstlight.envs.minigrid.cells import EMPTY
    >>> phrase_of(DOOR | LOCKED << 7), phrase_of(EMPTY)
    ('locked red door', '')
    """
    kind, colour, state = code & 15, code >> 4 & 7, code >> 7 & 3
    if kind == GOAL:
        return "goal"
    if kind not in _KINDS or colour >= len(COLOURS):
        return ""
    locked = "locked " if kind == DOOR and state == LOCKED else ""
    return f"{locked}{COLOURS[colour]} {OBJECTS[kind]}"


def phrase_numbers() -> np.ndarray:
    """Number of the phrase of each code without contents of boxes, [512] int64."""
    return np.array([_NUMBERS.get(phrase_of(code), NO_PHRASE) for code in range(512)])


def task_of(level_grid: np.ndarray, target: int) -> str:
    """State the task of a level in a few words.

    Args:
        level_grid: [W, H] int16.
        target: code of the object to take, 0 for none.
    """
    if target:
        return f"pick up the {phrase_of(target)}"
    return "get to the goal" if (level_grid & 15 == GOAL).any() else "open the locked door"


def describe_level(grid: np.ndarray, agent: np.ndarray, target: int) -> str:
    """Describe a level as text: size, task, walls, and each object with column and row.

    Args:
        grid: [W, H] int16.
        agent: [2] int64, column and row.
        target: code of the object to take, 0 for none.
    """
    W, H = grid.shape
    rows = ["".join("#" if grid[x, y] & 15 == WALL else "." for x in range(W)) for y in range(H)]
    places = [
        f"{phrase_of(int(grid[x, y]))} at ({x}, {y})"
        for y in range(H)
        for x in range(W)
        if phrase_of(int(grid[x, y]))
    ]
    return "\n".join(
        [
            f"Task: {task_of(grid, target)}.",
            f"The grid has {W} columns and {H} rows; (column, row) counts from (0, 0) top left.",
            *rows,
            f"The agent is at ({int(agent[0])}, {int(agent[1])}).",
            f"Objects: {'; '.join(places) or 'none'}.",
        ]
    )
