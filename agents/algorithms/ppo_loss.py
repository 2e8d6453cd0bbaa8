"""The loss of PPO: a plain form, and one for categorical actions on the CPU in a single pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from firstlight.agents.losses import approx_kl, clipped_policy_loss, value_loss

LOGS = ("policy_loss", "value_loss", "entropy", "loss", "approx_kl", "clipfrac")


@dataclass(frozen=True, slots=True)
class Rows:
    """Data of `R` valid rows, and the weights of the terms.

    Args:
        action: [R, *action].
        log_prob: [R] of the policy that acted.
        advantage: [R].
        target: [R, K], of the values, in units of their scale.
        old_value: [R, K] as predicted during collection, in units of their scale.
        live: [K] 1 for streams that learn, 0 for those of weight 0.
        clip_range: clipping range of the probability ratio.
        clip_range_vf: clipping range of value updates; None disables it.
        value_coef: weight of the value loss.
        entropy_coef: weight of the entropy bonus.
    """

    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    old_value: Tensor
    live: Tensor
    clip_range: float
    clip_range_vf: float | None
    value_coef: float
    entropy_coef: float


def plain_loss(
    log_prob: Tensor, entropy: Tensor, value: Tensor, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Compute the loss of rows and its logs.

    Args:
        log_prob: [R] of the actions.
        entropy: [R] of the action distributions.
        value: [R, K], in units of their scale.
        rows: the data.

    Returns:
        The scalar to minimise, and `LOGS` without gradients.
    """
    logratio = log_prob - rows.log_prob
    policy_loss = clipped_policy_loss(logratio, rows.advantage, rows.clip_range)
    v_loss = value_loss(value, rows.target, rows.old_value, rows.live, rows.clip_range_vf)
    mean_entropy = entropy.mean()
    loss = policy_loss + rows.value_coef * v_loss - rows.entropy_coef * mean_entropy
    with torch.no_grad():
        clipfrac = ((logratio.exp() - 1).abs() > rows.clip_range).float().mean()
        logs = [policy_loss, v_loss, mean_entropy, loss, approx_kl(logratio), clipfrac]
        return loss, torch.stack(logs)


def categorical_gradient(
    logits: Tensor, value: Tensor, rows: Rows
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `LOGS` of what `plain_loss` computes, and its gradient, in one pass on the CPU.

    Args:
        logits: [R, A] of categorical distributions.
        value: [R, K], in units of their scale.
        rows: the data.

    Returns:
        `LOGS`, and the gradients of the loss with respect to `logits` and `value`.
    """
    found = _categorical_loss(
        _array(logits),
        _array(value),
        _array(rows.action),
        _array(rows.log_prob),
        _array(rows.advantage),
        _array(rows.target),
        _array(rows.old_value),
        _array(rows.live),
        rows.clip_range,
        np.inf if rows.clip_range_vf is None else rows.clip_range_vf,
        rows.value_coef,
        rows.entropy_coef,
    )
    logs, by_logits, by_value = map(torch.from_numpy, found)
    return logs, by_logits, by_value


def categorical_loss(logits: Tensor, value: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Compute what `plain_loss` computes, for autograd, see `categorical_gradient`."""
    return _CategoricalLoss.apply(logits, value, rows)


class _CategoricalLoss(torch.autograd.Function):
    """The loss and its gradient with respect to logits [R, A] and values [R, K], in one pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        table, *gradients = categorical_gradient(logits, value, rows)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(table)
        return table[LOGS.index("loss")].clone(), table

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        logits, value = ctx.saved_tensors
        return grad * logits, grad * value, None


def _array(field: Tensor) -> np.ndarray:
    return field.detach().contiguous().numpy()


@numba.njit(cache=True, nogil=True)
def _categorical_loss(
    logits, value, action, old_log_prob, advantage, target, old_value, live,
    clip_range, clip_range_vf, value_coef, entropy_coef,
):  # fmt: skip
    """Return `LOGS` [6] float32, and the gradients of the loss [R, A] and [R, K] float32."""
    R, A = logits.shape
    K = value.shape[1]
    by_logits, by_value = np.empty((R, A), np.float32), np.empty((R, K), np.float32)
    log_p, p = np.empty(A, np.float32), np.empty(A, np.float32)
    one, each = np.float32(1.0), np.float32(1.0 / R)
    low, high = np.float32(1.0 - clip_range), np.float32(1.0 + clip_range)
    clip_vf, by_entropy = np.float32(clip_range_vf), np.float32(entropy_coef)
    by_error = np.float32(value_coef) * each
    none = np.float64(0.0)
    policy_loss, v_loss, entropies, kl, clipped = none, none, none, none, none  # sums
    for r in range(R):
        largest = logits[r, 0]
        for a in range(1, A):
            largest = max(largest, logits[r, a])
        total = np.float32(0.0)
        for a in range(A):
            p[a] = np.exp(logits[r, a] - largest)
            total += p[a]
        log_total, scale = np.log(total), one / total
        entropy = np.float32(0.0)
        for a in range(A):
            p[a] *= scale
            log_p[a] = logits[r, a] - largest - log_total
            if p[a] > 0:  # a masked action has a log-probability of about -1e38
                entropy -= p[a] * log_p[a]
        entropies += entropy
        chosen, adv = action[r], advantage[r]
        logratio = log_p[chosen] - old_log_prob[r]
        ratio = np.exp(logratio)
        plain, bounded = ratio * adv, min(max(ratio, low), high) * adv
        policy_loss -= min(plain, bounded)
        kl += ratio - one - logratio
        clipped += abs(ratio - one) > clip_range
        by_log_prob = -plain * each if plain <= bounded else np.float32(0.0)
        for a in range(A):
            gradient = -by_log_prob * p[a]
            if p[a] > 0:
                gradient += by_entropy * each * p[a] * (log_p[a] + entropy)
            by_logits[r, a] = gradient
        by_logits[r, chosen] += by_log_prob
        for k in range(K):
            error, moved = value[r, k] - target[r, k], value[r, k] - old_value[r, k]
            gradient, squared = error, error * error
            if abs(moved) > clip_vf:
                bound = min(max(moved, -clip_vf), clip_vf)
                other = old_value[r, k] + bound - target[r, k]
                if other * other > squared:
                    gradient, squared = np.float32(0.0), other * other
            v_loss += live[k] * squared
            by_value[r, k] = by_error * live[k] * gradient
    logs = np.empty(6, np.float32)
    logs[0], logs[1], logs[2] = policy_loss / R, 0.5 * v_loss / R, entropies / R
    logs[3] = logs[0] + value_coef * logs[1] - entropy_coef * logs[2]
    logs[4], logs[5] = kl / R, clipped / R
    return logs, by_logits, by_value
