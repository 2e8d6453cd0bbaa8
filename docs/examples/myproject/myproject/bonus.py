"""A bonus for observations far from the usual one."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs import Rollout
from firstlight.intrinsic import IntrinsicModule, Term


class Distance(IntrinsicModule):
    """Distance of each next observation from the running mean of all before.

    Args:
        obs_space: of one environment.
        key: name of the field.
        rate: of the running mean.
    """

    novelty = False  # an observation may be rare and near the mean
    mean: Tensor

    def __init__(self, obs_space: spaces.Dict, *, key: str = "obs", rate: float = 0.1):
        super().__init__()
        self.key, self.rate = key, rate
        self.register_buffer("mean", torch.zeros(spaces.flatdim(obs_space[key])))

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N]; learns nothing."""
        return (self._field(rollout) - self.mean).norm(dim=-1) * rollout.valid

    @torch.no_grad()
    def update(self, rollout: Rollout) -> dict[str, float]:
        """Move the mean."""
        if rollout.valid.any():
            self.mean.lerp_(self._field(rollout)[rollout.valid].mean(0), self.rate)
        return {"mean_norm": self.mean.norm().item()}

    @classmethod
    def default_term(cls) -> Term:
        """Return the default weight."""
        return Term(weight=0.01)

    def _field(self, rollout: Rollout) -> Tensor:
        return rollout.next_obs()[self.key].flatten(2).float()  # [T, N, ...] -> [T, N, D]
