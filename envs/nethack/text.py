"""NetHack's top line as numbers of sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.envs.types import Obs, Point, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import VecWrapper

_IDS = spaces.Box(0, np.iinfo(np.int64).max, (), np.int64)


class Messages(VecWrapper):
    """Adds the side channel `text_id`, the number of the sentence in each environment's top line.

    The sentences lie in `texts`, which is saved with the environments' state; 0 is an empty line.

    Args:
        vec: with `message` [M] uint8, text with zeros after it, in its observation or among its
            side channels; of the latter it is taken out.
        texts: table to add to; default a new one.

    Raises:
        ValueError: if there is no `message`.
    """

    def __init__(self, vec: VecEnv, *, texts: TextTable | None = None):
        super().__init__(vec)
        self._shown = "message" in vec.obs_space.spaces
        if not self._shown and "message" not in vec.info_space.spaces:
            raise ValueError("these environments show no 'message', whose text could be numbered")
        self.texts = TextTable() if texts is None else texts
        self.obs_space = vec.obs_space
        kept = {name: s for name, s in vec.info_space.spaces.items() if name != "message"}
        self.info_space = spaces.Dict({**kept, "text_id": _IDS})
        self._ids: dict[bytes, int] = {}

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere."""
        obs, info = self._vec.reset(seed)
        return obs, self._told(obs, info)

    def points(self) -> list[Point]:
        """Where each environment stands."""
        return self._vec.points()

    def restore(self, env_ids: Tensor, points: Sequence[Point]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to saved `points`."""
        obs, info, lost = self._vec.restore(env_ids, points)
        return obs, self._told(obs, info), lost

    def state_dict(self) -> dict[str, Any]:
        """That of the environments, and the sentences."""
        return {"vec": self._vec.state_dict(), "texts": self.texts.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Take such a state back."""
        self._take(state["texts"])
        obs, info, lost = self._vec.load_state_dict(state["vec"])
        return obs, self._told(obs, info), lost

    def kept(self) -> dict[str, Any]:
        """The sentences, whose numbers reward modules may have learnt."""
        return {**super().kept(), "texts": self.texts.state_dict()}

    def keep(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().keep(state)
        self._take(state["texts"])

    def _take(self, texts: dict[str, Any]) -> None:
        self.texts.load_state_dict(texts)
        self._ids = {}

    def _changed(self, step: Step, action: Tensor) -> Step:
        info = self._told(step.obs, step.info)
        final_info = self._told(step.final_obs, step.final_info)
        return dataclasses.replace(step, info=info, final_info=final_info)

    def _told(self, obs: Obs, info: Obs) -> Obs:
        ids = []
        for row in (obs if self._shown else info)["message"].numpy():
            line = row.tobytes().rstrip(b"\0")
            if line not in self._ids:
                sentence = line.replace(b"\0", b"").decode("latin-1")
                self._ids[line] = self.texts.intern(sentence)
            ids.append(self._ids[line])
        told = {name: field for name, field in info.items() if name != "message"}
        return told | {"text_id": torch.tensor(ids, dtype=torch.int64)}
