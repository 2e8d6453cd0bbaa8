"""Sums of table rows chosen by the cells of symbolic grids, and their gradient, on the CPU.

Kernels release the GIL; the callers split the work over threads so that every number is summed in
one fixed order whatever the number of threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch

_MIN_ROWS = 256  # below this a second thread costs more than it saves
_pool = ThreadPoolExecutor(thread_name_prefix="grid")


@numba.njit(cache=True, nogil=True)
def gather(ids, table, bias, out, start, stop):
    """``out[b] = bias + sum_c table[ids[b, c]]`` for b in [start, stop), skipping ids < 0."""
    total = np.empty(table.shape[1], np.float32)
    for b in range(start, stop):
        total[:] = bias
        for c in range(ids.shape[1]):
            k = ids[b, c]
            if k >= 0:
                row = table[k]
                for h in range(total.shape[0]):  # a plain loop vectorises, `total += row` does not
                    total[h] += row[h]
        out[b] = total


@numba.njit(cache=True, nogil=True)
def scatter(ids, grad, table_grad, start, stop):
    """``table_grad[ids[b, c]] += grad[b]`` for every b and c in [start, stop), skipping ids < 0."""
    for b in range(ids.shape[0]):
        g = grad[b]
        for c in range(start, stop):
            k = ids[b, c]
            if k >= 0:
                row = table_grad[k]
                for h in range(g.shape[0]):
                    row[h] += g[h]


@numba.njit(cache=True, nogil=True)
def lookup(image, lut, num_ids, ids):
    """Rows of each cell: ``cell * num_ids + lut[object, colour, state]``, -1 where the latter is.

    Args:
        image: [B, C, 3] uint8.
        lut: [16, 8, 4, F] int32.
        num_ids: rows of a cell.
        ids: [B, C * F] int32, filled.
    """
    features = lut.shape[3]
    for b in range(image.shape[0]):
        for c in range(image.shape[1]):
            numbers = lut[image[b, c, 0] & 15, image[b, c, 1] & 7, image[b, c, 2] & 3]
            for f in range(features):
                k = numbers[f]
                ids[b, c * features + f] = c * num_ids + k if k >= 0 else -1


def _split(count: int, work) -> None:
    """Run ``work(start, stop)`` over [0, count) in as many parts as torch uses threads."""
    parts = torch.get_num_threads()
    bounds = np.linspace(0, count, parts + 1).astype(int)
    rest = [_pool.submit(work, bounds[i], bounds[i + 1]) for i in range(1, parts)]
    work(bounds[0], bounds[1])
    for future in rest:
        future.result()


def gather_rows(ids: np.ndarray, table: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[B, C] int32 ids, [R, H] table, [H] bias to [B, H]."""
    out = np.empty((len(ids), table.shape[1]), np.float32)
    if len(ids) < _MIN_ROWS:
        gather(ids, table, bias, out, 0, len(ids))
    else:
        _split(len(ids), lambda start, stop: gather(ids, table, bias, out, start, stop))
    return out


def scatter_rows(ids: np.ndarray, grad: np.ndarray, rows: int) -> np.ndarray:
    """[B, C] int32 ids and [B, H] gradient of the sums to [R, H] gradient of the table.

    Each column of `ids` has table rows of its own, so threads that share columns out never meet.
    """
    out = np.zeros((rows, grad.shape[1]), np.float32)
    if len(ids) < _MIN_ROWS:
        scatter(ids, grad, out, 0, ids.shape[1])
    else:
        _split(ids.shape[1], lambda start, stop: scatter(ids, grad, out, start, stop))
    return out
