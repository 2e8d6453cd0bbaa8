"""Draws from categorical distributions on the CPU."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def draw_categorical(logits, uniform):
    """Draw one action for each row, by the inverse of the cumulative probabilities.

    Args:
        logits: [B, A] float32, unnormalised; at least one of a row is finite.
        uniform: [B] float32 in [0, 1).

    Returns:
        The actions [B] int64, and their log-probabilities [B] float32.
    """
    B, A = logits.shape
    action, log_prob = np.empty(B, np.int64), np.empty(B, np.float32)
    weight = np.empty(A, np.float64)
    for b in range(B):
        largest = logits[b, 0]
        for a in range(1, A):
            largest = max(largest, logits[b, a])
        total = 0.0
        for a in range(A):
            weight[a] = np.exp(np.float64(logits[b, a] - largest))
            total += weight[a]
        left, chosen = uniform[b] * total, A - 1
        for a in range(A):
            left -= weight[a]
            if left < 0.0:
                chosen = a
                break
        action[b] = chosen
        log_prob[b] = np.float64(logits[b, chosen] - largest) - np.log(total)
    return action, log_prob
