"""Bit sets of covered cells in numba, used by `coverage`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def cover(bits, rows, cells, weights, write, gain):
    """Sum the weights of those of `cells` that each set does not cover yet; cover them on request.

    Args:
        bits: [E, B] uint8, one bit per covered cell; changed if `write`.
        rows: [M] int64, distinct rows of `bits`.
        cells: [M, C] int64, cells to cover; negative numbers are ignored.
        weights: [cells] float64.
        write: whether to mark the cells as covered.
        gain: [M] float64, is set to the weight of the cells that were not covered.
    """
    fresh = np.empty(cells.shape[1], np.int64)
    for m in range(len(rows)):
        row = bits[rows[m]]
        total, count = 0.0, 0
        for c in range(cells.shape[1]):
            cell = cells[m, c]
            if cell < 0:
                continue
            known, mask = int(row[cell >> 3]), 1 << (cell & 7)
            if known & mask == 0:
                row[cell >> 3] = known | mask
                total += weights[cell]
                fresh[count] = cell
                count += 1
        gain[m] = total
        if not write:
            for i in range(count):
                cell = fresh[i]
                row[cell >> 3] = int(row[cell >> 3]) & ~(1 << (cell & 7))
