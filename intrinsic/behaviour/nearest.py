"""Novelty of behaviour: the distance to the nearest descriptors."""

from __future__ import annotations

import numpy as np

from firstlight.intrinsic.behaviour.nearest_kernels import find_nearest


def neighbors_of(
    queries: np.ndarray, references: np.ndarray, count: int, first_row: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest references of queries.

    Args:
        queries: [Q, d] float64.
        references: [R, d] float64.
        count: of neighbours of each; fewer if there are not so many.
        first_row: row of `references` that is the first query itself, the others following; no
            query is its own neighbour. None if the queries are not among the references.

    Returns:
        Rows [Q, n] int64 of the neighbours, nearest first, and distances [Q, n] float64.
    """
    own = first_row is not None
    wanted = min(count + own, len(references))
    rows = np.empty((len(queries), wanted), np.int64)
    distances = np.empty((len(queries), wanted))
    queries, references = (np.ascontiguousarray(x, np.float64) for x in (queries, references))
    find_nearest(queries, references, wanted, rows, distances)
    if first_row is None:
        return rows, distances
    self_row = first_row + np.arange(len(queries))[:, None]
    is_self = rows == self_row
    is_self[~is_self.any(1), -1] = True  # more equals than neighbours: any of them may go
    keep = ~is_self
    shape = (len(queries), wanted - 1)
    return rows[keep].reshape(shape), distances[keep].reshape(shape)


def novelty_of(
    queries: np.ndarray, references: np.ndarray, count: int, first_row: int | None = None
) -> np.ndarray:
    """Compute the mean distance to the nearest references (Lehman & Stanley 2011), [Q] float64.

    Infinite where there is no reference. Arguments as for `neighbors_of`.
    """
    distances = neighbors_of(queries, references, count, first_row)[1]
    return distances.mean(1) if distances.shape[1] else np.full(len(queries), np.inf)
