"""Choose between exploring and exploiting, chunk by chunk."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

Mode = Literal["explore", "exploit"]
SchedulerKind = Literal["alternating", "fixed", "time", "ucb"]
_ARMS: tuple[Mode, Mode] = ("explore", "exploit")


class ChunkScheduler:
    """Decides what the next chunk of evaluations is spent on (SERENE and STAX).

    The first chunk explores, and so does every chunk while there is nothing to exploit.

    Args:
        kind: "alternating"; "fixed", each with probability 1/2; "time", exploring with the share
            of the budget that is left as its probability; "ucb", the arm with the largest mean
            reward plus ``c sqrt(ln t / n)``, where the reward is tanh of the change in the number
            of emitters, negative for exploring.
        budget: evaluations of the run, for "time".
        c: width of the confidence bound, for "ucb".

    Attributes:
        last: the last choice, None before the first.

    Raises:
        ValueError: for another kind.
    """

    def __init__(self, kind: SchedulerKind, *, budget: int, c: float = 1.0):
        if kind not in get_args(SchedulerKind):
            choices = ", ".join(get_args(SchedulerKind))
            raise ValueError(f"scheduler is {kind!r}, expected one of {choices}")
        self.kind, self.budget, self.c = kind, budget, c
        self.last: Mode | None = None
        self.pulls, self.value = np.zeros(2, np.int64), np.zeros(2)

    def choose(self, random: np.random.Generator, evaluated: int, can_exploit: bool) -> Mode:
        """Choose for the next chunk.

        Args:
            random: generator.
            evaluated: evaluations so far.
            can_exploit: whether there is an emitter.
        """
        if self.last is None or not can_exploit:
            self.last = "explore"
        elif self.kind == "alternating":
            self.last = "exploit" if self.last == "explore" else "explore"
        elif self.kind == "ucb":
            self.last = _ARMS[int(np.argmax(self._bounds()))]
        else:
            left = max(0.0, 1 - evaluated / self.budget)
            share = 0.5 if self.kind == "fixed" else left
            self.last = "explore" if random.random() < share else "exploit"
        return self.last

    def update(self, mode: Mode, more_emitters: int) -> None:
        """Learn from a chunk that changed the number of emitters by `more_emitters`."""
        arm = _ARMS.index(mode)
        reward = math.tanh(more_emitters) * (-1 if mode == "explore" else 1)
        self.pulls[arm] += 1
        self.value[arm] += (reward - self.value[arm]) / self.pulls[arm]

    def _bounds(self) -> list[float]:
        total = math.log(max(int(self.pulls.sum()), 1))
        pairs = zip(self.value.tolist(), self.pulls.tolist(), strict=True)
        return [q + self.c * math.sqrt(total / n) if n else math.inf for q, n in pairs]

    def state_dict(self) -> dict[str, Any]:
        """Return the last choice and what was learnt."""
        return {"last": self.last, "pulls": self.pulls.copy(), "value": self.value.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.last, self.pulls, self.value = state["last"], state["pulls"], state["value"]
