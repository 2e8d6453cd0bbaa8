"""The components that a task's observation fields allow: events of grids, measures of vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from gymnasium import spaces

from firstlight.envs.fields import is_symbolic
from firstlight.envs.minigrid.cells import (
    BALL,
    BOX,
    DOOR,
    EMPTY,
    FLOOR,
    GOAL,
    KEY,
    LAVA,
    OBJECTS,
    VIEW,
)
from firstlight.intrinsic.design.designers.base import DesignTask
from firstlight.intrinsic.design.designers.grammar import COLOURS, ProgramComponent

_MARKS = {KEY, BALL, BOX, DOOR, GOAL, LAVA}  # objects that a task may be about
_CARRIED = {KEY, BALL, BOX}
_VERBS = (
    *("carries", "unlocks", "opens", "faces", "sees", "puts", "approaches", "finds"),
    *("closes", "loses", "visits"),
)
"""First words of names for grids, in the order in which a program of limited size takes them."""
_FARTHEST = 99
_SIDE = 32  # cells of the square in which visits are recorded
LARGEST_VECTOR = 64
"""Coordinates of a vector field that components are made of."""
_QUANTILES = (0.9, 0.99)


def vocabulary(task: DesignTask) -> list[ProgramComponent]:
    """Return all components of a task.

    Fields are observation fields only. A side channel might hold the task's success itself.

    Raises:
        ValueError: if no field is a grid of MiniGrid or a vector.
    """
    found: list[ProgramComponent] = []
    vectors: dict[str, spaces.Box] = {}
    for name, space in task.obs_space.spaces.items():
        if is_symbolic(task.obs_space, name):
            found += sorted(grid_components(task, name), key=_place)
        elif isinstance(space, spaces.Box) and len(space.shape) == 1:
            vectors |= {name: space} if space.shape[0] <= LARGEST_VECTOR else {}
    for name in vectors:
        found += vector_components(task, name)
    names = [*vectors]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if vectors[first].shape == vectors[second].shape:
                found.append(_closing_distance(task, first, second))
    if isinstance(task.act_space, spaces.Box) and found:
        found.append(_effort())
    if not found:
        raise ValueError(
            "the template designer needs a grid of MiniGrid or a vector of at most "
            f"{LARGEST_VECTOR} numbers, but the observation fields are {task.obs_space}"
        )
    return found


def grid_components(task: DesignTask, field: str) -> Iterator[ProgramComponent]:
    """Yield events and distances of a grid of MiniGrid's codes.

    Of the objects that random play has met, or that the goal names. What the agent carries or faces
    is known in MiniGrid's view of 7 x 7 cells alone, where its cell is [3, 6]; so are its steps.
    """
    shape = task.obs_space[field].shape
    assert shape is not None
    seen = task.samples.get(f"obs/{field}", np.zeros((0, *shape), np.uint8))
    words = {*task.goal.lower().replace(",", " ").replace(".", " ").split()}
    named = {kind for kind in _MARKS if OBJECTS[kind] in words}
    kinds = sorted(_MARKS & {*np.unique(seen[..., 0]).tolist()} | named)
    before, after = f"obs[{field!r}]", f"next_obs[{field!r}]"
    is_view = shape[:2] == (VIEW, VIEW)
    own, own_colour, _ = (f"[:, {VIEW // 2}, {VIEW - 1}, {part}]" for part in range(3))
    front, front_colour, front_state = (
        f"[:, {VIEW // 2}, {VIEW - 2}, {part}]" for part in range(3)
    )
    for kind in kinds:
        name = OBJECTS[kind]
        there = f"({{}}[..., 0] == {kind}).any((1, 2))"
        yield ProgramComponent(f"sees_{name}", (f"now = {there.format(after)}",))
        yield ProgramComponent(
            f"loses_{name}", (f"now = {there.format(before)} & ~{there.format(after)}",)
        )
        if not is_view:
            continue
        yield ProgramComponent(
            f"faces_{name}", (f"now = {after}{front} == {kind}",), colour=after + front_colour
        )
        yield ProgramComponent(
            f"approaches_{name}", _approach(f"approaches_{name}", after, kind), is_event=False
        )
        if kind in _CARRIED:
            yield ProgramComponent(
                f"carries_{name}", (f"now = {after}{own} == {kind}",), colour=after + own_colour
            )
            yield ProgramComponent(
                f"puts_down_{name}",
                (f"now = ({before}{own} == {kind}) & ({after}{own} != {kind})",),
                colour=before + own_colour,
            )
    if is_view and DOOR in kinds:
        for name, old, new in (
            ("opens_door", "== 1", "== 0"),
            ("unlocks_door", "== 2", "!= 2"),
            ("closes_door", "== 0", "== 1"),
        ):
            both = f"now = ({before}{front} == {DOOR}) & ({after}{front} == {DOOR})"
            states = f"now &= ({before}{front_state} {old}) & ({after}{front_state} {new})"
            yield ProgramComponent(name, (both, states), colour=after + front_colour)
    if is_view and isinstance(task.act_space, spaces.Discrete):
        yield ProgramComponent(
            "visits_cells", _visits(before), is_event=False, entries=3, is_discovery=True
        )
    yield ProgramComponent("finds_objects", _finds(after, kinds), is_event=False, is_discovery=True)


def _place(component: ProgramComponent) -> int:
    return _VERBS.index(component.name.partition("_")[0])


def _approach(name: str, after: str, kind: int) -> tuple[str, ...]:
    """Tenths of a cell by which the least distance of the episode to a visible object falls."""
    return (
        f"columns = np.abs(np.arange({VIEW}) - {VIEW // 2})[:, None]",
        f"cells = 1 + columns + np.arange({VIEW - 1}, -1, -1)[None]",
        f"here = np.where({after}[..., 0] == {kind}, cells, {_FARTHEST}).min((1, 2))",
        f'best = memory.get("{name}", none)  # 0: not seen in this episode',
        "value = np.where((best > 0) & (here < best), best - here, 0) / 10.0",
        "nearest = np.where(best > 0, np.minimum(best, here), here)",
        f'memory["{name}"] = np.where(nearest < {_FARTHEST}, nearest, 0)',
    )


def _visits(before: str) -> tuple[str, ...]:
    """Tenth of each cell in which the agent is for the first time in the episode.

    Its place follows from its actions and from what was before it.
    """
    front = f"{before}[:, {VIEW // 2}, {VIEW - 2}]"
    return (
        f"ahead, rows = {front}, np.arange(len(action))",
        f"open_door = (ahead[:, 0] == {DOOR}) & (ahead[:, 2] == 0)",
        f"is_free = np.isin(ahead[:, 0], {[EMPTY, FLOOR, GOAL]}) | open_door",
        'heading, cell = memory.get("visits_heading", none), memory.get("visits_place", none)',
        f'known = memory.get("visits_cells", np.zeros((len(action), {_SIDE**2}), bool))',
        "known[rows, cell] = True",
        f"step = np.array([1, {_SIDE}, -1, -{_SIDE}])[heading] * (is_free & (action == 2))",
        f"cell = (cell + step) % {_SIDE**2}  # the grid is smaller, so no two cells are confused",
        "value = ~known[rows, cell] / 10.0",
        "known[rows, cell] = True",
        'memory["visits_cells"], memory["visits_place"] = known, cell',
        'memory["visits_heading"] = (heading + (action == 1) - (action == 0)) % 4',
    )


def _finds(after: str, kinds: list[int]) -> tuple[str, ...]:
    """Share of four of the objects, told apart by colour, that are seen for the first time."""
    return (
        f"kinds = np.array({kinds})[:, None]",
        f"codes = {after}[..., 0].astype(np.int64) * 8 + {after}[..., 1]",
        f"wanted = (kinds * 8 + np.arange({COLOURS})[None]).reshape(-1)",
        "here = (codes.reshape(len(action), -1, 1) == wanted).any(1)",
        'known = memory.get("finds_objects", np.zeros(here.shape, bool))',
        'memory["finds_objects"] = known | here',
        "value = np.minimum((here & ~known).sum(1) / 4.0, 1.0)",
    )


def vector_components(task: DesignTask, field: str) -> Iterator[ProgramComponent]:
    """Yield measures of each coordinate of a vector that changed in random play.

    Progress in either direction, the farthest of the episode, the highest magnitude (a speed), and
    events of values beyond what is usual.
    """
    space = task.obs_space[field]
    assert space.shape is not None
    seen = task.samples.get(f"obs/{field}", np.zeros((0, *space.shape)))
    for i in range(space.shape[0]):
        values = seen[:, i].astype(np.float64)
        width = float(np.ptp(values)) if len(values) else 1.0
        if width <= 0.0:
            continue
        new, old = (f"{group}[{field!r}][:, {i}].astype(float)" for group in ("next_obs", "obs"))
        label = f"{_word(field)}_{i}"
        for sign, word in ((1, "up"), (-1, "down")):
            change = f"{sign / width!r} * ({new} - {old})"
            lines = (f"value = np.clip({change}, -1.0, 1.0)",)
            yield ProgramComponent(
                f"moves_{word}_{label}", lines, is_event=False, low=-1.0, entries=0
            )
            yield ProgramComponent(
                f"farthest_{word}_{label}",
                _record(f"farthest_{word}_{label}", f"{sign / width!r} * {{}}", new, old),
                is_event=False,
                entries=2,
                is_discovery=True,
            )
            for quantile in _QUANTILES:
                bound = float(np.quantile(sign * values, quantile))
                name = f"reaches_{word}_{int(quantile * 100)}_{label}"
                yield ProgramComponent(name, (f"now = {sign} * {new} > {bound!r}",))
            beyond = float((sign * values).max() + 0.25 * width)
            yield ProgramComponent(
                f"exceeds_{word}_{label}", (f"now = {sign} * {new} > {beyond!r}",)
            )
        largest = float(np.abs(values).max()) or 1.0
        yield ProgramComponent(
            f"fastest_{label}",
            _record(f"fastest_{label}", f"np.abs({{}}) / {largest!r}", new, old),
            is_event=False,
            entries=2,
        )


def _record(name: str, measure: str, new: str, old: str) -> tuple[str, ...]:
    """By how much a measure exceeds its highest value of the episode so far, at most 1."""
    return (
        f"here, start = {measure.format(new)}, {measure.format(old)}",
        f'begun = memory.get("{name}_begun", none) > 0',
        f'best = np.where(begun, memory.get("{name}", 0.0 * here), start)',
        "value = np.clip(here - best, 0.0, 1.0)",
        f'memory["{name}"] = np.maximum(best, here)',
        f'memory["{name}_begun"] = none + 1',
    )


def _closing_distance(task: DesignTask, first: str, second: str) -> ProgramComponent:
    """Component for the decrease of the distance between two vectors, such as position and goal."""
    arrays = [task.samples.get(f"obs/{name}") for name in (first, second)]
    width = 1.0
    if arrays[0] is not None and arrays[1] is not None:
        gap = np.linalg.norm(arrays[0].astype(np.float64) - arrays[1], axis=1)
        width = float(gap.max()) or 1.0

    def gap_of(group: str) -> str:
        return f"np.linalg.norm({group}[{first!r}] - {group}[{second!r}].astype(float), axis=1)"

    line = f"value = np.clip(({gap_of('obs')} - {gap_of('next_obs')}) / {width!r}, -1.0, 1.0)"
    return ProgramComponent(
        f"nears_{_word(first)}_{_word(second)}", (line,), is_event=False, low=-1.0
    )


def _word(field: str) -> str:
    """Part of an identifier for a field; a memory has no longer keys than 64 characters."""
    return re.sub(r"\W", "_", field)[:20]


def _effort() -> ProgramComponent:
    line = "value = -np.minimum((action.reshape(len(action), -1) ** 2).mean(1), 1.0)"
    return ProgramComponent("saves_effort", (line,), is_event=False, low=-1.0, high=0.0)
