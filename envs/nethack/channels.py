"""Side channels of NetHack and MiniHack, and the spaces of NLE's observations."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from nle import nethack
from nle.env.base import NLE_SPACE_ITEMS

from firstlight.envs.nethack.tasks import DEPTH, DUNGEON, EXPERIENCE, GOLD, LEVEL, TIME, X, Y

KEYS = ("keys_held", "closed_doors")
_CLOSED_DOOR = nethack.GLYPH_CMAP_OFF + 15  # and the next one: vertical and horizontal
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
_INT64 = np.iinfo(np.int64)
MESSAGE = spaces.Box(0, 255, nethack.OBSERVATION_DESC["message"]["shape"], np.uint8)


def channel_spaces(text: bool = False, keys: bool = False) -> spaces.Dict:
    """Spaces of the side channels of one environment.

    They are `depth` below the surface, number of the `dungeon`, `dungeon_level` in it,
    `experience_level`, `gold`, `turns` of the game, cells `explored` and `kills` in this episode,
    and `agent_pos` (column and row).

    Args:
        text: include `message`, the top line, [256] uint8.
        keys: include `keys_held`, the number of keys in the inventory, and `closed_doors` on the
            map.
    """
    number = spaces.Box(_INT64.min, _INT64.max, (), np.int64)
    names = (*_NUMBERS, *(KEYS if keys else ()))
    fields: dict[str, spaces.Space] = dict.fromkeys(names, number)
    fields["agent_pos"] = spaces.Box(_INT64.min, _INT64.max, (2,), np.int64)
    return spaces.Dict(fields | ({"message": MESSAGE} if text else {}))


def nle_spaces(keys: Iterable[str]) -> spaces.Dict:
    """Spaces of the observations of NLE with these names.

    Raises:
        ValueError: for an unknown name.
    """
    known = dict(NLE_SPACE_ITEMS)
    for key in keys:
        if key not in known:
            raise ValueError(f"NetHack has no observation {key!r}; it has {', '.join(known)}")
    return spaces.Dict({key: known[key] for key in keys})


@functools.cache
def key_glyph() -> int:
    """Glyph of NetHack's key, whatever it is called while it is not identified."""
    names = [nethack.OBJ_NAME(nethack.objclass(i)) for i in range(nethack.NUM_OBJECTS)]
    return nethack.GLYPH_OBJ_OFF + names.index("skeleton key")


def is_closed_door(glyphs: np.ndarray) -> np.ndarray:
    """Whether glyphs are those of closed doors."""
    return (glyphs == _CLOSED_DOOR) | (glyphs == _CLOSED_DOOR + 1)


def key_channels(glyphs: np.ndarray, inventory: np.ndarray) -> dict[str, int]:
    """Channels `KEYS` from the map's glyphs [21, 79] and those of the inventory [55]."""
    held = int(np.count_nonzero(inventory == key_glyph()))
    return {"keys_held": held, "closed_doors": int(np.count_nonzero(is_closed_door(glyphs)))}


class EpisodeProgress:
    """Counts of one episode, and the side channels.

    Attributes:
        explored: cells that are not bare stone, over all levels visited.
        kills: messages about kills of the hero, also those in the middle of a step.
    """

    def __init__(self) -> None:
        self.explored, self.kills = 0, 0
        self._levels: dict[tuple[int, int], int] = {}

    def update(self, glyphs: np.ndarray, blstats: np.ndarray, messages: Iterable[bytes]) -> None:
        """Count what one step showed: map [21, 79], bottom line [27] and messages."""
        level = int(blstats[DUNGEON]), int(blstats[LEVEL])
        seen = int(np.count_nonzero(glyphs != nethack.GLYPH_CMAP_OFF))
        self.explored += seen - self._levels.get(level, 0)
        self._levels[level] = seen
        for message in messages:
            self.kills += sum(message.count(words) for words in _KILLS)

    def channels(self, blstats: np.ndarray, message: np.ndarray | None = None) -> dict[str, Any]:
        """Side channels of the current state, with a copy of `message` if it is given."""
        line = blstats.tolist()
        channels: dict[str, Any] = {name: line[i] for name, i in _STATISTICS.items()}
        channels |= {"explored": self.explored, "kills": self.kills}
        channels["agent_pos"] = np.array([blstats[X], blstats[Y]], np.int64)
        return channels if message is None else channels | {"message": message.copy()}
