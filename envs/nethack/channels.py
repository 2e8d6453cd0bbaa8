"""Side channels of NetHack's games, and what its observations look like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from nle import nethack
from nle.env.base import NLE_SPACE_ITEMS

from firstlight.envs.nethack.tasks import DEPTH, DUNGEON, EXPERIENCE, GOLD, LEVEL, TIME, X, Y

_KILLS = (b"You kill ", b"You destroy ")
_STATISTICS = {
    "depth": DEPTH,
    "dungeon": DUNGEON,
    "dungeon_level": LEVEL,
    "experience_level": EXPERIENCE,
    "gold": GOLD,
    "turns": TIME,
}
_NUMBERS = (*_STATISTICS, "explored", "kills")
_WIDEST = np.iinfo(np.int64)
MESSAGE = spaces.Box(0, 255, nethack.OBSERVATION_DESC["message"]["shape"], np.uint8)


def channel_spaces(text: bool = False) -> spaces.Dict:
    """Spaces of the side channels of one environment.

    `depth` below the surface, number of the `dungeon`, `dungeon_level` in it, `experience_level`,
    `gold`, `turns` of the game, cells `explored` and `kills` in this episode, `agent_pos` (column
    and row), and on request `message`.

    Args:
        text: with the top line [256] uint8.
    """
    number = spaces.Box(_WIDEST.min, _WIDEST.max, (), np.int64)
    fields: dict[str, spaces.Space] = dict.fromkeys(_NUMBERS, number)
    fields["agent_pos"] = spaces.Box(_WIDEST.min, _WIDEST.max, (2,), np.int64)
    return spaces.Dict(fields | ({"message": MESSAGE} if text else {}))


def nle_spaces(keys: Iterable[str]) -> spaces.Dict:
    """Spaces of NLE's observations.

    Raises:
        ValueError: for one that does not exist.
    """
    known = dict(NLE_SPACE_ITEMS)
    for key in keys:
        if key not in known:
            raise ValueError(f"NetHack has no observation {key!r}; it has {', '.join(known)}")
    return spaces.Dict({key: known[key] for key in keys})


class Progress:
    """What an episode has come to so far; fills the side channels.

    `kills` counts the messages that tell of the hero's kills, also those in the middle of a step;
    `explored` the cells that are not bare stone, over all levels visited.
    """

    def __init__(self) -> None:
        self.explored, self.kills = 0, 0
        self._levels: dict[tuple[int, int], int] = {}

    def note(self, glyphs: np.ndarray, blstats: np.ndarray, said: Iterable[bytes]) -> None:
        """Take in what one step showed."""
        level = int(blstats[DUNGEON]), int(blstats[LEVEL])
        seen = int(np.count_nonzero(glyphs != nethack.GLYPH_CMAP_OFF))
        self.explored += seen - self._levels.get(level, 0)
        self._levels[level] = seen
        for message in said:
            self.kills += sum(message.count(words) for words in _KILLS)

    def channels(self, blstats: np.ndarray, message: np.ndarray | None = None) -> dict[str, Any]:
        """The side channels, with a copy of `message` if it is given."""
        numbers: dict[str, Any] = {name: int(blstats[i]) for name, i in _STATISTICS.items()}
        numbers |= {"explored": self.explored, "kills": self.kills}
        numbers["agent_pos"] = np.array([blstats[X], blstats[Y]], np.int64)
        return numbers if message is None else numbers | {"message": message.copy()}


def check_views(views: Mapping[str, np.ndarray], space: spaces.Dict) -> None:
    """Whether observations of `space` can be written into `views`, as they are.

    Raises:
        ValueError: naming a view of an unknown name, shape or dtype, or one that is scattered.
    """
    for name, view in views.items():
        if name not in space.spaces:
            raise ValueError(f"there is no observation {name!r}; there are {sorted(space.spaces)}")
        one = space[name]
        if view.shape != one.shape or view.dtype != one.dtype:
            wanted = f"{one.dtype} {one.shape}"
            raise ValueError(f"the view of {name!r} is {view.dtype} {view.shape}, not {wanted}")
        if not (view.flags.c_contiguous and view.flags.writeable):
            raise ValueError(f"the view of {name!r} is not contiguous, or cannot be written")
