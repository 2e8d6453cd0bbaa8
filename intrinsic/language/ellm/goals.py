"""Goals of captions, by rules or by a language model, and the table that keeps them."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.intrinsic.language.chat import ChatJudge
from firstlight.intrinsic.language.judges.judge import digest
from firstlight.intrinsic.language.prompts import (
    Message,
    as_messages,
    goal_sentence,
    read_answer,
    read_prompts,
    show,
)

Goals = tuple[str, ...]
"""Sentences that an event is compared with; none is a known answer as well."""

ANSWER_TOKENS = 40
"""Tokens of the goals of one caption, roughly."""
MOST_GOALS, LONGEST_GOAL, LONGEST_CAPTION = 10, 300, 1000
"""Goals of a caption that are read, characters of a goal, and of a caption that are shown."""

_STATE = re.compile(
    r"You see: (?P<seen>.*)\. You carry (?P<held>.*?)\. Task: (?P<task>.*)\.", re.DOTALL
)
_THING = re.compile(r"(?:a|an|the) (?:(open|closed|locked) )?((?:\w+ )?(key|ball|box|door|goal))$")


def minigrid_goals(caption: str) -> Goals:
    """Propose goals for a caption of MiniGrid (`StateCaptions`) by rules.

    To pick up the object that the task names, and keys while nothing is carried; to unlock a door
    whose key is carried; to open closed doors; to reach the goal.

    >>> minigrid_goals("You see: a locked red door. You carry a red key. Task: get to the goal.")
    ('unlocked the red door',)
    """
    state = _STATE.match(caption)
    if state is None:
        return ()
    held = state["held"].partition(" ")[2]
    goals = []
    for match in filter(None, (_THING.match(part) for part in state["seen"].split(", "))):
        how, name, kind = match.groups()
        if kind == "goal":
            goals.append("reached the goal")
        elif kind == "door":
            if how == "closed":
                goals.append(f"opened the {name}")
            elif how == "locked" and held == name.replace("door", "key"):
                goals.append(f"unlocked the {name}")
        elif name in state["task"] or (kind == "key" and not held):
            goals.append(f"picked up the {name}")
    return tuple(goals)


@dataclass(frozen=True)
class GoalPrompt:
    """The prompt that asks a language model for goals.

    Args:
        system: the system message, with the player's goal, the form of goals and examples.
    """

    system: str

    @property
    def digest(self) -> str:
        """Hash of everything that decides the answers."""
        return digest("goals", self.system)

    @classmethod
    def load(cls, family: str = "generic", goal: str = "default") -> GoalPrompt:
        """Read the prompt of an environment family, as `Prompt.load`; ValueError as there."""
        own, common = read_prompts(family)
        scheme = common["proposal"] | own.get("proposal", {})
        examples = [
            f"{show(x['text'])} -> {show(list(x['goals']))}" for x in scheme.get("examples", [])
        ]
        parts = [common["role"], own["world"], goal_sentence(own, goal), scheme["task"]]
        parts += [scheme["reports"], *(["Examples:", *examples] if examples else [])]
        return cls("\n\n".join(part.strip() for part in [*parts, scheme["form"]] if part))

    def messages(self, captions: Mapping[str, str]) -> list[Message]:
        """Build the messages of a request; `captions` maps ids of questions to captions."""
        rows = [{"id": i, "text": caption[:LONGEST_CAPTION]} for i, caption in captions.items()]
        return as_messages(self.system, rows, "Suggest goals for each id of the data.")

    def schema(self, ids: Sequence[str]) -> dict[str, Any]:
        """JSON schema of an answer, for servers that can enforce one."""
        goals = {"type": "array", "items": {"type": "string"}}
        return {
            "type": "object",
            "properties": {i: goals for i in ids},
            "required": [*ids],
            "additionalProperties": False,
        }

    def parse(self, reply: str, ids: Sequence[str]) -> dict[str, Goals]:
        """Read an answer strictly: one JSON object from ids to lists of sentences.

        An id whose value is anything else is left out. Goals beyond `MOST_GOALS`, and sentences of
        more than `LONGEST_GOAL` characters, are dropped.
        """
        found = {}
        for i, goals in read_answer(reply, ids).items():
            if isinstance(goals, list) and all(isinstance(goal, str) for goal in goals):
                kept = [goal.strip() for goal in goals if 0 < len(goal.strip()) <= LONGEST_GOAL]
                found[i] = tuple(dict.fromkeys(kept))[:MOST_GOALS]
        return found


class GoalStore:
    """Goals by caption, in a table of the label store's file; several processes may use it.

    Args:
        path: of the file, made if missing; None keeps the goals in memory.
    """

    def __init__(self, path: Path | str | None = None):
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            ":memory:" if path is None else path, timeout=30.0, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS goals (caption TEXT NOT NULL, model TEXT NOT NULL, "
                "prompt TEXT NOT NULL, goals TEXT NOT NULL, time REAL NOT NULL, "
                "PRIMARY KEY (caption, model, prompt))"
            )

    def find(self, captions: Iterable[str], model: str, prompt: str) -> dict[str, Goals]:
        """Return the goals of those captions that have an answer of this model and prompt."""
        query = "SELECT goals FROM goals WHERE caption = ? AND model = ? AND prompt = ?"
        found: dict[str, Goals] = {}
        with self._lock:
            for caption in captions:
                row = self._database.execute(query, (caption, model, prompt)).fetchone()
                if row is not None:
                    found[caption] = tuple(json.loads(row[0]))
        return found

    def put(self, goals: Mapping[str, Goals], model: str, prompt: str) -> None:
        """Write the goals of captions; what is there is replaced."""
        rows = [
            (caption, model, prompt, json.dumps(each, ensure_ascii=False), time.time())
            for caption, each in goals.items()
        ]
        with self._lock, self._database:
            self._database.executemany("INSERT OR REPLACE INTO goals VALUES (?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


class GoalJudge(ChatJudge):
    """Asks a language model for the goals of captions, and writes them into a `GoalStore`.

    To the annotation service it is a judge that gives each caption 1, or abstains where there was
    no readable answer after one more try: then there are no goals.

    Args:
        store: where goals are written.
        prompt: asks for goals.
        max_tokens: tokens of an answer for each caption.
        model, url, timeout_seconds, cpu_share: see `ChatJudge`.
    """

    def __init__(
        self,
        store: GoalStore,
        prompt: GoalPrompt,
        *,
        model: str | None,
        url: str | None = None,
        temperature: float = 0.1,
        max_tokens: int = 100,
        timeout_seconds: float | None = None,
        cpu_share: float = 1.0,
    ):
        super().__init__(
            model=model,
            url=url,
            temperature=temperature,
            timeout_seconds=timeout_seconds,
            cpu_share=cpu_share,
        )
        self.goals, self.max_tokens, self._prompt = store, max_tokens, prompt
        self.prompt = digest(prompt.digest, str(temperature))

    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Ask for the goals of captions: 1 where they are in the store now, else None."""
        found: dict[str, Goals] = {}
        for attempt in range(2):
            left = {secrets.token_hex(3): text for text in texts if text not in found}
            if not left:
                break
            if attempt:
                self.permit()
            reply = self.send(
                self._prompt.messages(left),
                schema=self._prompt.schema([*left]),
                max_tokens=16 + self.max_tokens * len(left),
            )
            found |= {
                left[i]: goals for i, goals in self._prompt.parse(reply.text, [*left]).items()
            }
        self.goals.put(found, self.model, self.prompt)
        return [1.0 if text in found else None for text in texts]
