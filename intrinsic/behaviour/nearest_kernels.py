"""Kernel of the nearest neighbours of descriptors."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def find_nearest(queries, references, count, nearest, distances):
    """Find the nearest references of each query by Euclidean distance; of equals the first.

    Args:
        queries: [Q, d] float64.
        references: [R, d] float64.
        count: how many to find, at most R.
        nearest: [Q, count] int64, written, nearest first.
        distances: [Q, count] float64, written.
    """
    squares = np.empty(count)
    for q in range(len(queries)):
        found = 0
        for r in range(len(references)):
            square = 0.0
            for k in range(queries.shape[1]):
                gap = queries[q, k] - references[r, k]
                square += gap * gap
            if found == count and square >= squares[count - 1]:
                continue
            at = found if found < count else count - 1
            while at > 0 and squares[at - 1] > square:
                squares[at] = squares[at - 1]
                nearest[q, at] = nearest[q, at - 1]
                at -= 1
            squares[at], nearest[q, at] = square, r
            found = min(found + 1, count)
        for k in range(count):
            distances[q, k] = math.sqrt(squares[k])
