"""Components of rewards as pieces of code, and the program that a list of them makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.intrinsic.design.sandbox_worker import MEMORY_ENTRIES

MOST_COMPONENTS = 12
"""Of a program."""
COLOURS = 6
"""Of MiniGrid's objects."""


@dataclass(frozen=True)
class ProgramComponent:
    """A component of a reward: code, and how often it is rewarded.

    The code of an event sets `now` [N] bool, which is paid `times` times in an episode, or so many
    times for each colour of the object that it is about. That of another component sets `value`
    [N]. It may read `obs`, `next_obs`, `action` and `none`, zeros [N] int64, and keep memory under
    its own name.

    Args:
        name: what it pays, an identifier.
        lines: of its code.
        is_event: whether it is an event.
        low, high: range of `value`; 0 and 1 for an event.
        weight: factor, above 0.
        times: that an event is paid in an episode.
        after: name of an event that must have been paid before in the episode; "" for none.
        entries: of the program's memory that its code has.
        colour: expression of the colour [N] of an event's object; "" where it has none.
        each: whether an event is paid `times` times for each colour.
        is_discovery: whether it pays what the episode has not had yet, such as a new cell.
    """

    name: str
    lines: tuple[str, ...]
    is_event: bool = True
    low: float = 0.0
    high: float = 1.0
    weight: float = 0.1
    times: int = 1
    after: str = ""
    entries: int = 1
    colour: str = ""
    each: bool = False
    is_discovery: bool = False

    def code(self) -> list[str]:
        """Return its part of the function's body, which fills ``rewards[name]``."""
        gate = f'memory.get("{self.after}", none).reshape(len(action), -1).any(1)'
        lines = [f"# {self.name}", *self.lines]
        if not self.is_event:
            lines += [f"value = np.where({gate}, value, 0.0)"] if self.after else []
            return [*lines, f'rewards["{self.name}"] = {self.weight!r} * value']
        lines += [f"now = now & {gate}"] if self.after else []
        if self.each:
            return [
                *lines,
                f"now = now[:, None] & ({self.colour}[:, None] == np.arange({COLOURS}))",
                f'paid = memory.get("{self.name}", np.zeros(now.shape, np.int64))',
                f"now = now & (paid < {self.times})",
                f'memory["{self.name}"] = paid + now',
                f'rewards["{self.name}"] = {self.weight!r} * now.any(1)',
            ]
        return [
            *lines,
            f'paid = memory.get("{self.name}", none)',
            f"now = now & (paid < {self.times})",
            f'memory["{self.name}"] = paid + now',
            f'rewards["{self.name}"] = {self.weight!r} * now',
        ]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProgramComponent:
        """Read what `to_json` returned."""
        return cls(**{**value, "lines": tuple(value["lines"])})


def tidy(components: Sequence[ProgramComponent]) -> list[ProgramComponent]:
    """Drop repeated names, what exceeds a program's size, and conditions that cannot hold.

    A program has at most `MOST_COMPONENTS`, and the entries that its memory may have. A condition
    names an event that stands before.
    """
    found: dict[str, ProgramComponent] = {}
    for component in components:
        entries = component.entries + sum(other.entries for other in found.values())
        is_full = len(found) == MOST_COMPONENTS or entries > MEMORY_ENTRIES
        if component.name in found or is_full:
            continue
        before = found.get(component.after)
        if component.after and (before is None or not before.is_event):
            component = dataclasses.replace(component, after="")
        found[component.name] = component
    return list(found.values())


def write_program(components: Sequence[ProgramComponent]) -> str:
    """Write the source of the program with these components."""
    ranges = [f'    "{c.name}": ({c.weight * c.low!r}, {c.weight * c.high!r}),' for c in components]
    body = [f"    {line}" for c in components for line in ("", *c.code())]
    return "\n".join(
        [
            *("import numpy as np", "", "RANGES = {", *ranges, "}", "", ""),
            "def reward(obs, action, next_obs, info, memory):",
            "    none = np.zeros(len(action), np.int64)",
            "    rewards = {}",
            *(line.rstrip() for line in body),
            *("", "    return rewards", ""),
        ]
    )
