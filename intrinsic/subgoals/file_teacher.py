"""`FileTeacher`, subgoals that a user wrote down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.intrinsic.subgoals.plans import Levels, Plans, phrase_of
from firstlight.intrinsic.subgoals.teachers import Teacher


class FileTeacher(Teacher):
    """Reads subgoals from a JSON file, by name for every level, or by position for single ones.

    The file is an object with one or both of::

        {"order": ["key", "locked door", "ball"],
         "levels": {"0f3a5c7e9b1d2f4a": [[1, 2], [4, 3]]}}

    A name in `order` stands for an object whose name has all its words, such as "locked red door":
    the one closest to the subgoal before. Names without an object are left out. The keys of
    `levels` are `Levels.keys`; positions are column and row.

    Args:
        path: of the file.

    Raises:
        ValueError: if the file is not of that form.
    """

    def __init__(self, path: Path | str):
        try:
            content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read the subgoals of {path}: {error}") from error
        if not isinstance(content, dict) or not content.keys() <= {"order", "levels"}:
            raise ValueError(f"{path}: expected a JSON object with 'order' and 'levels'")
        self.order, levels = content.get("order", []), content.get("levels", {})
        if not isinstance(self.order, list) or not all(isinstance(n, str) for n in self.order):
            raise ValueError(f"{path}: 'order' is a list of names, such as 'locked door'")
        if not isinstance(levels, dict) or not all(map(_are_positions, levels.values())):
            raise ValueError(f"{path}: 'levels' has a list of [column, row] for each level's key")
        self.levels: dict[str, list[list[int]]] = levels

    def plan(self, levels: Levels) -> Plans:
        """Look levels up, else find the objects of `order`."""
        plans = Plans.empty(len(levels))
        for row, key in enumerate(levels.keys()):
            grid, agent = levels.grid[row], levels.agent[row]
            if key in self.levels:
                W, H = grid.shape
                inside = [(x, y) for x, y in self.levels[key] if 0 <= x < W and 0 <= y < H]
                plans.put(row, inside, grid)
            else:
                plans.put(row, find_in_order(self.order, grid, agent), grid)
        return plans


def find_in_order(names: list[str], grid: np.ndarray, agent: np.ndarray) -> list[tuple[int, int]]:
    """Cells of the objects with these names, each the closest to the one before.

    Args:
        names: such as "locked door".
        grid: [W, H] int16.
        agent: [2] int64, from where the first distance is measured.
    """
    named = {
        (int(x), int(y)): {*phrase_of(int(grid[x, y])).split()} for x, y in np.argwhere(grid > 2)
    }
    found: list[tuple[int, int]] = []
    x, y = int(agent[0]), int(agent[1])
    for name in names:
        fits = [c for c, words in named.items() if {*name.split()} <= words and c not in found]
        if fits:
            x, y = min(fits, key=lambda cell: abs(cell[0] - x) + abs(cell[1] - y))
            found.append((x, y))
    return found


def _are_positions(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(p, list) and len(p) == 2 and all(type(n) is int for n in p) for p in value
    )
