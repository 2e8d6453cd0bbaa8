"""MiniGrid tasks by name, also those that papers use and no package registers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.envs.minigrid.cells import COLOURS, OBJECTS
from firstlight.envs.minigrid.gridworld_kernels import AT_GOAL, OPEN_DOOR, TAKE_TARGET
from firstlight.envs.minigrid.levels_kernels import MULTIROOM_SIDE, doorkey, multiroom
from firstlight.envs.minigrid.roomgrid_kernels import (
    keycorridor,
    obstructed,
    obstructed_pair,
    unlock,
)

_MAZE_ROOM = 6  # cells along a side of a room of ObstructedMaze and Unlock
_NOISY = "firstlight.envs.minigrid.python_backend:NoisyTV"


@dataclass(frozen=True)
class Task:
    """Parameters of one task for each backend.

    Args:
        recipe: kernel that generates a level from grid, agent, random numbers and `numbers`, and
            returns the code of the target object.
        numbers: further arguments of `recipe`.
        width: columns of the grid.
        height: rows of the grid.
        max_steps: time limit of an episode, as in the papers.
        mission: a sentence; ``{}`` stands for the target's colour and name.
        rule: rule of success, see `gridworld_kernels.act`.
        noisy: the action drop changes the colour of a ball.
        python: class and keywords, if the Python package does not register the id.
        envpool: EnvPool's id and keywords, if it does not register the id or uses it for another
            task.
    """

    recipe: Callable[..., int]
    numbers: tuple[int, ...]
    width: int
    height: int
    max_steps: int
    mission: str
    rule: int = AT_GOAL
    noisy: bool = False
    python: tuple[str, Mapping[str, Any]] | None = None
    envpool: tuple[str, Mapping[str, Any]] | None = None

    def mission_of(self, target: int) -> str:
        """Mission sentence for a target object with this code."""
        return self.mission.format(f"{COLOURS[target >> 4 & 7]} {OBJECTS[target & 15]}")


def _multiroom(rooms: int, largest: int, noisy: bool = False) -> Task:
    words = {"minNumRooms": rooms, "maxNumRooms": rooms, "maxRoomSize": largest}
    theirs = {"min_num_rooms": rooms, "max_num_rooms": rooms, "max_room_size": largest}
    return Task(
        recipe=multiroom,
        numbers=(rooms, rooms, largest, int(noisy)),
        width=MULTIROOM_SIDE,
        height=MULTIROOM_SIDE,
        max_steps=20 * rooms,
        mission="traverse the rooms to get to the goal",
        noisy=noisy,
        python=(_NOISY if noisy else "minigrid.envs:MultiRoomEnv", words),
        envpool=None if noisy else ("MiniGrid-MultiRoom-N6-v0", theirs),
    )


def _doorkey(side: int) -> Task:
    return Task(
        recipe=doorkey,
        numbers=(),
        width=side,
        height=side,
        max_steps=10 * side**2,
        mission="use the key to open the door and then get to the goal",
    )


def _keycorridor(size: int, rows: int) -> Task:
    words = {"room_size": size, "num_rows": rows}
    return Task(
        recipe=keycorridor,
        numbers=(size,),
        width=3 * (size - 1) + 1,
        height=rows * (size - 1) + 1,
        max_steps=30 * size**2,
        mission="pick up the {}",
        rule=TAKE_TARGET,
        python=("minigrid.envs:KeyCorridorEnv", words),
        envpool=("MiniGrid-KeyCorridorS3R3-v0", words),
    )


def _obstructed_pair(hidden: bool, blocked: bool) -> Task:
    return Task(
        recipe=obstructed_pair,
        numbers=(_MAZE_ROOM, int(hidden), int(blocked)),
        width=2 * (_MAZE_ROOM - 1) + 1,
        height=_MAZE_ROOM,
        max_steps=4 * 2 * _MAZE_ROOM**2,
        mission="pick up the {}",
        rule=TAKE_TARGET,
    )


def _obstructed(
    hidden: bool, blocked: bool, quarters: int, rooms: int, begin: tuple[int, int], version: int = 0
) -> Task:
    whole = f"MiniGrid-ObstructedMaze-Full-v{version}"  # which begins elsewhere in EnvPool
    return Task(
        recipe=obstructed,
        numbers=(_MAZE_ROOM, int(hidden), int(blocked), quarters, *begin, version),
        width=3 * (_MAZE_ROOM - 1) + 1,
        height=3 * (_MAZE_ROOM - 1) + 1,
        max_steps=4 * rooms * _MAZE_ROOM**2,
        mission="pick up the {}",
        rule=TAKE_TARGET,
        envpool=(whole, {"agent_room": begin}) if quarters == 4 else None,
    )


def _unlock(mission: str, rule: int, box: bool, blocked: bool, factor: int) -> Task:
    return Task(
        recipe=unlock,
        numbers=(_MAZE_ROOM, int(box), int(blocked)),
        width=2 * (_MAZE_ROOM - 1) + 1,
        height=_MAZE_ROOM,
        max_steps=factor * _MAZE_ROOM**2,
        mission=mission,
        rule=rule,
    )


def _tasks() -> dict[str, Task]:
    tasks = {
        "MultiRoom-N2-S4-v0": _multiroom(2, 4),
        "MultiRoom-N4-S5-v0": _multiroom(6, 5),  # six rooms: an error in the registered task
        "MultiRoom-N4-S5-v1": _multiroom(4, 5),
        "MultiRoom-N6-v0": _multiroom(6, 10),
        "MultiRoomNoisyTV-N7-S4-v0": _multiroom(7, 4, noisy=True),
        "Unlock-v0": _unlock("open the door", OPEN_DOOR, False, False, 8),
        "UnlockPickup-v0": _unlock("pick up the {}", TAKE_TARGET, True, False, 8),
        "BlockedUnlockPickup-v0": _unlock("pick up the {}", TAKE_TARGET, True, True, 16),
        "ObstructedMaze-1Dl-v0": _obstructed_pair(False, False),
        "ObstructedMaze-1Dlh-v0": _obstructed_pair(True, False),
        "ObstructedMaze-1Dlhb-v0": _obstructed_pair(True, True),
        "ObstructedMaze-2Dl-v0": _obstructed(False, False, 1, 4, (2, 1)),
        "ObstructedMaze-2Dlh-v0": _obstructed(True, False, 1, 4, (2, 1)),
    }
    for version in (0, 1):
        for name, quarters, rooms, begin in (
            ("2Dlhb", 1, 4, (2, 1)),
            ("1Q", 1, 5, (1, 1)),
            ("2Q", 2, 11, (2, 1)),
            ("Full", 4, 25, (1, 1)),
        ):
            maze = _obstructed(True, True, quarters, rooms, begin, version)
            tasks[f"ObstructedMaze-{name}-v{version}"] = maze
    for rooms, largest in ((7, 4), (7, 8), (10, 4), (10, 10), (12, 10)):
        tasks[f"MultiRoom-N{rooms}-S{largest}-v0"] = _multiroom(rooms, largest)
    for side in (5, 6, 8, 16):
        tasks[f"DoorKey-{side}x{side}-v0"] = _doorkey(side)
    for size, rows in ((3, 1), (3, 2), (3, 3), (4, 3), (5, 3), (6, 3), (8, 5), (9, 6), (10, 7)):
        tasks[f"KeyCorridorS{size}R{rows}-v0"] = _keycorridor(size, rows)
    return {f"MiniGrid-{name}": task for name, task in tasks.items()}


TASKS = _tasks()
"""Tasks of `GridWorld`, by MiniGrid's names."""


def foreign_ids() -> dict[str, set[str]]:
    """MiniGrid and BabyAI ids that EnvPool and the Python package register, by backend."""
    import envpool
    import gymnasium
    import minigrid  # noqa: F401  (registers the ids)

    ours = ("MiniGrid-", "BabyAI-")
    return {
        "envpool": {name for name in envpool.list_all_envs() if name.startswith(ours)},
        "python": {name for name in gymnasium.registry if name.startswith(ours)},
    }


def backends_of(task: str) -> list[str]:
    """List the backends that have `task`.

    Raises:
        ValueError: if none has it; the message names the most similar task.
    """
    foreign = foreign_ids()
    known = TASKS.get(task)
    have = {
        "native": known is not None,
        "envpool": task in foreign["envpool"] or (known is not None and known.envpool is not None),
        "python": task in foreign["python"] or (known is not None and known.python is not None),
    }
    if not any(have.values()):
        names = sorted({*TASKS, *foreign["envpool"], *foreign["python"]})
        close = difflib.get_close_matches(task, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no MiniGrid task {task!r}{hint}")
    return [backend for backend, there in have.items() if there]
