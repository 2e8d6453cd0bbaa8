"""What the reward layer says about one source, and the small protocols it is built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from firstlight.envs.types import Rollout

Schedule = Callable[[float], float]
"""Maps training progress in [0, 1] to a number."""


@runtime_checkable
class Reduce(Protocol):
    """Makes one rating out of those of an ensemble. Pure, and without a state."""

    def __call__(self, members: Tensor, rollout: Rollout) -> Tensor:
        """`members` [T, N, M] to [T, N]; 0 on rows that are not valid."""
        ...


@runtime_checkable
class Transform(Protocol):
    """Rescales one source. An `nn.Module` whose buffers hold its running statistics.

    `forward` is pure: it may count the statistics of the rollout at hand in, but stores nothing.
    `update` stores them, once per iteration.
    """

    def __call__(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """`raw` [T, N] to scaled [T, N]."""
        ...

    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N] into the running statistics."""
        ...


@runtime_checkable
class Budget(Protocol):
    """Caps what one source may contribute. Same purity rule as `Transform`.

    Attributes:
        relative: whether it looks at the other sources. Those that do come last, when the others
            are settled, and none of them counts another: so their order does not matter, and two
            loud sources cannot excuse each other.
    """

    relative: bool

    def __call__(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None) -> Tensor:
        """`scaled` [T, N] to budgeted [T, N].

        `rest` [] is the mean absolute contribution per valid row of all sources without a relative
        budget, over the weight of this one, so that it compares with ``scaled.abs()``; None
        unless `relative`. Of a source that is joined with others, `scaled` is their bonus with
        weights included, and `rest` as it is.
        """
        ...

    def update(self, scaled: Tensor, rollout: Rollout, rest: Tensor | None) -> None:
        """Store what the call with the same arguments counted."""
        ...


@dataclass(frozen=True)
class Term:
    """How one source ("reward" or a module's name) enters the reward layer.

    In order: ensemble members are reduced, the result is transformed, clipped, budgeted, and
    weighted where streams are formed. A source of weight 0 is absent: what its transform, its
    budget and its module remember stays as it was.

    Args:
        weight: advantage weight of a stream of its own, or factor inside a shared stream.
        transform: rescaling, see `firstlight.intrinsic.mixer.transforms`.
        clip: bound on the transformed value, symmetric.
        budget: cap on the contribution, or several, of which those that are not relative come
            first; see `firstlight.intrinsic.mixer.budgets`.
        reduce: of ensemble members, see `firstlight.intrinsic.mixer.reduces`; None is the mean.
        gamma: discount of the stream that this source opens.
        episodic: False lets the stream look past the end of an episode (Burda et al. 2018, §2.3).
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
        """All of them, in the order in which they apply."""
        if self.budget is None:
            return ()
        given = tuple(self.budget) if isinstance(self.budget, Sequence) else (self.budget,)
        return tuple(sorted(given, key=lambda budget: budget.relative))

    def weight_at(self, progress: float) -> float:
        """The weight at this training progress in [0, 1]."""
        return self.weight(progress) if callable(self.weight) else self.weight
