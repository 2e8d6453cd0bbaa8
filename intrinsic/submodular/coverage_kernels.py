"""Marking cells as covered, a bit each, in a compiled loop; `coverage` calls it."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def cover(bits, rows, cells, weights, write, gain):
    """Weigh the cells that each set does not cover yet.

    Args:
        bits: [E, B] uint8, a bit for each covered cell; changed if `write`.
        rows: [M] int64, different rows of `bits`.
        cells: [M, C] int64, what is now covered; negative ones are none.
        weights: [cells] float64.
        write: whether they stay covered.
        gain: [M] float64, gets the weight of cells that were not covered.
    """
    fresh = np.empty(cells.shape[1], np.int64)
    for m in range(len(rows)):
        own = bits[rows[m]]
        total, count = 0.0, 0
        for c in range(cells.shape[1]):
            cell = cells[m, c]
            if cell < 0:
                continue
            known, mask = int(own[cell >> 3]), 1 << (cell & 7)
            if known & mask == 0:
                own[cell >> 3] = known | mask
                total += weights[cell]
                fresh[count] = cell
                count += 1
        gain[m] = total
        if not write:
            for i in range(count):
                cell = fresh[i]
                own[cell >> 3] = int(own[cell >> 3]) & ~(1 << (cell & 7))
