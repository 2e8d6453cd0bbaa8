"""Selection by several objectives."""

from __future__ import annotations

import numpy as np


def pareto_fronts(objectives: np.ndarray) -> list[np.ndarray]:
    """Sort into fronts: no member of a front is dominated by one of the same or a later front.

    Args:
        objectives: [B, m], each to be maximised.

    Returns:
        Rows [*] int64 of each front, best first (Deb et al. 2002).
    """
    at_least = (objectives[:, None] >= objectives[None]).all(-1)
    dominates = at_least & (objectives[:, None] > objectives[None]).any(-1)
    left, fronts = np.ones(len(objectives), bool), []
    while left.any():
        dominated = (dominates & left[:, None]).any(0)
        front = left & ~dominated
        fronts.append(np.flatnonzero(front))
        left &= ~front
    return fronts


def crowding_distance(objectives: np.ndarray) -> np.ndarray:
    """Compute how far apart the neighbours of each member of a front are (Deb et al. 2002).

    Args:
        objectives: [B, m] of one front.

    Returns:
        [B] float64, infinite at both ends of an objective.
    """
    count = len(objectives)
    total = np.zeros(count)
    for values in objectives.T:
        order = np.argsort(values, kind="stable")
        span = values[order[-1]] - values[order[0]]
        total[order[[0, -1]]] = np.inf
        if count > 2 and np.isfinite(span) and span > 0:
            total[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
    return total


def select_by_fronts(objectives: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` rows of [B, m] by fronts, the last front by crowding; [count] int64."""
    chosen: list[int] = []
    for front in pareto_fronts(objectives):
        room = count - len(chosen)
        if len(front) > room:
            distance = crowding_distance(objectives[front])
            front = front[np.argsort(-distance, kind="stable")][:room]
        chosen += front.tolist()
        if len(chosen) == count:
            break
    return np.array(chosen, np.int64)


def select_largest(values: np.ndarray, count: int) -> np.ndarray:
    """Choose the rows of the `count` largest values [B], largest first; [count] int64."""
    return np.argsort(-values, kind="stable")[:count]
