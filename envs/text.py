"""Text as integer ids, so that tensors can hold it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

MISSION_BYTES = 96


def encode_text(text: str, size: int = MISSION_BYTES) -> np.ndarray:
    """Encode `text` as bytes [size] uint8, cut off or padded with zeros."""
    return np.frombuffer(text.encode()[:size].ljust(size, b"\0"), np.uint8)


class TextTable:
    """Table of sentences and their ids, which never change: 0 is "", the others follow from 1.

    Args:
        texts: first entries, in the order of their ids from 1 on.

    >>> table = TextTable()
    >>> table.intern("opened the red door"), table.intern("opened the red door"), len(table)
    (1, 1, 2)
    >>> table.text(1)
    'opened the red door'
    """

    def __init__(self, texts: Iterable[str] = ()):
        self._texts: list[str] = [""]
        self._ids = {"": 0}
        for text in texts:
            self.intern(text)

    def __len__(self) -> int:
        return len(self._texts)

    def intern(self, text: str) -> int:
        """Return the id of `text`, a new one if it has none yet."""
        if text not in self._ids:
            self._ids[text] = len(self._texts)
            self._texts.append(text)
        return self._ids[text]

    def text(self, text_id: int) -> str:
        """Return the sentence with this id; IndexError if there is none."""
        if not 0 <= text_id < len(self._texts):
            raise IndexError(f"no text {text_id}: the table has ids 0 to {len(self._texts) - 1}")
        return self._texts[text_id]

    def save(self, path: Path | str) -> None:
        """Write the sentences to a JSON file."""
        Path(path).write_text(json.dumps(self._texts[1:], ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> TextTable:
        """Read a file that `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

    def state_dict(self) -> dict[str, Any]:
        """Sentences in the order of their ids."""
        return {"texts": self._texts[1:]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; ids assigned before are discarded."""
        self.__init__(state["texts"])  # type: ignore[misc]
