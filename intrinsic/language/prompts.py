"""`Prompt`, a versioned prompt file: how texts are shown to a language model, and read back."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.intrinsic.language.judges.judge import digest
from firstlight.intrinsic.language.store import Item

FOLDER = Path(__file__).parent / "prompts"
LONGEST = 300
"""Characters of a text that are shown."""

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """A prompt for one kind of question.

    Args:
        system: the system message, with goal, labels and examples.
        labels: word of an answer to its score; None is to abstain.
        pairs: whether each question has two texts.

    The words for labels mean nothing by themselves, so that a game's text does not hold them by
    chance, and a model does not repeat what the text suggests.
    """

    system: str
    labels: Mapping[str, float | None]
    pairs: bool

    @property
    def digest(self) -> str:
        """Hash of everything that decides the answers."""
        return digest(self.system, json.dumps(dict(self.labels)), str(self.pairs))

    @classmethod
    def load(cls, family: str = "generic", goal: str = "default", *, pairs: bool = False) -> Prompt:
        """Read the prompt of an environment family: "generic", "minigrid" or "nethack".

        Args:
            family: name of a file in the folder `prompts`, or the path of such a file.
            goal: one of its goals, or a sentence of your own.
            pairs: ask for comparisons instead of ratings.

        Raises:
            ValueError: for an unknown family, or a goal that is neither a name nor a sentence.
        """
        own, common = read_prompts(family)
        goals, sentence = own["goals"], goal_sentence(own, goal)
        kind = "ranking" if pairs else "classification"
        examples = own[kind].get("examples", {}).get(goal if goal in goals else "default", [])
        scheme: dict[str, Any] = common[kind]
        shown = "\n".join(f"{show(x['text'])} -> {x['label']}" for x in examples)
        parts = [common["role"], own["world"], sentence, scheme["task"]]
        parts += [f"Examples:\n{shown}"] if shown else []
        labels = {
            word: None if x == "abstain" else float(x) for word, x in scheme["labels"].items()
        }
        return cls("\n\n".join(part.strip() for part in [*parts, scheme["form"]]), labels, pairs)

    def messages(self, items: Mapping[str, Item]) -> list[Message]:
        """Build the messages of a request.

        The texts are in the last message as JSON strings between two marks that a text cannot
        hold, because its angle brackets are escaped.

        Args:
            items: id of a question to its one or two texts.
        """
        if self.pairs:
            rows = [
                {"id": i, "first": x[0][:LONGEST], "second": x[1][:LONGEST]}
                for i, x in items.items()
            ]
        else:
            rows = [{"id": i, "text": x[0][:LONGEST]} for i, x in items.items()]
        return as_messages(self.system, rows, "Label each id of the data.")

    def schema(self, ids: Sequence[str]) -> dict[str, Any]:
        """JSON schema of an answer, for servers that can enforce one."""
        return {
            "type": "object",
            "properties": {i: {"type": "string", "enum": [*self.labels]} for i in ids},
            "required": [*ids],
            "additionalProperties": False,
        }

    def parse(self, reply: str, ids: Sequence[str]) -> dict[str, float | None]:
        """Read an answer strictly: one JSON object from ids to labels, and nothing else.

        Returns:
            Score by id; None where the model abstained. An id that is missing or has no known
            label is left out; a reply that is no such object, or has other ids, gives nothing.
        """
        answer = read_answer(reply, ids)
        known = {i: x for i, x in answer.items() if isinstance(x, str) and x in self.labels}
        return {i: self.labels[x] for i, x in known.items()}


@dataclass(frozen=True)
class CompletionPrompt:
    """Prompt for a base model, without a chat template: labelled texts that it continues.

    Args:
        start: world, goal and task.
        good, bad: words for the labels 1 and 0.
        examples: labelled texts of the prompt file, for where there are no others.
    """

    start: str
    good: str
    bad: str
    examples: Sequence[tuple[str, float]]

    @classmethod
    def load(cls, family: str = "generic", goal: str = "default") -> CompletionPrompt:
        """Read the prompt of an environment family, as `Prompt.load`."""
        own, common = read_prompts(family)
        goals, words = own["goals"], common["completion"]
        kind = common["classification"]["labels"]
        own_examples = own["classification"].get("examples", {})
        examples = own_examples.get(goal if goal in goals else "default", [])
        parts = [own["world"], goal_sentence(own, goal), words["task"]]
        return cls(
            "\n".join(part.strip() for part in parts if part),
            words["good"],
            words["bad"],
            [(x["text"], float(kind[x["label"]])) for x in examples],
        )

    def text(self, texts: Sequence[tuple[str, float]], asked: str) -> str:
        """Build the text to continue: a line for each labelled text, and a last one for `asked`.

        Texts are JSON strings, so none can end its line.
        """
        lines = [f"{self._line(x)} {self.good if y else self.bad}" for x, y in texts]
        return "\n".join([self.start, "", *lines, self._line(asked)])

    @staticmethod
    def _line(text: str) -> str:
        return f"{show(text[:LONGEST])} ->"


def read_prompts(family: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the prompt file of a family, and the parts that all families share.

    Args:
        family: name of a file in the folder `prompts`, or the path of such a file.

    Raises:
        ValueError: for an unknown family.
    """
    path = Path(family) if family.endswith(".toml") else FOLDER / f"{family}.toml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise ValueError(f"there is no prompt {family!r}: choose from {known}")
    common = FOLDER / "generic.toml"
    texts = (file.read_text(encoding="utf-8") for file in (path, common))
    own, shared = (tomllib.loads(text) for text in texts)
    return own, shared


def goal_sentence(prompts: Mapping[str, Any], goal: str) -> str:
    """Return the sentence of one of a family's goals, or `goal` itself if it is a sentence.

    Raises:
        ValueError: if it is neither.
    """
    goals = prompts["goals"]
    if goal not in goals and " " not in goal:
        near = difflib.get_close_matches(goal, goals, 1) or sorted(goals)
        raise ValueError(f"there is no goal {goal!r}: choose {near[0]!r}, or write a sentence")
    return goals.get(goal, goal)


def as_messages(system: str, rows: Iterable[Mapping[str, str]], request: str) -> list[Message]:
    """Build the messages of a request whose data are `rows`, as JSON between two marks."""
    lines = "\n".join(show(row) for row in rows)
    content = f"<data>\n{lines}\n</data>\n{request}"
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def read_answer(reply: str, ids: Sequence[str]) -> dict[str, Any]:
    """Read a reply that is one JSON object whose keys are among `ids`; else nothing."""
    try:
        answer = json.loads(_without_fence(reply), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) and answer.keys() <= set(ids) else {}


def show(value: Any) -> str:
    """Write as ASCII JSON without angle brackets, which mark the data."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e")


def _without_fence(reply: str) -> str:
    """Drop the fence that models like to put around JSON."""
    reply = reply.strip()
    if reply.startswith("```") and reply.endswith("```") and "\n" in reply:
        return reply.partition("\n")[2].removesuffix("```")
    return reply


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
