"""Advantage estimators: pure functions of arrays, in which the ends of episodes are data.

An invalid row (the environment only reset itself) is transparent: its value counts as that of the
next row, its reward is 0, its discount and lambda are 1. So the advantage of the row before it is
the same as if the row did not exist.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from firstlight.envs.types import Rollout

_LOG_MAX = 80.0  # of probability ratios in float32


class VTrace(NamedTuple):
    """Value targets and advantages of V-trace.

    Args:
        value_target: [T, N, K] the corrected values v_s.
        advantage: [T, N, K] of the action taken, ``r + discount * (V' + lam * (v' - V')) - V`` with
            the successor's value V' and target v'. It has no factor rho of its own step: a loss
            that holds the probability ratio brings it in, and any other multiplies by clipped rho.
    """

    value_target: Tensor
    advantage: Tensor


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    discount: Tensor,
    carry: Tensor,
    valid: Tensor,
    lam: float,
) -> Tensor:
    """Compute generalised advantage estimates (Schulman et al. 2016, eq. 16).

    ``A_t = r_t + discount_t * next_value_t - value_t + discount_t * lam * carry_t * A_{t+1}``

    Args:
        reward: [T, N, K].
        value: [T, N, K].
        next_value: [T, N, K] value of the true successor, see `successor_values`.
        discount: [T, N, K].
        carry: [T, N, K].
        valid: [T, N] bool.
        lam: lambda.

    Returns:
        [T, N, K] advantages; those of invalid rows are the next row's.
    """
    arrays = _arrays(reward, value, next_value, discount, carry)
    advantage = _gae_kernel(valid.cpu().numpy(), np.float32(lam), *arrays)
    return torch.from_numpy(advantage).to(reward.device)


def vtrace(
    log_rho: Tensor,
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    discount: Tensor,
    carry: Tensor,
    valid: Tensor,
    lam: float = 1.0,
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> VTrace:
    """Compute V-trace targets and advantages (Espeholt et al. 2018, eq. 1, remark 2 and §4.2).

    ``v_s = V_s + rho_s * delta_s + discount_s * c_s * carry_s * (v_{s+1} - V_{s+1})``
    with ``rho = min(rho_bar, pi/mu)`` and ``c = lam * min(c_bar, pi/mu)``. Where pi = mu and both
    bounds are 1, the targets are lambda-returns, and ``v_s - V_s`` and the advantages are those of
    `gae`.

    Args:
        log_rho: [T, N] log of the target policy's over the behaviour policy's probability.
        reward: [T, N, K].
        value: [T, N, K].
        next_value: [T, N, K] value of the true successor, see `successor_values`.
        discount: [T, N, K].
        carry: [T, N, K].
        valid: [T, N] bool.
        lam: lambda, the decay of the traces.
        rho_bar: clip of the fixed point's weights.
        c_bar: clip of the traces.

    Returns:
        Targets and advantages; those of invalid rows are the next row's.
    """
    arrays = _arrays(reward, value, next_value, discount, carry)
    log_ratio = log_rho.detach().clamp(max=_LOG_MAX).cpu().numpy()  # exp without overflow
    rho = np.exp(log_ratio).astype(np.float32)
    weights = np.minimum(rho, np.float32(rho_bar)), np.minimum(rho, np.float32(c_bar))
    target, advantage = _vtrace_kernel(valid.cpu().numpy(), np.float32(lam), *weights, *arrays)
    device = reward.device
    return VTrace(torch.from_numpy(target).to(device), torch.from_numpy(advantage).to(device))


def successor_values(rollout: Rollout, value: Tensor, final_value: Tensor, carry: Tensor) -> Tensor:
    """Compute the value of each step's successor, for each stream.

    Where `carry` is nonzero this is the value of the next valid row, across episode ends if the
    stream is not episodic; elsewhere it is the value of the true last observation.

    Args:
        rollout: of `T` steps.
        value: [T+1, N, K] of ``rollout.obs``.
        final_value: [D, K] of ``rollout.final_obs``.
        carry: [T, N, K].

    Returns:
        [T, N, K]
    """
    onward = transparent(value, rollout.valid)[1:]
    last = value[1:]
    if len(rollout.final_at):
        t, n = rollout.final_at.unbind(1)
        last = last.clone()
        last[t, n] = final_value
    return torch.where(carry > 0, onward, last)


def transparent(value: Tensor, valid: Tensor) -> Tensor:
    """Replace the values [T+1, N, K] of invalid rows [T, N] by those of the row after."""
    out = value
    for t in (~valid).any(1).nonzero().flatten().flip(0).tolist():
        if out is value:
            out = value.clone()
        out[t] = torch.where(valid[t, :, None], out[t], out[t + 1])
    return out


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in tensors]


@numba.njit(cache=True, nogil=True)
def _gae_kernel(valid, lam, reward, value, next_value, discount, carry):
    T, N, K = reward.shape
    advantage = np.zeros((T, N, K), np.float32)
    for n in range(N):
        for k in range(K):
            later = np.float32(0.0)
            for t in range(T - 1, -1, -1):
                if valid[t, n]:
                    d = discount[t, n, k]
                    delta = reward[t, n, k] + d * next_value[t, n, k] - value[t, n, k]
                    later = delta + d * lam * carry[t, n, k] * later
                advantage[t, n, k] = later
    return advantage


@numba.njit(cache=True, nogil=True)
def _vtrace_kernel(valid, lam, rho, c, reward, value, next_value, discount, carry):
    T, N, K = reward.shape
    target, advantage = np.zeros((T, N, K), np.float32), np.zeros((T, N, K), np.float32)
    for n in range(N):
        for k in range(K):
            later = np.float32(0.0)  # v_{s+1} - V(x_{s+1}) of the next valid row
            for t in range(T - 1, -1, -1):
                if valid[t, n]:
                    d, v = discount[t, n, k], value[t, n, k]
                    onward = d * lam * carry[t, n, k] * later
                    one_step = reward[t, n, k] + d * next_value[t, n, k] - v
                    advantage[t, n, k] = one_step + onward
                    later = rho[t, n] * one_step + c[t, n] * onward
                    target[t, n, k] = v + later
                elif t + 1 < T:
                    advantage[t, n, k] = advantage[t + 1, n, k]
                    target[t, n, k] = target[t + 1, n, k]
    return target, advantage
