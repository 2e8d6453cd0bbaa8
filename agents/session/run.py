"""What trains, as callbacks and commands see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from firstlight.agents.policy import Policy
from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer import Rewards

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Last:
    """What the iteration at hand collected, and how it was rated.

    Args:
        rollout: what happened.
        bonus: module name to [T, N] or [T, N, M] as it was computed, of modules that count now.
        rewards: as the learner got them.
    """

    rollout: Rollout
    bonus: Mapping[str, Tensor]
    rewards: Rewards


class Run(Protocol):
    """What trains: this file's `Trainer`, and every other schedule of the same parts.

    `last` is there for callbacks, and None where nothing was rated: while modules warm up, and
    where what was seen or paid was not finite. Who keeps it keeps the rollout in memory.
    """

    steps: int
    total_steps: int
    stopping: bool
    last: Last | None

    @property
    def policy(self) -> Policy:
        """The best policy so far, for evaluation."""
        ...

    def run(self, total_steps: int, callbacks: Iterable[Callback] = ()) -> None:
        """Train until `total_steps` environment steps have been taken since the run began."""
        ...

    def crossed(self, every: int) -> bool:
        """Whether the iteration at hand went past a multiple of `every` environment steps."""
        ...

    def save(self, *, return_mean: float | None = None) -> None:
        """Write a checkpoint; of the best policy, if its mean return is given."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state back."""
        ...


Callback = Callable[[Any, Metrics], "bool | None"]
"""Called with the run and its metrics after each iteration; may add metrics; True stops the run."""
