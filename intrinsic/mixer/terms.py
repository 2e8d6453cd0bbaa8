"""`Term`, the settings of one reward source, and the interfaces of the objects a term holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from firstlight.envs.types import Rollout

Schedule = Callable[[float], float]
"""Maps training progress in [0, 1] to a number."""


@runtime_checkable
class Reduce(Protocol):
    """Reduces the ratings of an ensemble to one rating. Pure, without state."""

    def __call__(self, members: Tensor, rollout: Rollout) -> Tensor:
        """Reduce `members` [T, N, M] to [T, N]; 0 on rows that are not valid."""
        ...


class Transform(nn.Module, ABC):
    """Rescales one source. Running statistics are buffers and are saved with the mixer.

    `forward` is pure: it may include the statistics of the current rollout, but stores nothing.
    """

    @abstractmethod
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N] to scaled [T, N]; store nothing."""

    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics, once per iteration. Default: nothing."""


class Budget(nn.Module, ABC):
    """Limits the contribution of one source. `forward` is pure, as in `Transform`.

    Attributes:
        relative: whether the limit depends on the other sources. Relative budgets are applied
            last and are compared with sources that have no relative budget, so the order of the
            terms does not matter and two large sources cannot justify each other.
    """

    relative: bool = False

    @abstractmethod
    def forward(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> Tensor:
        """Limit `scaled` [T, N]; store nothing.

        `rest` [] is the mean absolute contribution per valid row of all sources without a relative
        budget, divided by the weight of this source, so that it compares with ``scaled.abs()``;
        None unless `relative`. If the source is joined with others, `scaled` is their joint bonus,
        weights included, and `rest` is not divided.
        """

    def update(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None = None) -> None:
        """Store what `forward` counted for the same arguments. Default: nothing."""


@dataclass(frozen=True)
class Term:
    """Settings of one source ("reward" or the name of a module) in the reward mixer.

    Applied in this order: reduce ensemble members, transform, clip, apply budgets, and multiply by
    the weight when streams are formed. A source of weight 0 is absent: the state of its transform,
    its budgets and its module does not change.

    Args:
        weight: advantage weight of a separate stream, or factor within a shared stream.
        transform: rescaling, see `firstlight.intrinsic.mixer.transforms`.
        clip: symmetric bound on the transformed value.
        budget: limit on the contribution, or several; relative ones are applied last, see
            `firstlight.intrinsic.mixer.budgets`.
        reduce: of ensemble members, see `firstlight.intrinsic.mixer.reduces`; None is the mean.
        gamma: discount of this source's stream.
        episodic: False lets returns continue past the end of an episode (Burda et al. 2018, §2.3).
    """

    weight: float | Schedule = 1.0
    transform: Transform | None = None
    clip: float | None = None
    budget: Budget | Sequence[Budget] | None = None
    reduce: Reduce | None = None
    gamma: float = 0.99
    episodic: bool = True

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """All budgets in the order in which they apply."""
        if self.budget is None:
            return ()
        given = tuple(self.budget) if isinstance(self.budget, Sequence) else (self.budget,)
        return tuple(sorted(given, key=lambda budget: budget.relative))

    def weight_at(self, progress: float) -> float:
        """Weight at this training progress in [0, 1]."""
        return self.weight(progress) if callable(self.weight) else self.weight
