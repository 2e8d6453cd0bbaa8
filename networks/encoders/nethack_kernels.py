"""Table look-ups in place of convolutions over glyphs and messages, on the CPU.

A convolution over embedded codes adds, for each place of its kernel, a row of one table: the
embeddings times the weights of that place. Few of NetHack's glyphs occur in a batch, and most of a
level is blank, so looking rows up costs a fraction of multiplying. Kernels release the GIL.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


@numba.njit(cache=True, nogil=True)
def mark(glyphs, present):
    """Set ``present[g] = True`` for each g of `glyphs` [C]. Returns whether all are in range."""
    for g in glyphs:
        if g < 0 or g >= present.shape[0]:
            return False
        present[g] = True
    return True


@numba.njit(cache=True, nogil=True)
def patches(glyphs, corner, numbers, places, kernel, stride, rows, counts):
    """Find the table rows for each patch of a map, ``numbers[glyph] * places + place``.

    Args:
        glyphs: [B, H, W] integers.
        corner: [B, 2] int64, row and column of the first patch; may be outside.
        numbers: [G] int32, from 0 on, and -1 for a glyph without a row.
        places: cells of a patch.
        kernel: height and width of a patch; cells outside the map are ignored.
        stride: steps from a patch to the next.
        rows: [B, h, w, places] int32, of which the first `counts` are filled.
        counts: [B, h, w] int32, filled.
    """
    _, height, width = glyphs.shape
    batch, down, across = counts.shape
    for b in range(batch):
        for i in range(down):
            top = corner[b, 0] + i * stride[0]
            for j in range(across):
                left = corner[b, 1] + j * stride[1]
                found = 0
                for y in range(max(top, 0), min(top + kernel[0], height)):
                    place = (y - top) * kernel[1] - left
                    for x in range(max(left, 0), min(left + kernel[1], width)):
                        k = numbers[glyphs[b, y, x]]
                        if k >= 0:
                            rows[b, i, j, found] = k * places + place + x
                            found += 1
                counts[b, i, j] = found


@numba.njit(cache=True, nogil=True)
def best_windows(text, table, best, at):
    """Find the maximum, at least 0, of sums of table rows over a text's windows, and its window.

    Args:
        text: [B, M] uint8; 0 adds nothing.
        table: [256, K, C], row of each character at each place of a window of K.
        best: [B, C], filled.
        at: [B, C] int32, filled: start of the window, from 1 - K to M - 1, or M for none.
    """
    _, places, channels = table.shape
    total = np.empty(channels, np.float32)
    for b in range(text.shape[0]):
        end = text.shape[1]
        best[b] = 0
        at[b] = end
        while end > 0 and text[b, end - 1] == 0:
            end -= 1
        for start in range(1 - places, end):
            total[:] = 0
            for p in range(max(0, -start), min(places, end - start)):
                letter = text[b, start + p]
                if letter != 0:
                    for c in range(channels):
                        total[c] += table[letter, p, c]
            for c in range(channels):
                better = total[c] > best[b, c]
                best[b, c] = total[c] if better else best[b, c]
                at[b, c] = start if better else at[b, c]


@numba.njit(cache=True, nogil=True)
def scatter_windows(text, at, grad, table_grad):
    """Add ``grad[b, c]`` to ``table_grad[letter, p, c]`` for each letter of the windows in `at`."""
    places = table_grad.shape[1]
    length = text.shape[1]
    for b in range(text.shape[0]):
        for c in range(grad.shape[1]):
            start = at[b, c]
            for p in range(max(0, -start), min(places, length - start)):
                letter = text[b, start + p]
                if letter != 0:
                    table_grad[letter, p, c] += grad[b, c]


def number_glyphs(glyphs: np.ndarray, num_glyphs: int, blank: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the glyphs that occur, in increasing order.

    Args:
        glyphs: integers of any shape.
        num_glyphs: number of all glyphs.
        blank: glyph without a number.

    Returns:
        Numbers [num_glyphs] int32, -1 for none, and the glyphs that have one [G] int64.

    Raises:
        IndexError: for a glyph out of range.
    """
    present = np.zeros(num_glyphs, np.bool_)
    if not mark(glyphs.ravel(), present):
        raise IndexError(f"a glyph is outside of 0 to {num_glyphs - 1}")
    present[blank] = False
    chosen = np.flatnonzero(present)
    numbers = np.full(num_glyphs, -1, np.int32)
    numbers[chosen] = np.arange(len(chosen))
    return numbers, chosen


def patch_rows(
    glyphs: np.ndarray,
    corner: np.ndarray,
    numbers: np.ndarray,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Compute rows [B * h * w, P] and counts [B * h * w] of `shape` patches, see `patches`."""
    places, size = kernel[0] * kernel[1], (len(glyphs), *shape)
    rows, counts = np.empty((*size, places), np.int32), np.empty(size, np.int32)
    patches(glyphs, corner, numbers, places, kernel, stride, rows, counts)
    return rows.reshape(counts.size, places), counts.ravel()


class BestWindows(torch.autograd.Function):
    """``apply(text, table)``: see `best_windows`; [B, M] and [256, K, C] to [B, C]."""

    @staticmethod
    def forward(ctx: Any, text: Tensor, table: Tensor) -> Tensor:  # noqa: D102
        shape = len(text), table.shape[2]
        best, at = np.empty(shape, np.float32), np.empty(shape, np.int32)
        best_windows(text.numpy(), table.detach().numpy(), best, at)
        ctx.save_for_backward(text, torch.from_numpy(at))
        ctx.places = table.shape[1]
        return torch.from_numpy(best)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # noqa: D102
        text, at = (saved.numpy() for saved in ctx.saved_tensors)
        table_grad = np.zeros((256, ctx.places, grad.shape[1]), np.float32)
        scatter_windows(text, at, grad.contiguous().numpy(), table_grad)
        return None, torch.from_numpy(table_grad)
