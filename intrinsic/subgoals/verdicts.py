"""Verdicts on transitions: by rules from state or sentences, and by a language model's answers."""

from __future__ import annotations

import json
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.language.judges.judge import digest
from firstlight.intrinsic.language.prompts import Message, Prompt
from firstlight.intrinsic.language.store import Item
from firstlight.intrinsic.subgoals.llm_teacher import PROMPTS, read_object
from firstlight.intrinsic.subgoals.transitions import TransitionReader

KEYROOM = ("pick up the key", "open the door")
MINIGRID = ("picked up key", "unlocked door", "reached goal")
KEYS_HELD, CLOSED_DOORS = "keys_held", "closed_doors"


class Verdicts(ABC):
    """Rules that say which subgoals a transition achieves."""

    subgoals: tuple[str, ...]

    @abstractmethod
    def judge(self, rollout: Rollout) -> Tensor:
        """Whether each step achieves each subgoal: [T, N, S] bool, on the CPU."""


class KeyRoomVerdicts(Verdicts):
    """Verdicts from the state of a KeyRoom: one more key held, one closed door less on the map."""

    subgoals = KEYROOM

    def judge(self, rollout: Rollout) -> Tensor:
        """Compare the side channels before and after each step."""
        after = rollout.next_info()
        keys = after[KEYS_HELD] > rollout.info[KEYS_HELD][:-1]
        doors = after[CLOSED_DOORS] < rollout.info[CLOSED_DOORS][:-1]
        return (torch.stack([keys, doors], -1) & rollout.valid[..., None]).cpu()


class SentenceVerdicts(Verdicts):
    """Verdicts from the sentences of steps: one that holds all words of a subgoal achieves it.

    Args:
        subgoals: such as "picked up key", which "picked up the red key" achieves.
        transitions: gives the sentences.
    """

    def __init__(self, subgoals: Sequence[str], transitions: TransitionReader):
        self.subgoals, self._transitions = tuple(subgoals), transitions
        self._words = [{*subgoal.lower().split()} for subgoal in self.subgoals]

    def judge(self, rollout: Rollout) -> Tensor:
        """Look for the words of each subgoal in each sentence."""
        ids = self._transitions.sentences(rollout)
        numbers, rows = ids.unique(return_inverse=True)
        table = self._transitions.texts.sentences
        known = [{*table.text(i).lower().split()} for i in numbers.tolist()]
        found = torch.tensor([[words <= text for words in self._words] for text in known])
        return found.view(len(known), -1)[rows] & rollout.valid.cpu()[..., None]


class TransitionPrompt(Prompt):
    """Shows transitions to a language model, and reads which subgoals each achieves.

    Args:
        subgoals: their names, in order.
        role, legend, remark: names of variants in the file.
        path: of the TOML file.

    Raises:
        ValueError: for an unknown variant.
    """

    def __init__(
        self,
        subgoals: Sequence[str],
        *,
        role: str = "none",
        legend: str = "none",
        remark: str = "none",
        path: Path | str = PROMPTS / "transitions.toml",
    ):
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        chosen = {}
        for group, name in (("roles", role), ("legends", legend), ("remarks", remark)):
            if name not in content[group]:
                raise ValueError(
                    f"there is no {name!r} in {group}: choose from {', '.join(content[group])}"
                )
            chosen[group] = content[group][name].strip()
        example = json.dumps({"1a2b3c": [n == 0 for n in range(len(subgoals))]})
        numbered = "; ".join(f"{n}. {name}" for n, name in enumerate(subgoals, 1))
        parts = (
            chosen["roles"],
            chosen["legends"],
            content["task"].replace("{subgoals}", numbered).strip(),
            chosen["remarks"],
            content["form"].replace("{example}", example).strip(),
        )
        super().__init__("\n\n".join(part for part in parts if part), {}, False)
        object.__setattr__(self, "_count", len(subgoals))  # the base class is frozen

    @property
    def digest(self) -> str:
        """Hash of what decides the answers."""
        return digest(self.system, "transitions")

    def messages(self, items: Mapping[str, Item]) -> list[Message]:
        """Build the messages of a request, with the transitions as JSON strings."""
        lines = "\n".join(json.dumps({"id": i, "transition": x[0]}) for i, x in items.items())
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": f"<data>\n{lines}\n</data>\nJudge each id."},
        ]

    def schema(self, ids: Sequence[str]) -> dict[str, Any]:
        """JSON schema of an answer."""
        count = self._count  # type: ignore[attr-defined]
        each = {
            "type": "array",
            "items": {"type": "boolean"},
            "minItems": count,
            "maxItems": count,
        }
        return {
            "type": "object",
            "properties": dict.fromkeys(ids, each),
            "required": [*ids],
            "additionalProperties": False,
        }

    def parse(self, reply: str, ids: Sequence[str]) -> dict[str, Any]:
        """Read an answer: by id the JSON text of its truth values; others are left out."""
        answer = read_object(reply)
        count = self._count  # type: ignore[attr-defined]
        return {
            i: json.dumps(answer[i]) for i in ids if i in answer and _are_truths(answer[i], count)
        }


def _are_truths(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(x) is bool for x in value)
