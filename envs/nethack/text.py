"""NetHack's top line as numbers of sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.envs.types import Obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import VecWrapper

_IDS = spaces.Box(0, np.iinfo(np.int64).max, (), np.int64)


class Messages(VecWrapper):
    """Adds the side channel `text_id`, the number of the sentence in each environment's top line.

    The sentences lie in `text_table`, which is saved with the environments; 0 is an empty line.

    Args:
        vec: with `message` [M] uint8, text with zeros after it, in its observation or among its
            side channels; of the latter it is taken out.
        texts: table to add to; default that of `vec`, or a new one.

    Raises:
        ValueError: if there is no `message`.
    """

    text_table: TextTable

    def __init__(self, vec: VecEnv, *, texts: TextTable | None = None):
        super().__init__(vec)
        self._shown = "message" in vec.obs_space.spaces
        if not self._shown and "message" not in vec.info_space.spaces:
            raise ValueError("these environments show no 'message', whose text could be numbered")
        self.text_table = texts or vec.text_table or TextTable()
        kept = {name: s for name, s in vec.info_space.spaces.items() if name != "message"}
        self.info_space = spaces.Dict({**kept, "text_id": _IDS})
        self._ids: dict[bytes, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """State of the environments inside, and the sentences."""
        return {**super().state_dict(), "texts": self.text_table.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        self._take(state["texts"])
        return super().load_state_dict(state)

    def persistent_state(self) -> dict[str, Any]:
        """The sentences, whose ids reward modules may have learnt."""
        return {**super().persistent_state(), "texts": self.text_table.state_dict()}

    def load_persistent_state(self, state: dict[str, Any]) -> None:
        """Load what `persistent_state` returned."""
        super().load_persistent_state(state)
        self._take(state["texts"])

    def _take(self, texts: dict[str, Any]) -> None:
        self.text_table.load_state_dict(texts)
        self._ids = {}

    def _transform(self, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        ids = []
        for row in (obs if self._shown else info)["message"].numpy():
            line = row.tobytes().rstrip(b"\0")
            if line not in self._ids:
                sentence = line.replace(b"\0", b"").decode("latin-1")
                self._ids[line] = self.text_table.intern(sentence)
            ids.append(self._ids[line])
        told = {name: field for name, field in info.items() if name != "message"}
        return obs, told | {"text_id": torch.tensor(ids, dtype=torch.int64)}
