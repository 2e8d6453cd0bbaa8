"""`RuleJudge`, which rates texts of MiniGrid and NetHack by written rules."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence

from firstlight.intrinsic.language.judges.judge import Judge, digest

_EVENT = re.compile(r"(?P<event>.*?)(?: \(task: (?P<task>.*)\))?$", re.DOTALL)
_DID = re.compile(r"(picked up|dropped|opened|unlocked|closed) the (\w+ (\w+))$")
_OBJECT = re.compile(r"\w+ (?:key|ball|box|door)")

_HELPFUL = (  # in any of a message's sentences
    r"You (?:kill|destroy) (?!the little dog|the kitten|poor)",
    r"(?:^|\s)[a-zA-Z] - (?!.*\bcorpses?\b|.*chained to you)",
    r"\$ - ",
    r"Welcome to experience level",
    r"You (?:climb down|descend)",
    r"(?:^|  )The door opens|kick open|You unlock|succeed in unlocking",
    r"You find a hidden",
    r"You (?:hit|bite|strike) (?:the|it)\b",
)
_ROUTINE = (
    r"It's (?:a wall|solid stone)|You stop|blocks your path|You swap places|in the way",
    r"\[.*\]|\?$|You can't|Never mind|There (?:is|are|appears)|You see here|You have",
    r"[Mm]iss(?:es)?\b|bites?!|hits!|zapped|You are hit|is killed|is destroyed|You die|thin air",
    r"You hear|You feel|feels? better|You can (?:see|move)|picks up|drops|eats|bites the|You read",
    r"What a strange|Perhaps|won't come|empty space|delicious|closed|locked|They say|You miss",
    r"Ouch|You resume|You finish|hard time|trap|pit\b|haze|sleep|Continue|Blecch|Hello|welcome",
)
_HELPS = re.compile("|".join(f"(?:{pattern})" for pattern in _HELPFUL))
_ROUTINES = re.compile("|".join(f"(?:{pattern})" for pattern in _ROUTINE))


def rate_minigrid(text: str) -> float | None:
    """Rate an event of MiniGrid, with its task in brackets if it has one.

    Doors opened and unlocked, keys picked up, and the object that the task names first are helpful.
    """
    found = _EVENT.match(text)
    assert found is not None
    event, task = found["event"], found["task"] or ""
    if event == "reached the goal":
        return 1.0
    if event == "fell into the lava":
        return 0.0
    did = _DID.match(event)
    if did is None:
        return None
    verb, thing, kind = did.groups()
    named = _OBJECT.search(task)
    if verb in ("dropped", "closed"):
        return 0.0
    if verb in ("opened", "unlocked"):
        beside = task.startswith("go to the")
        return float(kind == "door" and (not beside or thing == (named and named[0])))
    if named is not None and named[0] == thing:
        return 1.0
    behind_doors = not task or re.match(r"use the key|pick up the|traverse", task) is not None
    return float(behind_doors and kind in ("key", "ball"))


def rate_nethack(text: str) -> float | None:
    """Rate a message of NetHack by what it reports; None for a message that no rule knows."""
    if _HELPS.search(text):
        return 1.0
    return 0.0 if _ROUTINES.search(text) else None


_RULES: dict[str, Callable[[str], float | None]] = {
    "minigrid": rate_minigrid,
    "nethack": rate_nethack,
}


class RuleJudge(Judge):
    """Rates texts by the rules of a family; quick, and the same every time.

    Args:
        family: "minigrid" or "nethack".

    Raises:
        ValueError: for a family without rules.

    >>> RuleJudge("minigrid").rate(["unlocked the red door", "sang a song", "dropped the red key"])
    [1.0, None, 0.0]
    """

    model = "rules"

    def __init__(self, family: str):
        if family not in _RULES:
            raise ValueError(
                f"there are no rules for {family!r}: expected one of {', '.join(_RULES)}"
            )
        self._rate = _RULES[family]
        self.prompt = digest(inspect.getsource(sys.modules[__name__]), family)

    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Rate texts; None where no rule fits."""
        return [self._rate(text) for text in texts]
