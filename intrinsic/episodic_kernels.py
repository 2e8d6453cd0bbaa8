"""Kernels of episodic memories, used by `episodic`: rank-1 inverses and nearest neighbours.

Each environment is independent of the others, so the callers split them over threads; the kernels
release the GIL. Sums run in a fixed order that does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SQUARED, CONDITIONAL, QUASIMETRIC = 0, 1, 2
"""Distances of `_distances`."""

PADDING = 16
"""Unused numbers at the end of each row of a memory, so that rows do not share cache sets."""


@njit(cache=True, nogil=True, fastmath={"contract"})
def _absorb(inverse, x, u):
    """Return ``b = x' C x`` for an inverse C [E, E] and add x [E] to it; `u` [E] is scratch.

    Sherman-Morrison: ``C - C x x' C / (1 + b)``. If rounding made b negative, C stays as it is.
    """
    size = len(x)
    u[:] = 0.0
    for i in range(size):  # C is symmetric, so its rows are its columns
        for j in range(size):
            u[j] += x[i] * inverse[i, j]
    b = np.float32(0.0)
    for i in range(size):
        b += x[i] * u[i]
    if not b > 0:
        return np.float32(0.0)
    scale = np.float32(1.0) / (np.float32(1.0) + b)
    for i in range(size):
        factor = u[i] * scale
        for j in range(size):
            inverse[i, j] -= factor * u[j]
    return b


@njit(cache=True, nogil=True)
def elliptical_bonus(inverses, rows, ridge, here, after, is_first, valid, out, start, stop):
    """Compute ``b = x' C^-1 x`` of each step, and add x to C, for columns in [start, stop).

    Args:
        inverses: [R, E, E] float32, C^-1 of each environment.
        rows: [N] int64, row of each column.
        ridge: C of an empty memory is ``ridge * I``.
        here: [T, N, E] float32, added where an episode begins, after C was reset.
        after: [T, N, E] float32.
        is_first: [T, N] bool.
        valid: [T, N] bool.
        out: [T, N] float32, is set where valid.
        start: first column.
        stop: one past the last column.
    """
    T, _, size = after.shape
    scratch = np.empty(size, np.float32)
    for n in range(start, stop):
        inverse = inverses[rows[n]]
        for t in range(T):
            if is_first[t, n]:
                inverse[:] = 0.0
                for i in range(size):
                    inverse[i, i] = 1.0 / ridge
                _absorb(inverse, here[t, n], scratch)
            if valid[t, n]:
                out[t, n] = _absorb(inverse, after[t, n], scratch)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_squares(memory, used, x, first, last, out):
    """Add ``(m_e - x_e)^2`` for e in [first, last) to `out` [C], for the first `used` vectors."""
    whole = last - (last - first) % 4
    for e in range(first, whole, 4):  # four at a time, so that `out` is read and written less often
        a, b, c, d = x[e], x[e + 1], x[e + 2], x[e + 3]
        for j in range(used):
            p, q = memory[e, j] - a, memory[e + 1, j] - b
            r, s = memory[e + 2, j] - c, memory[e + 3, j] - d
            out[j] += (p * p + q * q) + (r * r + s * s)
    for e in range(whole, last):
        value = x[e]
        for j in range(used):
            away = memory[e, j] - value
            out[j] += away * away


@njit(cache=True, nogil=True)
def _distances(memory, used, x, kind, cut, out, other):
    """Compute the distances from `used` vectors of a memory [E, C] to x [E], into `out` [C].

    SQUARED is ``|m - x|^2``. The others divide vectors into a first part, up to `cut`, and a second
    one. CONDITIONAL is ``|m1 - x1|^2 / (|m2 - x2| + 1e-6)``; QUASIMETRIC is
    ``max(relu(m1 - x1)) + |m2 - x2|``. `other` [C] is scratch.
    """
    out[:used] = np.float32(0.0)
    if kind == SQUARED:
        _add_squares(memory, used, x, 0, len(x), out)
        return
    other[:used] = np.float32(0.0)
    _add_squares(memory, used, x, cut, len(x), other)
    if kind == CONDITIONAL:
        _add_squares(memory, used, x, 0, cut, out)
        for j in range(used):
            out[j] /= np.sqrt(other[j]) + np.float32(1e-6)
        return
    for e in range(cut):
        value = x[e]
        for j in range(used):
            away = memory[e, j] - value
            out[j] = away if away > out[j] else out[j]
    for j in range(used):
        out[j] += np.sqrt(other[j])


@njit(cache=True, nogil=True)
def _insert_smallest(distances, used, nearest):
    """Write the smallest of `used` distances into `nearest` [k], ascending, inf where none is."""
    k = len(nearest)
    nearest[:] = np.inf
    for j in range(used):
        value = distances[j]
        if value < nearest[k - 1]:
            i = k - 1
            while i > 0 and nearest[i - 1] > value:
                nearest[i] = nearest[i - 1]
                i -= 1
            nearest[i] = value


@njit(cache=True, nogil=True)
def _quantile(distances, used, share, scratch):
    """Return the quantile of `used` distances, linear between neighbours; inf if there are none."""
    if used == 0:
        return np.float32(np.inf)
    place = share * (used - 1)
    low = int(place)
    high = min(low + 1, used - 1)
    smallest = scratch[: high + 1]
    _insert_smallest(distances, used, smallest)
    return np.float32(smallest[low] + (place - low) * (smallest[high] - smallest[low]))


@njit(cache=True, nogil=True)
def nearest_distances(
    memory, counts, rows, kind, cut, share, here, query, added, is_first, valid, out, start, stop
):
    """Compute distances to what an episode's memory holds, and add to it, for some columns.

    Args:
        memory: [R, E, C + PADDING] float32; once it holds C vectors, the oldest is replaced.
        counts: [R] int64, vectors added to each memory so far.
        rows: [N] int64, row of each column.
        kind: SQUARED, CONDITIONAL or QUASIMETRIC, see `_distances`.
        cut: size of the first part of a vector.
        share: negative for the k smallest distances, else the quantile to compute.
        here: [T, N, E] float32, added where an episode begins, after its memory was cleared.
        query: [T, N, E] float32, compared with the memory of each step.
        added: [T, N, E] float32, added after that.
        is_first: [T, N] bool.
        valid: [T, N] bool.
        out: [T, N, k] float32, is set where valid, ascending; inf where the memory holds fewer.
        start: first column.
        stop: one past the last column.
    """
    capacity = memory.shape[2] - PADDING
    distances = np.empty(capacity, np.float32)
    scratch = np.empty(capacity, np.float32)
    for n in range(start, stop):
        row = rows[n]
        own = memory[row]
        count = counts[row]
        for t in range(len(query)):
            if is_first[t, n]:
                own[:, 0] = here[t, n]
                count = 1
            if valid[t, n]:
                used = min(count, capacity)
                _distances(own, used, query[t, n], kind, cut, distances, scratch)
                if share < 0:
                    _insert_smallest(distances, used, out[t, n])
                else:
                    out[t, n, 0] = _quantile(distances, used, share, scratch)
                own[:, count % capacity] = added[t, n]
                count += 1
        counts[row] = count
