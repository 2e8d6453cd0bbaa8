"""Who compares the agents of a round for ICPL: the task's return, or a person."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from firstlight.intrinsic.design.designers.base import ProgramResult


class Preference(ABC):
    """Chooses the best and the worst of several trained programs."""

    @abstractmethod
    def choose(self, results: Sequence[ProgramResult]) -> tuple[int, int]:
        """Return the places of the best and of the worst among at least two results."""


class TaskReturn(Preference):
    """Stands for a person who knows the task: compares by `ProgramResult.rank`."""

    def choose(self, results: Sequence[ProgramResult]) -> tuple[int, int]:
        """Return the places of the highest and the lowest task return; the first of equal ones."""
        places = range(len(results))
        best = max(places, key=lambda i: results[i].rank)
        return best, min((i for i in places if i != best), key=lambda i: results[i].rank)


class AskedPerson(Preference):
    """Asks a person at the terminal.

    Args:
        ask: shows a text and returns the answer.
        describe: tells the person where to look at a result; default its hash and episodes.
    """

    def __init__(
        self,
        ask: Callable[[str], str] = input,
        describe: Callable[[ProgramResult], str] | None = None,
    ):
        self.ask, self.describe = ask, describe or _describe_result

    def choose(self, results: Sequence[ProgramResult]) -> tuple[int, int]:
        """Ask for two numbers until there are two different ones."""
        lines = [f"{i + 1}: {self.describe(result)}" for i, result in enumerate(results)]
        text = "\n".join([*lines, f"numbers of the best and of the worst, 1 to {len(results)}: "])
        while True:
            numbers = [int(word) - 1 for word in re.findall(r"\d+", self.ask(text))]
            if len(set(numbers)) == len(numbers) == 2 and set(numbers) <= set(range(len(results))):
                return numbers[0], numbers[1]
            text = f"expected two different numbers from 1 to {len(results)}, such as 2 1: "


def _describe_result(result: ProgramResult) -> str:
    return f"program {result.proposal.hash}, trained for {result.steps:,} steps"
