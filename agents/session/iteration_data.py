"""What one iteration of training produced, as callbacks see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer import Rewards

Metrics = dict[str, float]
"""Tag to scalar."""


@dataclass(frozen=True, slots=True)
class IterationData:
    """The rollout of an iteration and its rewards.

    Args:
        rollout: what was collected.
        bonus: module name to [T, N] or [T, N, M] as computed, of modules whose weight is not 0.
        rewards: as the learner got them.
        progress: of training when the rewards were mixed, in [0, 1].
    """

    rollout: Rollout
    bonus: Mapping[str, Tensor]
    rewards: Rewards
    progress: float
