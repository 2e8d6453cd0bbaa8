"""Text in tensors: as the bytes of a sentence, or as its id in a table."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

MISSION_BYTES = 96
_INTERN = threading.Lock()  # environments of one table may be stepped in two threads
TEXT_BYTES = 512
"""Most bytes of a text in an observation; what is beyond is cut off."""


def encode_text(text: str, size: int = MISSION_BYTES) -> np.ndarray:
    """Encode `text` as bytes [size] uint8, cut off or padded with zeros."""
    return np.frombuffer(text.encode()[:size].ljust(size, b"\0"), np.uint8)


class TextBytes(spaces.Box):
    """Space of the bytes of a text, [size] uint8, as `encode_text` returns them.

    A Box of bytes like any other but for its class, by which an encoder knows a text.

    Args:
        size: number of bytes.
    """

    def __init__(self, size: int):
        super().__init__(0, 255, (size,), np.uint8)

    def __repr__(self) -> str:
        return f"TextBytes({self.shape[0]})"


def is_text(space: spaces.Space) -> bool:
    """Whether the values of a space are texts: of Gymnasium's `Text`, or MiniGrid's missions."""
    return space.dtype is not None and np.dtype(space.dtype).kind == "U"


def text_bytes(space: spaces.Space) -> TextBytes:
    """Space of the bytes of a space of texts: all of the longest text, or `TEXT_BYTES` of it.

    >>> text_bytes(spaces.Text(20)), text_bytes(spaces.Text(20, charset="aé"))
    (TextBytes(20), TextBytes(80))
    """
    if not isinstance(space, spaces.Text):
        return TextBytes(TEXT_BYTES)
    width = 1 if all(letter.isascii() for letter in space.character_set) else 4
    return TextBytes(min(width * space.max_length, TEXT_BYTES))


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
            with _INTERN:
                if text not in self._ids:
                    self._texts.append(text)
                    self._ids[text] = len(self._texts) - 1
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
