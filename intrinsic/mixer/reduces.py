"""Reductions of an ensemble's ratings to one rating: mean, worst case, or in between.

At level "sample" each row is reduced by itself. At level "batch" the members' *mean* ratings over
the rollout are reduced, and every row gets the average of the members, weighted with the derivative
of the reduced mean: the policy gradient is then that of the reduced mean.

Pessimism helps against errors that the members do *not* share, because it avoids what they disagree
on. Against independent noise in every rating it is harmful: the minimum of many noisy numbers is
noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Reduce
from firstlight.networks import collective

Level = Literal["sample", "batch"]


@dataclass(frozen=True, kw_only=True)
class SoftMin:
    """``-log(mean_m exp(-beta r_m)) / beta``: the mean at beta 0, the worst case at infinity.

    Coste et al. 2023 (arXiv 2310.02743) optimise the worst case; the soft form is that of arXiv
    2606.09073 with beta in place of its 1/beta. To second order it is ``mean - beta/2 * var``.

    Args:
        beta: from 0 to infinity.
        level: "sample" or "batch".

    >>> from firstlight.envs import Chain, RandomActor, Runner
    >>> rollout = Runner(Chain(1)).collect(RandomActor(Chain().act_space), 1)
    >>> members = torch.tensor([[[1.0, 2.0, 6.0]]])  # [T, N, M]
    >>> [SoftMin(beta=beta)(members, rollout).item() for beta in (0.0, float("inf"))]
    [3.0, 1.0]
    """

    beta: float = math.inf
    level: Level = "sample"

    def __post_init__(self) -> None:
        _check_level(self.level)
        if not self.beta >= 0:
            raise ValueError(f"beta is {self.beta}, expected 0 (mean) to inf (worst case)")

    def __call__(self, members: Tensor, rollout: Rollout) -> Tensor:
        """Reduce `members` [T, N, M] to [T, N]."""
        if self.level == "batch":
            means = _means(members, rollout)
            if self.beta == math.inf:
                return _weighted(members, rollout, torch.eye(len(means)).to(means)[means.argmin()])
            return _weighted(members, rollout, torch.softmax(-self.beta * means, 0))
        low = members.min(-1).values
        if self.beta == 0:
            reduced = members.mean(-1)
        elif self.beta == math.inf:
            reduced = low
        else:  # from the lowest member up, so that no exponential overflows
            rise = torch.expm1(-self.beta * (members - low[..., None])).mean(-1)
            reduced = low - torch.log1p(rise) / self.beta
        return torch.where(rollout.valid, reduced, 0.0)


@dataclass(frozen=True, kw_only=True)
class Pessimism:
    """``mean - coef * spread``: disagreement between the members lowers the rating.

    Coste et al. 2023 (arXiv 2310.02743, uncertainty-weighted optimisation) use the variance, with
    0.5 for best-of-n and 0.1 for PPO. The standard deviation, our default, has the unit of the
    rating, so scaling the members scales the result.

    Args:
        coef: at least 0.
        spread: "std" or "var", over the members, without Bessel's correction.
        level: "sample" or "batch".
    """

    coef: float = 1.0
    spread: Literal["std", "var"] = "std"
    level: Level = "sample"

    def __post_init__(self) -> None:
        _check_level(self.level)
        if self.spread not in ("std", "var"):
            raise ValueError(f"spread is {self.spread!r}, expected 'std' or 'var'")

    def __call__(self, members: Tensor, rollout: Rollout) -> Tensor:
        """Reduce `members` [T, N, M] to [T, N]."""
        if self.level == "sample":
            var = members.var(-1, correction=0)
            spread = var if self.spread == "var" else var.sqrt()
            return torch.where(rollout.valid, members.mean(-1) - self.coef * spread, 0.0)
        means = _means(members, rollout)
        away = means - means.mean()
        slope = 2 * away
        if self.spread == "std":
            std = away.square().mean().sqrt()
            apart = std > 1e-9 * means.abs().max()  # else it is rounding
            slope = torch.where(apart, away / std, 0.0)
        return _weighted(members, rollout, (1 - self.coef * slope) / len(means))


@dataclass(frozen=True, kw_only=True)
class Blend:
    """``alpha * nominal + (1 - alpha) * robust`` (BRME, arXiv 2409.15360).

    In the paper the nominal rating is that of the member with the smallest variance of its own. A
    module knows this member and a reduction does not: let the module put it first, and set
    `nominal` to 0.

    Args:
        alpha: weight of the nominal rating; the paper found 0.2 and 0.4 better than 0.
        nominal: index of the member, or None for the mean of all.
        robust: the other reduction; default the worst member by its mean over the rollout, as
            published.
    """

    alpha: float = 0.4
    nominal: int | None = None
    robust: Reduce = field(default_factory=lambda: SoftMin(level="batch"))

    def __call__(self, members: Tensor, rollout: Rollout) -> Tensor:
        """Reduce `members` [T, N, M] to [T, N]."""
        nominal = members.mean(-1) if self.nominal is None else members[..., self.nominal]
        robust = self.robust(members, rollout)
        return torch.where(rollout.valid, self.alpha * nominal + (1 - self.alpha) * robust, 0.0)


def _check_level(level: str) -> None:
    if level not in ("sample", "batch"):
        raise ValueError(f"level is {level!r}, expected 'sample' or 'batch'")


def _means(members: Tensor, rollout: Rollout) -> Tensor:
    """Mean of each member [T, N, M] over valid rows, of all processes: [M] float64."""
    total = torch.where(rollout.valid[..., None], members.double(), 0.0).sum((0, 1))
    return collective.sum(total) / collective.sum(rollout.valid.sum()).clamp(min=1)


def _weighted(members: Tensor, rollout: Rollout, weight: Tensor) -> Tensor:
    """Weighted sum [T, N] of the members [T, N, M] with `weight` [M]."""
    return torch.where(rollout.valid, members @ weight.to(members.dtype), 0.0)
