"""Scaling of rewards by running deviations."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Transform
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows
from firstlight.networks import collective
from firstlight.networks.normalisation import Moments, RunningMoments


def filter_returns(raw: Tensor, rollout: Rollout, last: Tensor, gamma: float) -> Tensor:
    """Compute ``R_t = gamma * R_{t-1} + r_t``, forward in time in each environment.

    Args:
        raw: [T, N] rewards.
        rollout: whose valid rows count; others leave R as it is.
        last: [E] float64, R before the rollout by id of the environment.
        gamma: discount.

    Returns:
        R after each step, [T, N] float64.
    """
    assert raw.shape == rollout.valid.shape, f"{tuple(raw.shape)} is not [T, N]"
    reward = torch.where(rollout.valid, raw, 0.0).double()
    decay = torch.where(rollout.valid, torch.full_like(reward, gamma), 1.0)
    current, returns = read_rows(last, rollout.env_ids), []
    for r, d in zip(reward, decay, strict=True):
        current = torch.addcmul(r, d, current)
        returns.append(current)
    return torch.stack(returns)


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
        returns = filter_returns(raw, rollout, self.returns, self.gamma)
        return _divide(raw, rollout, self.moments.merged(returns[rollout.valid]))

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        returns = filter_returns(raw, rollout, self.returns, self.gamma)
        self.moments.update(returns[rollout.valid])
        self.returns = write_rows(self.returns, rollout.env_ids, returns[-1])


class RecentScale(GrowingBuffers, Transform):
    """Divides rewards by the root mean square of their *recent* discounted sums.

    So discounted sums are about 1 in size, and a bonus of weight 0.1 is worth a tenth of a reward
    of 1: an agent that ends its episode with that reward loses less than it gains, also where the
    bonus is nearly the same everywhere. (A division by the deviation, as in `ReturnScale`, makes
    such a bonus large.)

    The sums are those of the last `memory` steps, in whole rollouts, of all environments together:
    where a bonus has shrunk, it has its full size again once `memory` steps have been made, and
    those in which the discounted sums forget, a few times 1 / (1 - gamma) in each environment.
    (`ReturnScale` remembers the first rollouts for ever, so a prediction error that falls to a
    thousandth stays there.) It is not scaled up without bound: the divisor is at least the largest
    one so far divided by `max_gain`.

    Args:
        memory: number of steps; at least those of the current rollout are used.
        gamma: discount of the sum.
        max_gain: largest factor by which a bonus that has shrunk is scaled up again.

    Attributes:
        count: [R] float64, valid steps of each remembered rollout, oldest first.
        mean: [R] float64, mean of their discounted sums.
        var: [R] float64, variance of their discounted sums.
        largest: [] float64, largest divisor so far.
        returns: [E] float64, the last discounted sum of each environment by its id.
    """

    count: Tensor
    mean: Tensor
    var: Tensor
    largest: Tensor
    returns: Tensor

    def __init__(self, memory: int = 50_000, *, gamma: float = 0.99, max_gain: float = 1000.0):
        super().__init__()
        self.memory, self.gamma, self.max_gain = memory, gamma, max_gain
        for name in ("count", "mean", "var", "returns"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        self.register_buffer("largest", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Scale `raw` [T, N], including its own statistics; store nothing."""
        returns = filter_returns(raw, rollout, self.returns, self.gamma)
        divisor = self._divisor(self._extended(returns[rollout.valid]))
        return torch.where(rollout.valid, raw / divisor.float(), 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        returns = filter_returns(raw, rollout, self.returns, self.gamma)
        moments = self._extended(returns[rollout.valid])
        self.largest = torch.maximum(self.largest, self._divisor(moments))
        self.count, self.mean, self.var = moments
        self.returns = write_rows(self.returns, rollout.env_ids, returns[-1])

    def _extended(self, returns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and variance of remembered rollouts and of a new one, `returns` [B]."""
        if (number := collective.total(len(returns))) == 0:
            return self.count, self.mean, self.var
        new = (returns.new_tensor(number), *collective.mean_and_var(returns))
        old = (self.count, self.mean, self.var)
        count, mean, var = (torch.cat([a, b[None]]) for a, b in zip(old, new, strict=True))
        newer = count.flip(0).cumsum(0).flip(0) - count  # steps after each rollout
        kept = newer < self.memory
        return count[kept], mean[kept], var[kept]

    def _divisor(self, moments: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Divisor [] by the moments of rollouts."""
        count, means, variances = moments
        share = count / count.sum().clamp(min=1)
        root_mean_square = (share * (variances + means.square())).sum().sqrt()
        divisor = torch.maximum(root_mean_square, self.largest / self.max_gain)
        return torch.where(divisor > 0, divisor, 1.0)  # of a bonus that was always 0


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
