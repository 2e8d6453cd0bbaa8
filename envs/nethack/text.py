"""Text ids of the messages in NetHack's top line."""

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
    """Add the side channel `text_id`: the id of the text in each environment's top line.

    The texts are in `text_table`, which is saved with the environments; id 0 is an empty line.

    Args:
        vec: environments with `message` [M] uint8, text followed by zeros, in their observation or
            their side channels; a side channel `message` is removed.
        texts: table to add texts to; default that of `vec`, or a new one.

    Raises:
        ValueError: if there is no `message`.
    """

    text_table: TextTable

    def __init__(self, vec: VecEnv, *, texts: TextTable | None = None):
        super().__init__(vec)
        self._observed = "message" in vec.obs_space.spaces
        if not self._observed and "message" not in vec.info_space.spaces:
            raise ValueError("these environments have no 'message' to make text ids from")
        self.text_table = texts or vec.text_table or TextTable()
        others = {name: s for name, s in vec.info_space.spaces.items() if name != "message"}
        self.info_space = spaces.Dict({**others, "text_id": _IDS})
        self._ids: dict[bytes, int] = {}

    def share_texts(self, table: TextTable) -> None:
        """Take text ids from another table, here and inside."""
        super().share_texts(table)
        self.text_table, self._ids = table, {}

    def state_dict(self) -> dict[str, Any]:
        """State of the environments inside, and the texts."""
        return {**super().state_dict(), "texts": self.text_table.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        self._load_texts(state["texts"])
        return super().load_state_dict(state)

    def persistent_state(self) -> dict[str, Any]:
        """Return the texts, whose ids reward modules may have learnt."""
        return {**super().persistent_state(), "texts": self.text_table.state_dict()}

    def load_persistent_state(self, state: dict[str, Any]) -> None:
        """Load what `persistent_state` returned."""
        super().load_persistent_state(state)
        self._load_texts(state["texts"])

    def _load_texts(self, texts: dict[str, Any]) -> None:
        self.text_table.load_state_dict(texts)
        self._ids = {}

    def _transform(self, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        ids = []
        for row in (obs if self._observed else info)["message"].numpy():
            line = row.tobytes().rstrip(b"\0")
            if line not in self._ids:
                text = line.replace(b"\0", b"").decode("latin-1")
                self._ids[line] = self.text_table.intern(text)
            ids.append(self._ids[line])
        others = {name: field for name, field in info.items() if name != "message"}
        return obs, others | {"text_id": torch.tensor(ids, dtype=torch.int64)}
