"""Captions of states: what the agent sees and carries, and its task."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import COLOURS, DOOR, EMPTY, LAVA, LOCKED, OBJECTS, OPEN, VIEW
from firstlight.envs.text import TextTable
from firstlight.envs.types import Rollout
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.intrinsic.memory import hash_rows

_CODES = 1 << 9  # object | colour << 4 | state << 7


def describes_grid(obs_space: spaces.Dict, info_space: spaces.Dict) -> bool:
    """Whether observations are MiniGrid's view, or the map of it, with the task as a text."""
    image = obs_space.spaces.get("image")
    if image is None or image.shape is None or "mission_id" not in info_space.spaces:
        return False
    return image.shape[2:] == (3,) and image.dtype == np.uint8


class StateCaptions:
    """Numbers the captions of the observations that a policy acts on.

    In MiniGrid a caption has the sorted distinct objects of the view (or of the map, with
    ``env.view=map``), the object carried and the task, as the captions of ELLM do for Crafter (Du
    et al. 2023); where things are is left out, so that there are few captions. Elsewhere it is the
    step's sentence, such as NetHack's message. The empty caption has number 0.

    Args:
        events: table of the environments' texts.
        obs_space: observation space.
        info_space: space of the info channels.

    Attributes:
        table: the captions.
    """

    def __init__(self, events: TextTable, obs_space: spaces.Dict, info_space: spaces.Dict):
        self.events, self.table = events, TextTable()
        self._grid = describes_grid(obs_space, info_space)
        self._texts = StepTexts(events, with_mission="mission_id" in info_space.spaces)
        self._known: dict[int, int] = {}

    def ids(self, rollout: Rollout, where: Tensor) -> Tensor:
        """Return the captions before those steps that are `where` [T, N] bool: [B] int64.

        Both are on the CPU.
        """
        if self._grid:
            return self._of_grid(rollout, where)
        ids, rows = self._texts.ids(rollout)[0][:-1][where].unique(return_inverse=True)
        captions = [self._texts.sentences.text(i) for i in ids.tolist()]
        return torch.tensor([self.table.intern(x) for x in captions], dtype=torch.int64)[rows]

    def _of_grid(self, rollout: Rollout, where: Tensor) -> Tensor:
        seen, hand = _contents(rollout, where)
        missions = rollout.info["mission_id"][:-1].cpu()[where]
        keys = hash_rows([torch.from_numpy(np.packbits(seen, axis=1)), hand, missions], len(hand))
        known, first, rows = np.unique(keys.numpy(), return_index=True, return_inverse=True)
        ids = np.empty(len(known), np.int64)
        for k, (key, row) in enumerate(zip(known.tolist(), first.tolist(), strict=True)):
            if key not in self._known:
                task = self.events.text(int(missions[row]))
                caption = describe_state(np.flatnonzero(seen[row]), int(hand[row]), task)
                self._known[key] = self.table.intern(caption)
            ids[k] = self._known[key]
        return torch.from_numpy(ids[rows])


def _contents(rollout: Rollout, where: Tensor) -> tuple[np.ndarray, Tensor]:
    """Codes in sight of B observations [B, `_CODES`] bool, and the ones carried [B] int16."""
    image = rollout.obs["image"][:-1].cpu()[where].short()  # [B, side, side, 3]
    codes = image[..., 0] | image[..., 1] << 4 | image[..., 2] << 7
    if "carrying" in rollout.obs:  # a map shows what lies under the agent instead
        held = rollout.obs["carrying"][:-1].cpu()[where].short()
        hand = held[:, 0] | held[:, 1] << 4
    else:
        hand = codes[:, VIEW // 2, VIEW - 1].clone()
        codes[:, VIEW // 2, VIEW - 1] = EMPTY
    codes = codes.flatten(1)
    things = (codes & 15 >= DOOR) & (codes & 15 <= LAVA)
    seen = np.zeros((len(codes), _CODES), bool)
    rows, _ = things.nonzero().unbind(1)
    seen[rows.numpy(), codes[things].numpy()] = True
    return seen, hand


def describe_state(seen: np.ndarray, hand: int, task: str) -> str:
    """Describe a state of MiniGrid.

    Args:
        seen: [*] codes of the cells in sight.
        hand: code of the object carried.
        task: the mission.

    >>> describe_state(np.array([4 | 4 << 4 | 2 << 7, 5 | 4 << 4]), 1, "open the door")
    'You see: a locked yellow door, a yellow key. You carry nothing. Task: open the door.'
    """
    things = ", ".join(sorted(_name(int(code)) for code in seen)) or "nothing"
    held = _name(hand) if hand & 15 > EMPTY else "nothing"
    return f"You see: {things}. You carry {held}. Task: {task}."


def _name(code: int) -> str:
    kind, colour, state = code & 15, code >> 4 & 7, code >> 7
    if kind == DOOR:
        how = "an open" if state == OPEN else "a locked" if state == LOCKED else "a closed"
        return f"{how} {COLOURS[colour]} door"
    if OBJECTS[kind] in ("goal", "lava"):
        return f"the {OBJECTS[kind]}"
    return f"a {COLOURS[colour]} {OBJECTS[kind]}"
