"""Sums of table rows selected by the cells of symbolic grids, and their gradient, on the CPU.

Kernels release the GIL; the callers split the work over threads so that every number is summed in
a fixed order that does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_MIN_ROWS = 256  # below this a second thread costs more than it saves
_pool = ThreadPoolExecutor(thread_name_prefix="grid")


@numba.njit(cache=True, nogil=True)
def _code(image, b, c):
    """Return the number of a cell's (object, colour, state), an index of a flat `lut`."""
    obj, colour, state = image[b, c, 0] & 15, image[b, c, 1] & 7, image[b, c, 2] & 3
    return np.int64(obj) << 5 | np.int64(colour) << 2 | np.int64(state)


@numba.njit(cache=True, nogil=True)
def lookup(image, lut, num_ids, rows, counts):
    """Find the table rows for each grid, ``cell * num_ids + lut[object, colour, state]``.

    Args:
        image: [B, C, 3] uint8.
        lut: [16, 8, 4, F] int32, -1 for none; none for object 0, a cell out of view.
        num_ids: rows of a cell.
        rows: [B, C * F] integers, of which the first `counts` are filled.
        counts: [B] int32, filled.
    """
    numbers = lut.reshape(512, lut.shape[3])
    for b in range(image.shape[0]):
        count = 0
        for c in range(image.shape[1]):
            code = _code(image, b, c)
            if code >= 32:  # object 0 is out of view
                for f in range(numbers.shape[1]):
                    k = numbers[code, f]
                    rows[b, count] = (
                        c * num_ids + k
                    )  # overwritten if there is none: avoids a branch
                    count += k >= 0
        counts[b] = count


@numba.njit(cache=True, nogil=True)
def encode(image, lut, num_ids, table, base, ids, id_table, out, start, stop):
    """`lookup` and `gather` at once, for grids [start, stop) that are encoded only once."""
    total = np.empty(table.shape[1], np.float32)
    for b in range(start, stop):
        _sum_cells(b, image, lut, num_ids, table, base, ids, id_table, total)
        for h in range(total.shape[0]):
            out[b, h] = max(total[h], np.float32(0.0))


@numba.njit(cache=True, nogil=True)
def encode_heads(image, lut, num_ids, table, base, ids, id_table, layer, bias, heads, shift, out):
    """`encode`, the encoder's last layer, and linear heads at once, for all grids.

    ``out = relu(encode @ layer + bias) @ heads + shift``: layer [H, H'] and bias [H'] are those of
    the encoder's last layer, heads [H', O] and shift [O] those of the heads.
    """
    total, hidden = np.empty(table.shape[1], np.float32), np.empty(layer.shape[1], np.float32)
    for b in range(out.shape[0]):
        _sum_cells(b, image, lut, num_ids, table, base, ids, id_table, total)
        for h in range(hidden.shape[0]):
            hidden[h] = bias[h]
        _add_rows(total, layer, hidden)
        for o in range(out.shape[1]):
            out[b, o] = shift[o]
        _add_rows(hidden, heads, out[b])


@numba.njit(cache=True, nogil=True)
def _sum_cells(b, image, lut, num_ids, table, base, ids, id_table, total):
    """Sum the rows of grid `b` into `total` [H], as `gather` does, without the ReLU."""
    numbers = lut.reshape(512, lut.shape[3])
    first = b if base.shape[0] > 1 else 0
    for h in range(total.shape[0]):  # compiles in a third of the time of a slice
        total[h] = base[first, h]
    for c in range(image.shape[1]):
        code = _code(image, b, c)
        if code >= 32:  # object 0 is out of view
            for f in range(numbers.shape[1]):
                k = numbers[code, f]
                if k >= 0:
                    k += c * num_ids
                    for h in range(total.shape[0]):
                        total[h] += table[k, h]
    for i in range(ids.shape[1]):
        k = ids[b, i]
        for h in range(total.shape[0]):
            total[h] += id_table[k, h]


@numba.njit(cache=True, nogil=True)
def _add_rows(inputs, weights, outputs):
    """``outputs += relu(inputs) @ weights``, [H] by [H, O] to [O]."""
    for i in range(inputs.shape[0]):
        x = inputs[i]
        if not x <= 0:  # also if it is not a number
            for o in range(outputs.shape[0]):
                outputs[o] += x * weights[i, o]


@numba.njit(cache=True, nogil=True)
def gather(rows, counts, table, base, ids, id_table, out, start, stop):
    """Sum the rows of each grid in [start, stop), and apply a ReLU.

    ``out[b] = max(base[b] + sum of table[rows[b, :counts[b]]] + sum of id_table[ids[b]], 0)``,
    with ``base[0]`` for all if it has one row.
    """
    total = np.empty(table.shape[1], np.float32)
    for b in range(start, stop):
        first = b if base.shape[0] > 1 else 0
        for h in range(total.shape[0]):
            total[h] = base[first, h]
        for i in range(counts[b]):
            k = rows[b, i]
            for h in range(total.shape[0]):  # a plain loop vectorises, `total += row` does not
                total[h] += table[k, h]
        for i in range(ids.shape[1]):
            k = ids[b, i]
            for h in range(total.shape[0]):
                total[h] += id_table[k, h]
        for h in range(total.shape[0]):
            out[b, h] = max(total[h], np.float32(0.0))


@numba.njit(cache=True, nogil=True)
def scatter(rows, counts, grad, table_grad, start, stop):
    """``table_grad[k] += grad[b]`` for every k of ``rows[b, :counts[b]]`` in [start, stop)."""
    for b in range(rows.shape[0]):
        for i in range(counts[b]):
            k = rows[b, i]
            if start <= k < stop:  # the others belong to another thread
                for h in range(grad.shape[1]):
                    table_grad[k, h] += grad[b, h]


@numba.njit(cache=True, nogil=True)
def scatter_ids(ids, grad, id_grad):
    """``id_grad[k] += grad[b]`` for every k of ``ids[b]``."""
    for b in range(grad.shape[0]):
        for i in range(ids.shape[1]):
            k = ids[b, i]
            for h in range(grad.shape[1]):
                id_grad[k, h] += grad[b, h]


def _split(count: int, work: Callable[[int, int], None], many: bool | None = None) -> None:
    """Run ``work(start, stop)`` over [0, count), in one part for each thread of torch.

    In one part in all if it is not `many`; default whether `count` is at least `_MIN_ROWS`.
    """
    many = count >= _MIN_ROWS if many is None else many
    parts = torch.get_num_threads() if many else 1
    bounds = [count * i // parts for i in range(parts + 1)]
    rest = [_pool.submit(work, bounds[i], bounds[i + 1]) for i in range(1, parts)]
    work(bounds[0], bounds[1])
    for future in rest:
        future.result()


def lookup_rows(image: np.ndarray, lut: np.ndarray, num_ids: int) -> tuple[np.ndarray, np.ndarray]:
    """Find rows [B, R] and counts [B] for grids [B, C, 3] uint8, see `lookup`."""
    C = image.shape[1]
    dtype = np.int16 if C * num_ids <= np.iinfo(np.int16).max else np.int32
    rows, counts = np.empty((len(image), C * lut.shape[3]), dtype), np.empty(len(image), np.int32)
    lookup(image, lut, num_ids, rows, counts)
    return rows[:, : counts.max(initial=0)].copy(), counts


def encode_grids(
    image: np.ndarray,
    lut: np.ndarray,
    num_ids: int,
    table: np.ndarray,
    base: np.ndarray,
    ids: np.ndarray,
    id_table: np.ndarray,
) -> np.ndarray:
    """Compute the rectified sums [B, H] for grids [B, C, 3], see `encode`."""
    out = np.empty((len(image), table.shape[1]), np.float32)
    _split(len(image), partial(encode, image, lut, num_ids, table, base, ids, id_table, out))
    return out


def gather_rows(
    rows: Tensor, counts: Tensor, table: Tensor, base: Tensor, ids: Tensor, id_table: Tensor
) -> Tensor:
    """Compute the rectified sums [B, H] of rows, see `gather`."""
    out = torch.empty(len(rows), table.shape[1])
    arguments = (x.detach().numpy() for x in (rows, counts, table, base, ids, id_table, out))
    _split(len(rows), partial(gather, *arguments))
    return out


def scatter_rows(
    rows: Tensor, counts: Tensor, ids: Tensor, grad: Tensor, K: int, num_ids: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the tables [K, H] and [num_ids, H] from that of the sums [B, H]."""
    table_grad, id_grad = (torch.zeros(size, grad.shape[1]) for size in (K, num_ids))
    arguments = (x.numpy() for x in (rows, counts, grad, table_grad))
    _split(K, partial(scatter, *arguments), many=len(rows) >= _MIN_ROWS)
    scatter_ids(ids.numpy(), grad.numpy(), id_grad.numpy())
    return table_grad, id_grad


class SumRows(torch.autograd.Function):
    """Computes rectified sums of table rows, with gradients for the tables and the base.

    ``apply(rows, counts, table, base, ids, id_table)`` takes the arguments of `gather` as tensors
    and returns [B, H]. Each thread has its own rows of the table's gradient.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        rows: Tensor,
        counts: Tensor,
        table: Tensor,
        base: Tensor,
        ids: Tensor,
        id_table: Tensor,
    ) -> Tensor:
        ctx.sizes = len(table), len(id_table)
        ctx.same_base = len(base) == 1
        out = gather_rows(rows, counts, table, base, ids, id_table)
        ctx.save_for_backward(rows, counts, ids, out)
        return out

    @staticmethod
    def backward(  # noqa: D102
        ctx: Any, grad: Tensor
    ) -> tuple[None, None, Tensor, Tensor, None, Tensor]:
        rows, counts, ids, out = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, out, 0.0).contiguous()
        table_grad, id_grad = scatter_rows(rows, counts, ids, grad, *ctx.sizes)
        base_grad = grad.sum(0, keepdim=True) if ctx.same_base else grad
        return None, None, table_grad, base_grad, None, id_grad


def sum_rows(rows: np.ndarray, counts: np.ndarray, table: Tensor, base: Tensor) -> Tensor:
    """Compute ``relu(base + sum of table rows)``, [B, H].

    Args:
        rows: [B, R] int32, indices of rows.
        counts: [B] int32, how many of them are used.
        table: [K, H].
        base: [B, H], or [1, H] for the same of all.
    """
    ids = torch.zeros((len(rows), 0), dtype=torch.int64)
    found = torch.from_numpy(rows), torch.from_numpy(counts)
    return SumRows.apply(*found, table, base, ids, table[:0])
