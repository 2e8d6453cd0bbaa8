"""Running mean and variance of observations, and scaling of rewards by running deviations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Transform
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance; float64."""

    count: Tensor
    mean: Tensor
    var: Tensor


class RunningMoments(nn.Module):
    """Running mean and variance per element, merged batch by batch.

    Parallel merge of Chan et al. 1979, in float64. Starts as if `prior` observations of mean 0 and
    variance 1 had been seen, as in the code of Burda et al. 2018, so the variance is never 0.

    Args:
        shape: of one observation.
        prior: count of the initial mean and variance.

    Attributes:
        count: [] float64.
        mean: [*shape] float64.
        var: [*shape] float64.

    >>> moments = RunningMoments()
    >>> moments.update(torch.tensor([1.0, 3.0]))
    >>> round(float(moments.mean), 3), round(float(moments.var), 3)
    (2.0, 1.0)
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, shape: Sequence[int] = (), *, prior: float = 1e-4):
        super().__init__()
        self.register_buffer("count", torch.tensor(prior, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(tuple(shape), dtype=torch.float64))
        self.register_buffer("var", torch.ones(tuple(shape), dtype=torch.float64))

    @torch.no_grad()
    def merged(self, x: Tensor) -> Moments:
        """Compute the moments including `x` [*, *shape] of any dtype; store nothing."""
        count, mean, var = self.count, self.mean.flatten(), self.var.flatten()
        rows = max(1, 2**21 // mean.numel())  # 16 MB of float64 at a time
        for part in x.reshape(-1, mean.numel()).split(rows):
            if len(part) == 0:
                break
            part = part.double()
            average = part.new_full((len(part),), 1 / len(part))  # faster than `mean(0)`
            part_mean = average @ part
            part_var = average @ (part - part_mean).square_()
            total, delta = count + len(part), part_mean - mean
            spread = delta.square() * (count * len(part) / total)
            var = (var * count + part_var * len(part) + spread) / total
            mean, count = mean + delta * (len(part) / total), total
        return Moments(count, mean.view_as(self.mean), var.view_as(self.var))

    def update(self, x: Tensor) -> None:
        """Add observations `x` [*, *shape] of any dtype."""
        moments = self.merged(x)
        self.count, self.mean, self.var = moments.count, moments.mean, moments.var

    def normalize(self, x: Tensor, clip: float) -> Tensor:
        """Normalise `x` [*, *shape] of any dtype to float32 of unit variance, within ±`clip`."""
        x = x.float() - self.mean.float()
        return x.div_(self.var.sqrt().float()).clamp_(-clip, clip)


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
