"""Sums of table rows selected by the cells of symbolic grids, and their gradient, on the CPU.

Kernels release the GIL; the callers split the work over threads so that every number is summed in
a fixed order that does not depend on the number of threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_MIN_ROWS = 256  # below this a second thread costs more than it saves
_pool = ThreadPoolExecutor(thread_name_prefix="grid")


@numba.njit(cache=True, nogil=True)
def lookup(image, lut, num_ids, rows, counts):
    """Find the table rows for each grid, ``cell * num_ids + lut[object, colour, state]``.

    Args:
        image: [B, C, 3] uint8.
        lut: [16, 8, 4, F] int32, -1 for none; none for object 0, a cell out of view.
        num_ids: rows of a cell.
        rows: [B, C * F] int32, of which the first `counts` are filled.
        counts: [B] int32, filled.
    """
    numbers = lut.reshape(512, lut.shape[3])
    for b in range(image.shape[0]):
        count = 0
        for c in range(image.shape[1]):
            obj = np.int64(image[b, c, 0] & 15)
            if obj != 0:
                code = obj << 5 | np.int64(image[b, c, 1] & 7) << 2 | np.int64(image[b, c, 2] & 3)
                for f in range(numbers.shape[1]):
                    k = numbers[code, f]
                    rows[b, count] = (
                        c * num_ids + k
                    )  # overwritten if there is none: avoids a branch
                    count += k >= 0
        counts[b] = count


@numba.njit(cache=True, nogil=True)
def gather(rows, counts, table, bias, out, start, stop):
    """``out[b] = bias + sum of table[rows[b, :counts[b]]]`` for b in [start, stop)."""
    total = np.empty(table.shape[1], np.float32)
    for b in range(start, stop):
        total[:] = bias
        for i in range(counts[b]):
            k = rows[b, i]
            for h in range(total.shape[0]):  # a plain loop vectorises, `total += row` does not
                total[h] += table[k, h]
        out[b] = total


@numba.njit(cache=True, nogil=True)
def scatter(rows, counts, grad, table_grad, start, stop):
    """``table_grad[k] += grad[b]`` for every k of ``rows[b, :counts[b]]`` in [start, stop)."""
    for b in range(rows.shape[0]):
        for i in range(counts[b]):
            k = rows[b, i]
            if start <= k < stop:  # the others belong to another thread
                for h in range(grad.shape[1]):
                    table_grad[k, h] += grad[b, h]


def _split(count: int, work) -> None:
    """Run ``work(start, stop)`` over [0, count), in one part for each thread of torch."""
    parts = torch.get_num_threads()
    bounds = [count * i // parts for i in range(parts + 1)]
    rest = [_pool.submit(work, bounds[i], bounds[i + 1]) for i in range(1, parts)]
    work(bounds[0], bounds[1])
    for future in rest:
        future.result()


def lookup_rows(image: np.ndarray, lut: np.ndarray, num_ids: int) -> tuple[np.ndarray, np.ndarray]:
    """Find rows [B, C * F] and counts [B] for grids [B, C, 3] uint8, see `lookup`."""
    rows = np.empty((len(image), image.shape[1] * lut.shape[3]), np.int32)
    counts = np.empty(len(image), np.int32)
    lookup(image, lut, num_ids, rows, counts)
    return rows, counts


def gather_rows(
    rows: np.ndarray, counts: np.ndarray, table: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Sum rows [B, R], of which counts [B] are used, of a table [K, H], and a bias [H]: [B, H]."""
    out = np.empty((len(rows), table.shape[1]), np.float32)
    if len(rows) < _MIN_ROWS:
        gather(rows, counts, table, bias, out, 0, len(rows))
    else:
        _split(len(rows), lambda i, j: gather(rows, counts, table, bias, out, i, j))
    return out


def scatter_rows(
    rows: np.ndarray, counts: np.ndarray, grad: np.ndarray, num_rows: int
) -> np.ndarray:
    """Compute the gradient [K, H] of the table from the gradient [B, H] of the sums.

    Each thread has its own rows of the table, so no two write to the same one.
    """
    out = np.zeros((num_rows, grad.shape[1]), np.float32)
    if len(rows) < _MIN_ROWS:
        scatter(rows, counts, grad, out, 0, num_rows)
    else:
        _split(num_rows, lambda i, j: scatter(rows, counts, grad, out, i, j))
    return out


class SumRows(torch.autograd.Function):
    """Computes ``bias + sum of table rows``, with gradients for table and bias.

    ``apply(rows, counts, table, bias)`` takes the arguments of `gather` as tensors, returns [B, H].
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, rows: Tensor, counts: Tensor, table: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rows, counts)
        ctx.num_rows = table.shape[0]
        chosen = rows.numpy(), counts.numpy()
        return torch.from_numpy(gather_rows(*chosen, table.detach().numpy(), bias.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor]:  # noqa: D102
        rows, counts = (saved.numpy() for saved in ctx.saved_tensors)
        table_grad = scatter_rows(rows, counts, grad.contiguous().numpy(), ctx.num_rows)
        return None, None, torch.from_numpy(table_grad), grad.sum(0)
