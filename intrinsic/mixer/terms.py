"""What the reward layer says about one source, and the small protocols it is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from firstlight.envs.types import Rollout

Schedule = Callable[[float], float]
"""Maps training progress in [0, 1] to a number."""


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
    """Caps what one source may contribute. Same purity rule as `Transform`."""

    def __call__(self, scaled: Tensor, rollout: Rollout) -> Tensor:
        """`scaled` [T, N] to budgeted [T, N]."""
        ...

    def update(self, scaled: Tensor, rollout: Rollout) -> None:
        """Count `scaled` [T, N] as spent."""
        ...


@dataclass(frozen=True)
class Term:
    """How one source ("reward" or a module's name) enters the reward layer.

    In order: ensemble members are reduced, the result is transformed, clipped, budgeted, and
    weighted where streams are formed.

    Args:
        weight: advantage weight of a stream of its own, or factor inside a shared stream.
        transform: rescaling with running statistics.
        clip: bound on the transformed value, symmetric.
        budget: cap on the contribution.
        reduce_beta: soft minimum over ensemble members, ``-log(mean(exp(-beta x))) / beta``;
            None takes the mean.
        gamma: discount of the stream that this source opens.
        episodic: False lets the stream look past the end of an episode (Burda et al. 2018, §2.3).
    """

    weight: float | Schedule = 1.0
    transform: Transform | None = None
    clip: float | None = None
    budget: Budget | None = None
    reduce_beta: float | None = None
    gamma: float = 0.99
    episodic: bool = True

    def weight_at(self, progress: float) -> float:
        """The weight at this training progress in [0, 1]."""
        return self.weight(progress) if callable(self.weight) else self.weight
