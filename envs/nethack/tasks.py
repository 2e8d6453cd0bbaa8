"""Rewards, goals and ends of the NetHack tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from nle import nethack

from firstlight.envs.nethack.game import NUTRITION, STAIRS

X, Y = nethack.NLE_BL_X, nethack.NLE_BL_Y
SCORE, GOLD, TIME = nethack.NLE_BL_SCORE, nethack.NLE_BL_GOLD, nethack.NLE_BL_TIME
DEPTH, LEVEL, DUNGEON = nethack.NLE_BL_DEPTH, nethack.NLE_BL_DLEVEL, nethack.NLE_BL_DNUM
EXPERIENCE, CONDITION = nethack.NLE_BL_XP, nethack.NLE_BL_CONDITION
_HALLUCINATES = nethack.BL_MASK_HALLU


class GameState(NamedTuple):
    """What rewards depend on, between two actions.

    Args:
        blstats: [27] int64, the bottom line.
        internal: [9] int32, NLE's; `game` has names for some indices.
        nearby: [h, w] int16, glyphs of the hero's cell and its neighbours on the map.
        explored: cells seen so far on all levels; 0 before the first action.
    """

    blstats: np.ndarray
    internal: np.ndarray
    nearby: np.ndarray
    explored: int


def nearby_glyphs(glyphs: np.ndarray, blstats: np.ndarray) -> np.ndarray:
    """Copy the 3 x 3 glyphs around the hero, fewer at the border of the map."""
    x, y = int(blstats[X]), int(blstats[Y])
    return glyphs[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].copy()


@dataclass(frozen=True, slots=True)
class NetHackTask:
    """Rewards, goal and settings of a task.

    Args:
        step_reward: function of the states before and after a step.
        goal: function of the state before, the key and the state after; True if the step reached
            the goal. None for no goal.
        goal_reward: for reaching the goal the first time in an episode.
        terminates: whether the episode ends at the goal.
        penalty: added in each step that takes no time in the game.
        actions: name of a set in `game.ACTIONS`.
        answers: whether prompts are answered as ONI does, see `Game`.
        steps: time limit of an episode.
        options: of NetHack.
    """

    step_reward: Callable[[GameState, GameState], float] | None = None
    goal: Callable[[GameState, int, GameState], bool] | None = None
    goal_reward: float = 50.0
    terminates: bool = True
    penalty: float = 0.0
    actions: str = "extended"
    answers: bool = True
    steps: int = 5000
    options: tuple[str, ...] | None = None


def descended(before: GameState, key: int, after: GameState, *, depth: int) -> bool:
    """Whether the hero descended to `depth`, and by the stairs."""
    took = key == nethack.MiscDirection.DOWN and bool(before.internal[STAIRS])
    return took and bool(before.blstats[DEPTH] < after.blstats[DEPTH] == depth)


def on_stairs(before: GameState, key: int, after: GameState, *, pet: bool = False) -> bool:
    """Whether the hero is on stairs down, with `pet` also beside a pet."""
    stands = bool(after.internal[STAIRS])
    return stands and (not pet or bool(nethack.glyph_is_pet(after.nearby).any()))


def met_oracle(before: GameState, key: int, after: GameState, *, sober: bool = False) -> bool:
    """Whether the hero is beside what looks like the Oracle, with `sober` not hallucinating."""
    hallucinates = sober and bool(after.blstats[CONDITION] & _HALLUCINATES)
    return not hallucinates and bool((after.nearby == oracle_glyph()).any())


@functools.cache
def oracle_glyph() -> int:
    """Return the glyph id of the Oracle."""
    monsters = range(nethack.GLYPH_PET_OFF - nethack.GLYPH_MON_OFF)
    (which,) = (i for i in monsters if nethack.permonst(i).mname == "Oracle")
    return nethack.GLYPH_MON_OFF + which


def increase(statistic: int, before: GameState, after: GameState) -> float:
    """Increase of the bottom line's number at the index `statistic`."""
    return float(after.blstats[statistic] - before.blstats[statistic])


def nutrition_increase(before: GameState, after: GameState) -> float:
    """Increase of the hero's nutrition; 0 for a decrease."""
    return float(max(after.internal[NUTRITION] - before.internal[NUTRITION], 0))


def newly_explored(before: GameState, after: GameState) -> float:
    """Number of cells seen for the first time."""
    return float(after.explored - before.explored)


_score = functools.partial(increase, SCORE)
_gold_only = tuple(
    "pickup_types:$" if option.startswith("pickup_types") else option
    for option in nethack.NETHACKOPTIONS
)
_NLE = functools.partial(NetHackTask, penalty=-0.01, actions="task", answers=False, goal_reward=1.0)

_goals: dict[str, Callable[[GameState, int, GameState], bool]] = {
    **{f"staircase_{n}": functools.partial(descended, depth=n) for n in (2, 3, 4)},
    "oracle": met_oracle,
    "oracle_sober": functools.partial(met_oracle, sober=True),
}
TASKS: Mapping[str, NetHackTask] = {
    "score": NetHackTask(_score, penalty=-0.01),
    **{name: NetHackTask(goal=goal) for name, goal in _goals.items()},
    **{
        f"{name}_continual": NetHackTask(goal=goal, terminates=False)
        for name, goal in _goals.items()
    },
    "NetHack-v0": NetHackTask(_score, actions="useful", answers=False),
    "NetHackScore-v0": _NLE(_score),
    "NetHackStaircase-v0": _NLE(goal=on_stairs),
    "NetHackStaircasePet-v0": _NLE(goal=functools.partial(on_stairs, pet=True)),
    "NetHackOracle-v0": _NLE(goal=met_oracle),
    "NetHackGold-v0": _NLE(functools.partial(increase, GOLD), options=_gold_only),
    "NetHackEat-v0": _NLE(nutrition_increase),
    "NetHackScout-v0": _NLE(newly_explored),
}
