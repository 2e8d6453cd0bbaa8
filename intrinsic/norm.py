"""Scaling of rewards by running deviations."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Transform
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows
from firstlight.networks.normalisation import Moments, RunningMoments


class ReturnScale(GrowingBuffers, Transform):
    """Divides rewards by the standard deviation of their discounted sum (Burda et al. 2018, §2.4).

    ``R_t = gamma * R_{t-1} + r_t`` runs forward in time in each environment, across rollouts and
    episode ends. Rewards are divided by ``sqrt(Var(all R))``, including the current rollout, as
    published; no mean is subtracted and nothing is clipped. Rows that are not valid are skipped:
    they do not change R, are not counted, and give 0.

    Args:
        gamma: discount of the sum.

    Attributes:
        moments: of every R.
        returns: [E] float64, the last R of each environment by its id.
    """

    returns: Tensor

    def __init__(self, gamma: float = 0.99):
        super().__init__()
        self.gamma = gamma
        self.moments = RunningMoments()
        self.register_buffer("returns", torch.zeros(0, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Scale `raw` [T, N], including its own statistics; store nothing."""
        returns = self._filter(raw, rollout)
        return _divide(raw, rollout, self.moments.merged(returns[rollout.valid]))

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        returns = self._filter(raw, rollout)
        self.moments.update(returns[rollout.valid])
        self.returns = write_rows(self.returns, rollout.env_ids, returns[-1])

    def _filter(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """R after each step [T, N] float64."""
        assert raw.shape == rollout.valid.shape, f"{tuple(raw.shape)} is not [T, N]"
        reward = torch.where(rollout.valid, raw, 0.0).double()
        decay = torch.where(rollout.valid, torch.full_like(reward, self.gamma), 1.0)
        current, returns = read_rows(self.returns, rollout.env_ids), []
        for r, d in zip(reward, decay, strict=True):
            current = torch.addcmul(r, d, current)
            returns.append(current)
        return torch.stack(returns)


class RewardScale(Transform):
    """Divides rewards by the running standard deviation of the rewards (as E3B does).

    Includes the current rollout; no mean is subtracted. Rows that are not valid give 0.

    Attributes:
        moments: of every reward.
    """

    def __init__(self):
        super().__init__()
        self.moments = RunningMoments()

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Scale `raw` [T, N], including its own statistics; store nothing."""
        return _divide(raw, rollout, self.moments.merged(raw[rollout.valid]))

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        self.moments.update(raw[rollout.valid])


def _divide(raw: Tensor, rollout: Rollout, moments: Moments) -> Tensor:
    return torch.where(rollout.valid, raw / moments.var.sqrt().float(), 0.0)
