"""`SubgoalPrompt`, which asks a language model for the subgoals of a task."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.intrinsic.language.judges.judge import digest
from firstlight.intrinsic.language.prompts import Message, Prompt, as_messages
from firstlight.intrinsic.language.store import Item
from firstlight.intrinsic.subgoals.llm_teacher import PROMPTS, read_object

FILE = PROMPTS / "subgoals.toml"
MOST_SUBGOALS = 8
"""Largest number of subgoals in an answer; a longer list is refused."""

_NAME = re.compile(r"[^\W\d_][\w ,'()-]{1,59}")


class SubgoalPrompt(Prompt):
    """Shows a task to a language model, and reads the names of the subgoals that it lists.

    Args:
        path: of a TOML file with the message `system`.
    """

    def __init__(self, path: Path | str = FILE):
        system = tomllib.loads(Path(path).read_text(encoding="utf-8"))["system"].strip()
        super().__init__(system, {}, False)

    @property
    def digest(self) -> str:
        """Hash of what decides the answers."""
        return digest(self.system, "subgoals")

    def messages(self, items: Mapping[str, Item]) -> list[Message]:
        """Build the messages of a request, with the tasks as JSON strings."""
        rows = [{"id": i, "task": item[0]} for i, item in items.items()]
        return as_messages(self.system, rows, "List the subgoals.")

    def schema(self, ids: Sequence[str]) -> dict[str, Any]:
        """JSON schema of an answer."""
        text = {"type": "string"}
        names = {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_SUBGOALS}
        return {
            "type": "object",
            "properties": dict.fromkeys(ids, names),
            "required": [*ids],
            "additionalProperties": False,
        }

    def parse(self, reply: str, ids: Sequence[str]) -> dict[str, Any]:
        """Read an answer: by id the JSON text of its subgoals; other values are left out."""
        answer = read_object(reply)
        read = {i: read_subgoals(answer[i]) for i in ids if i in answer}
        return {i: json.dumps(names) for i, names in read.items() if names is not None}


def read_subgoals(value: Any) -> list[str] | None:
    """Read a list of 1 to `MOST_SUBGOALS` names; None for anything else.

    A name begins with a letter and has 2 to 60 letters, digits, spaces and ``_,'()-``. Repeated
    ones count once.

    >>> read_subgoals(["pick up  the key", "Pick up the key", "open the door"])
    ['pick up the key', 'open the door']
    """
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_SUBGOALS:
        return None
    names: dict[str, str] = {}
    for text in value:
        name = " ".join(text.split()) if isinstance(text, str) else ""
        if not _NAME.fullmatch(name):
            return None
        names.setdefault(name.casefold(), name)
    return [*names.values()]


def read_task(name: str) -> str:
    """Read the description of "keyroom" or "minigrid" from the prompt file."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))["tasks"][name].strip()
