"""What NetHack's tasks pay for, and when they end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from nle import nethack

from firstlight.envs.nethack.game import NUTRITION, STAIRS

X, Y = nethack.NLE_BL_X, nethack.NLE_BL_Y
SCORE, GOLD, TIME = nethack.NLE_BL_SCORE, nethack.NLE_BL_GOLD, nethack.NLE_BL_TIME
DEPTH, LEVEL, DUNGEON = nethack.NLE_BL_DEPTH, nethack.NLE_BL_DLEVEL, nethack.NLE_BL_DNUM
EXPERIENCE, CONDITION = nethack.NLE_BL_XP, nethack.NLE_BL_CONDITION
_HALLUCINATES = nethack.BL_MASK_HALLU


@dataclass(frozen=True, slots=True)
class Moment:
    """A game between two actions.

    Args:
        blstats: [27] int64, the bottom line.
        internal: [9] int32, see `nethack_game`.
        around: [h, w] int16, glyphs of the hero's cell and its neighbours on the map.
        explored: cells seen so far on all levels; 0 before the first action.
    """

    blstats: np.ndarray
    internal: np.ndarray
    around: np.ndarray
    explored: int


def around(glyphs: np.ndarray, blstats: np.ndarray) -> np.ndarray:
    """Up to 3 x 3 glyphs around the hero, fewer at the border."""
    x, y = int(blstats[X]), int(blstats[Y])
    return glyphs[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].copy()


@dataclass(frozen=True, slots=True)
class Task:
    """What is paid each step, which goal there is, and whether reaching it ends the episode.

    Args:
        gain: (before, after) to reward.
        goal: (before, key, after) to whether this step reached the goal; None for no goal.
        pays: for reaching the goal, once.
        ends: the episode ends at the goal.
        penalty: added in each step in which NetHack's clock stands still.
        actions: name of a set in `nethack_game.ACTIONS`.
        answers: prompts are answered as ONI does, see `Game`.
        steps: limit of an episode.
        options: of NetHack.
    """

    gain: Callable[[Moment, Moment], float] | None = None
    goal: Callable[[Moment, int, Moment], bool] | None = None
    pays: float = 50.0
    ends: bool = True
    penalty: float = 0.0
    actions: str = "extended"
    answers: bool = True
    steps: int = 5000
    options: tuple[str, ...] | None = None


def descended(before: Moment, key: int, after: Moment, *, depth: int) -> bool:
    """By the stairs, to this depth."""
    took = key == nethack.MiscDirection.DOWN and bool(before.internal[STAIRS])
    return took and bool(before.blstats[DEPTH] < after.blstats[DEPTH] == depth)


def on_stairs(before: Moment, key: int, after: Moment, *, pet: bool = False) -> bool:
    """On stairs down, on request with a pet beside."""
    stands = bool(after.internal[STAIRS])
    return stands and (not pet or bool(nethack.glyph_is_pet(after.around).any()))


def met_oracle(before: Moment, key: int, after: Moment, *, sober: bool = False) -> bool:
    """Beside what looks like the Oracle, on request not while hallucinating."""
    drunk = sober and bool(after.blstats[CONDITION] & _HALLUCINATES)
    return not drunk and bool((after.around == oracle_glyph()).any())


@functools.cache
def oracle_glyph() -> int:
    """The glyph of the Oracle."""
    monsters = range(nethack.GLYPH_PET_OFF - nethack.GLYPH_MON_OFF)
    (which,) = (i for i in monsters if nethack.permonst(i).mname == "Oracle")
    return nethack.GLYPH_MON_OFF + which


def risen(statistic: int, before: Moment, after: Moment) -> float:
    """By how much a field of the bottom line has risen."""
    return float(after.blstats[statistic] - before.blstats[statistic])


def fed(before: Moment, after: Moment) -> float:
    """By how much the hero is better fed."""
    return float(max(after.internal[NUTRITION] - before.internal[NUTRITION], 0))


def scouted(before: Moment, after: Moment) -> float:
    """Cells seen for the first time."""
    return float(after.explored - before.explored)


_score = functools.partial(risen, SCORE)
_gold_only = tuple(
    "pickup_types:$" if option.startswith("pickup_types") else option
    for option in nethack.NETHACKOPTIONS
)
_NLE = functools.partial(Task, penalty=-0.01, actions="task", answers=False, pays=1.0)

_goals: dict[str, Callable[[Moment, int, Moment], bool]] = {
    **{f"staircase_{n}": functools.partial(descended, depth=n) for n in (2, 3, 4)},
    "oracle": met_oracle,
    "oracle_sober": functools.partial(met_oracle, sober=True),
}
TASKS: Mapping[str, Task] = {
    "score": Task(_score, penalty=-0.01),
    **{name: Task(goal=goal) for name, goal in _goals.items()},
    **{f"{name}_continual": Task(goal=goal, ends=False) for name, goal in _goals.items()},
    "NetHack-v0": Task(_score, actions="useful", answers=False),
    "NetHackScore-v0": _NLE(_score),
    "NetHackStaircase-v0": _NLE(goal=on_stairs),
    "NetHackStaircasePet-v0": _NLE(goal=functools.partial(on_stairs, pet=True)),
    "NetHackOracle-v0": _NLE(goal=met_oracle),
    "NetHackGold-v0": _NLE(functools.partial(risen, GOLD), options=_gold_only),
    "NetHackEat-v0": _NLE(fed),
    "NetHackScout-v0": _NLE(scouted),
}
