"""Transitions as numbers for a classifier, as keys of a table, and as text for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import VIEW
from firstlight.envs.types import Obs, Rollout
from firstlight.intrinsic.language.texts import StepTexts
from firstlight.intrinsic.memory import hash_rows

CROP = 9
"""Cells along a side of NetHack's map around the hero."""

_WORDS = 24  # of a step's sentence; further ones are not read
NUM_TOKENS = 1 << 14
"""Rows of a classifier's table; tokens are hashed to 1, 2, …, and 0 is none."""

MINIHACK_ACTIONS = (
    *("north", "east", "south", "west", "northeast", "southeast", "southwest", "northwest"),
    *("pick up", "apply"),
)
_MINIGRID_ACTIONS = ("turn left", "turn right", "forward", "pick up", "drop", "toggle", "done")


class TransitionReader:
    """Reads the transitions of rollouts: screen before and after, action, sentence of the step.

    The screen is NetHack's map around the hero, or MiniGrid's view.

    Args:
        obs_space: observation space.
        texts: sentences of steps.

    Attributes:
        num_cells: of a screen; 0 if there is none.
    """

    def __init__(self, obs_space: spaces.Dict, texts: StepTexts):
        self.texts = texts
        self.is_nethack = {"glyphs", "blstats"} <= obs_space.spaces.keys()
        image = obs_space.spaces.get("image")
        is_view = isinstance(image, spaces.Box) and image.shape == (VIEW, VIEW, 3)
        self.num_cells = CROP**2 if self.is_nethack else VIEW**2 if is_view else 0
        self._words: dict[int, list[int]] = {0: []}

    def screens(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Codes of the screens of observations [R, ...]: [R, C] int64."""
        if self.is_nethack:
            return crop(obs["glyphs"], obs["blstats"]).flatten(1)
        if not self.num_cells:
            return torch.zeros(len(next(iter(obs.values()))), 0, dtype=torch.int64)
        cells = obs["image"].long()
        return (cells[..., 0] | cells[..., 1] << 4 | cells[..., 2] << 7).flatten(1)

    def sentences(self, rollout: Rollout) -> Tensor:
        """Numbers of the sentences of steps, [T, N] int64."""
        return self.texts.ids(rollout)[1]

    def tokens(self, rollout: Rollout, at: Tensor) -> Tensor:
        """Tokens of the transitions `at` [R, 2] int64 (t, n): [R, L] int64, 0 for none.

        They are the cells that changed, the cell ahead and around, the action, and the words of the
        sentence, each hashed with its place.
        """
        t, n = at.unbind(1)
        before, after = self._both(rollout, at)
        action = rollout.action.cpu()[t, n].reshape(len(at), -1)[:, 0].long()
        place = torch.arange(self.num_cells)
        changed = torch.where(before != after, _hash(1 + place, before * 8192 + after), 0)
        there = _hash(1000 + place, after)
        numbers = self.sentences(rollout)[t, n].tolist()
        words = torch.tensor([self._words_of(i) for i in numbers], dtype=torch.int64)
        words = words.view(len(at), _WORDS)
        return torch.cat([changed, there, _hash(2000, action)[:, None], words], 1)

    def keys(self, rollout: Rollout, at: Tensor) -> Tensor:
        """Hash each transition's screen and action: [R] int64 for (t, n) pairs `at` [R, 2]."""
        t, n = at.unbind(1)
        before = self.screens({k: v.cpu()[t, n] for k, v in rollout.obs.items()})
        action = rollout.action.cpu()[t, n].reshape(len(at), -1)
        return hash_rows([before, action], len(at))

    def describe(self, rollout: Rollout, at: Tensor) -> list[str]:
        """Describe the transitions `at` [R, 2] as text, see `describe_transition`."""
        t, n = at.unbind(1)
        numbers = self.sentences(rollout)[t, n].tolist()
        actions = rollout.action.cpu()[t, n].reshape(len(at), -1)[:, 0].tolist()
        screens: list[tuple[str, str] | None] = [None] * len(at)
        if "chars" in rollout.obs:
            pair = [self._chars(part) for part in self._observed(rollout, at)]
            screens = [*zip(*pair, strict=True)]
        names = MINIHACK_ACTIONS if self.is_nethack else _MINIGRID_ACTIONS
        return [
            describe_transition(
                names[a] if a < len(names) else f"number {a}",
                self.texts.sentences.text(i),
                screen,
            )
            for a, i, screen in zip(actions, numbers, screens, strict=True)
        ]

    def _chars(self, obs: Obs) -> list[str]:
        rows = crop(obs["chars"], obs["blstats"], empty=ord(" ")).numpy().astype(np.uint8)
        return ["\n".join(" ".join(map(chr, row)) for row in screen) for screen in rows]

    def _observed(self, rollout: Rollout, at: Tensor) -> tuple[Obs, Obs]:
        """Observations before and after the transitions `at` [R, 2], each [R, ...]."""
        t, n = at.unbind(1)
        after = rollout.next_obs()
        return (
            {k: v.cpu()[t, n] for k, v in rollout.obs.items()},
            {k: v.cpu()[t, n] for k, v in after.items()},
        )

    def _both(self, rollout: Rollout, at: Tensor) -> tuple[Tensor, Tensor]:
        before, after = self._observed(rollout, at)
        return self.screens(before), self.screens(after)

    def forget_words(self) -> None:
        """Read the words of sentences anew, whose numbers may have changed."""
        self._words = {0: []}

    def _words_of(self, number: int) -> list[int]:
        if number not in self._words:
            text = self.texts.sentences.text(number).lower()
            self._words[number] = [
                1 + crc32(word.encode()) % (NUM_TOKENS - 1) for word in text.split()[:_WORDS]
            ]
        found = self._words[number]
        return found + [0] * (_WORDS - len(found))


def crop(field: Tensor, blstats: Tensor, *, empty: int = 0) -> Tensor:
    """Cut the `CROP` cells around the hero out of maps.

    Args:
        field: [R, 21, 79] of the map.
        blstats: [R, 27], whose first two numbers are the hero's column and row.
        empty: value of cells beyond the map.

    Returns:
        [R, CROP, CROP] int64.
    """
    margin = CROP // 2
    wide = torch.nn.functional.pad(field.long(), (margin,) * 4, value=empty)
    around = torch.arange(CROP)
    rows = blstats[:, 1].long().clamp(0, field.shape[1] - 1)[:, None] + around
    columns = blstats[:, 0].long().clamp(0, field.shape[2] - 1)[:, None] + around
    return wide[torch.arange(len(field))[:, None, None], rows[:, :, None], columns[:, None, :]]


def describe_transition(action: str, sentence: str, screens: Sequence[str] | None = None) -> str:
    """Write a transition as text: screens if there are any, the action and what was reported."""
    lines = [f"Action: {action}", f"Message: {sentence or '(none)'}"]
    if screens is None:
        return "\n".join(lines)
    return "\n".join(["Before:", screens[0], *lines, "After:", screens[1]])


def _hash(place: int | Tensor, value: Tensor) -> Tensor:
    """Hash values with their places to tokens 1 to NUM_TOKENS - 1."""
    mixed = (value * 2_654_435_761 + place * 40_503_001) & 0x7FFFFFFF
    mixed = (mixed ^ (mixed >> 15)) * 73_244_475 & 0x7FFFFFFF
    return 1 + (mixed ^ (mixed >> 13)) % (NUM_TOKENS - 1)
