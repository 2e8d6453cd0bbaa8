"""Test whether a reward program rewards going in a circle."""

from __future__ import annotations

import numpy as np

from firstlight.intrinsic.design.execution import Execution
from firstlight.intrinsic.design.recording import UNFINISHED, Recording

LONGEST = 8
"""Steps of a circle, at most."""
_TRIED = 8  # circles that are repeated


def circle_return(
    execution: Execution, transitions: Recording, total: np.ndarray, factors: np.ndarray
) -> float | None:
    """Estimate the return of an agent that repeats a circle until the time limit.

    A circle is a piece of a recorded episode whose last state equals its first, in every field and
    side channel. Those that pay most a step are put together with what came before them in the
    episode, repeated up to the length of the longest recorded episode, and given to the program,
    since one that remembers may pay a circle once only.

    Args:
        execution: runs the reward.
        transitions: recorded.
        total: [T, N], the program's reward of them.
        factors: [C], weights of its components.

    Returns:
        The highest return of program and environment together; None if no recorded circle pays.

    Raises:
        ProgramError: if the program fails.
    """
    lengths = np.bincount(transitions.episode[transitions.episode != UNFINISHED], minlength=1)
    horizon = int(lengths.max())
    rewards = total + transitions.reward
    best = _best_circles(transitions, rewards)
    if not best or horizon == 0:
        return None
    rows = np.stack([_repeated(transitions, *circle, horizon) for circle in best], 1)  # [H, M]
    columns = np.array([n for _, n, _ in best])
    fields = {
        name: np.ascontiguousarray(field[rows, columns])
        for name, field in transitions.fields.items()
    }
    fields["is_first"] = np.zeros(rows.shape, bool)
    fields["is_first"][0] = True
    fields["valid"] = np.ones(rows.shape, bool)
    values, _ = execution.run_unclipped(fields, {})
    paid = np.tensordot(factors, values.astype(np.float64), 1)
    return float((paid + transitions.reward[rows, columns]).sum(0).max())


def _best_circles(transitions: Recording, rewards: np.ndarray) -> list[tuple[int, int, int]]:
    """Find rewarded circles: row, column and number of steps of each, by descending reward."""
    before, after = transitions.state_keys()
    episode, valid = transitions.episode, transitions.valid
    T = len(rewards)
    sums = np.concatenate([np.zeros((1, rewards.shape[1])), np.cumsum(rewards, 0)])
    found = []
    for length in range(1, min(LONGEST, T) + 1):
        last = T - length + 1
        closed = (before[:last] == after[length - 1 :]) & (episode[:last] != UNFINISHED)
        closed &= episode[:last] == episode[length - 1 :]
        for k in range(length):
            closed &= valid[k : last + k]
        pay = (sums[length:] - sums[:last]) / length
        for t, n in np.argwhere(closed & (pay > 1e-6)):
            found.append((float(pay[t, n]), int(t), int(n), length))
    found.sort(reverse=True)
    return [(t, n, length) for _, t, n, length in found[:_TRIED]]


def _repeated(
    transitions: Recording, row: int, column: int, length: int, horizon: int
) -> np.ndarray:
    """Return the rows [horizon] of an episode up to a circle, then of the circle repeated."""
    episode = transitions.episode[:, column]
    start = int(np.flatnonzero(episode == episode[row])[0])
    beginning = np.arange(start, row)[:horizon]
    left = horizon - len(beginning)
    return np.concatenate([beginning, row + np.arange(left) % length])
