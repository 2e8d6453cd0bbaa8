"""The terms of PPO's loss: pure functions of minibatch tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(logratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Compute PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated, as a mean.

    Args:
        logratio: [B] new minus old log-probability.
        advantage: [B].
        clip_range: epsilon.
    """
    ratio = logratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min(ratio * advantage, clipped * advantage).mean()


def value_loss(
    value: Tensor, target: Tensor, old: Tensor, live: Tensor, clip_range: float | None
) -> Tensor:
    """Compute half the squared error, summed over streams that learn, as a mean over rows.

    Args:
        value: [B, K].
        target: [B, K].
        old: [B, K] as predicted during collection.
        live: [K] 1 for streams that learn, 0 for those of weight 0.
        clip_range: clipping range of value updates; None disables it.
    """
    error = (value - target).square()
    if clip_range is not None:
        clipped = old + (value - old).clamp(-clip_range, clip_range)
        error = torch.max(error, (clipped - target).square())
    return 0.5 * (error.mean(0) * live).sum()


def approx_kl(logratio: Tensor) -> Tensor:
    """Estimate KL(old || new) from samples [B] with low variance (k3 of Schulman's note)."""
    return (logratio.exp() - 1 - logratio).mean()


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - Var(target - value) / Var(target), [B, K] to [K]; nan where Var(target) is 0."""
    variance = target.var(0)
    return torch.where(variance > 0, 1 - (target - value).var(0) / variance, torch.nan)
