"""`Designer`, what proposes reward programs, and what it is shown of the search."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from firstlight.intrinsic.design.program import source_hash

REFUSED, SCREENED_OUT, FAILED, TRAINED = "refused", "screened out", "failed", "trained"
"""Verdicts: no reward program, rejected without training, training failed, training finished."""


@dataclass(frozen=True)
class DesignTask:
    """What rewards are designed for.

    Args:
        goal: what the agent is to achieve, a sentence.
        obs_space: observation fields of one environment.
        info_space: side channels.
        act_space: actions.
        samples: recorded values, "obs/NAME", "info/NAME" and "action" to arrays [M, ...].
        notes: what a person says about fields and actions; "" for nothing.
        max_steps: time limit of an episode, if it is known.
    """

    goal: str
    obs_space: spaces.Dict
    info_space: spaces.Dict
    act_space: spaces.Space
    samples: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    notes: str = ""
    max_steps: int | None = None


@dataclass(frozen=True)
class Proposal:
    """A reward program that is to be evaluated, or an answer that turns out to be none.

    Args:
        source: code, unchecked.
        how: it was made, such as "mutation".
        parent: hash of the program that it was made from.
        model: name of the language model that wrote it.
        prompt_hash: of what the model was asked.
    """

    source: str
    how: str
    parent: str | None = None
    model: str | None = None
    prompt_hash: str | None = None

    @property
    def hash(self) -> str:
        """Hash of the source, as `RewardProgram.hash`."""
        return source_hash(self.source)


@dataclass(frozen=True)
class ProgramResult:
    """What became of a proposal; JSON by `to_json`.

    Args:
        proposal: what was evaluated.
        round: of the search, from 0.
        verdict: `REFUSED`, `SCREENED_OUT`, `FAILED` or `TRAINED`.
        reason: why it was rejected, or the error of its training; "" after a training.
        score: mean of the environment's untouched return over episodes of the frozen policy after
            the training; None without one. A designer never sees another measure of success.
        training_return: mean of that return over the training, which tells apart policies that are
            equal at its end.
        success_rate: of those episodes, where the environment tells.
        steps: environment steps of the training.
        curves: values at about ten moments of the training, in order: means of each component by
            its name, and `RETURN` and `LENGTH` of the episodes.
        checks: numbers that probes and screening found.
        failures: descriptions of episodes that failed, for designers that read them.
    """

    proposal: Proposal
    round: int
    verdict: str
    reason: str = ""
    score: float | None = None
    training_return: float | None = None
    success_rate: float | None = None
    steps: int = 0
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    checks: Mapping[str, float] = field(default_factory=dict)
    failures: Sequence[str] = ()

    @property
    def rank(self) -> tuple[float, float]:
        """Rank of the program: the task's return at the end, then during training."""
        lowest = float("-inf")
        return (
            lowest if self.score is None else self.score,
            lowest if self.training_return is None else self.training_return,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object of all that is known."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProgramResult:
        """Read what `to_json` returned."""
        made = {"proposal": Proposal(**value["proposal"]), "failures": tuple(value["failures"])}
        return cls(**{**value, **made})


RETURN, LENGTH = "task return", "episode length"
"""Names of curves that are no components."""


@dataclass(frozen=True)
class SearchState:
    """What a designer is shown.

    Args:
        task: what rewards are designed for.
        round: number of the round that is to be proposed, from 0.
        results: of all proposals so far, in the order in which they were known.
        remark: what a person said about the last round; "" for nothing.
    """

    task: DesignTask
    round: int = 0
    results: Sequence[ProgramResult] = ()
    remark: str = ""


class Designer(ABC):
    """Proposes reward programs round by round, and learns from what became of them.

    The search calls `propose`, evaluates, and calls `observe` with the results in the order of the
    proposals, until a round has no proposals. What is saved in between is `state_dict`, so a
    designer that is made anew and loads it continues in the same way.

    Attributes:
        reads_failures: whether `ProgramResult.failures` is filled, for which episodes are played
            after each training.
    """

    reads_failures: bool = False

    @abstractmethod
    def propose(self, state: SearchState) -> list[Proposal]:
        """Return the proposals of a round; none ends the search.

        Raises:
            JudgeError: if a language model cannot be asked.
        """

    def observe(self, results: Sequence[ProgramResult]) -> None:  # noqa: B027
        """Learn from the results of the round; one of each proposal. Default: nothing."""

    def check_task(self, task: DesignTask) -> None:  # noqa: B027
        """Raise ValueError for a task that the designer cannot work with. Default: none."""

    def preview(self, state: SearchState) -> str:
        """Return what `propose` would send to others, for a dry run. Default: nothing."""
        return ""

    def metrics(self) -> dict[str, float]:
        """Return what was spent, by name. Default: nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what is learnt, as JSON. Default: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""

    def close(self) -> None:  # noqa: B027
        """End what the designer started, such as a client. Default: nothing."""


def best_of(results: Iterable[ProgramResult]) -> ProgramResult | None:
    """Return the trained program with the highest `ProgramResult.rank`; None if there is none.

    Of equal ones the first.
    """
    trained = [result for result in results if result.verdict == TRAINED]
    return max(trained, key=lambda result: result.rank, default=None)


def check_at_least(least: int, **values: int) -> None:
    """Raise ValueError for a value below `least`, by its name."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
