"""Find the table rows of NetHack's map, on the CPU; kernels release the GIL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np


class TableLayout(NamedTuple):
    """Where the rows of one table are.

    Rows of kinds near the hero begin at 0, those of groups near the hero, of kinds in distant
    patches and of species at `groups`, `far` and `species`, and those of words at `words`.

    Args:
        glyphs: [3, G] int16, kind, group and species of each glyph, -1 for none.
        num_kinds: number of kinds.
        num_groups: number of groups.
        half: cells from the hero to the border of the near map.
        bands: [2, 2 * reach + 1] int64, band of rows and of columns by distance from the hero.
        num_bands: bands of columns.
        groups: first row of groups.
        far: first row of distant patches.
        species: first row of species.
        words: the row after them.
    """

    glyphs: np.ndarray
    num_kinds: int
    num_groups: int
    half: int
    bands: np.ndarray
    num_bands: int
    groups: int
    far: int
    species: int
    words: int


def bands(borders: Sequence[int], reach: int) -> tuple[np.ndarray, int]:
    """Divide distances into bands, the more distant the wider.

    Args:
        borders: least absolute distances of the bands beside the central one, increasing.
        reach: largest distance.

    Returns:
        [2 * reach + 1] int64, the band of each distance from -`reach` on, and their number.
    """
    distance = np.arange(-reach, reach + 1)
    step = np.searchsorted(np.asarray(borders), np.abs(distance), side="right")
    return np.sign(distance) * step + len(borders), 2 * len(borders) + 1


@numba.njit(cache=True, nogil=True)
def _map_rows(glyphs, hero, layout, rows, counts):
    known, K, G, half, bands, num_bands, first_group, first_far, first_species, _ = layout
    kinds, groups, species = known
    size, reach = 2 * half + 1, (bands.shape[1] - 1) // 2
    last_seen = np.full(first_species - first_far, -1, np.int64)  # the last map with each row
    across = np.empty(glyphs.shape[2], np.int64)
    for b in range(glyphs.shape[0]):
        n = 0
        for x in range(glyphs.shape[2]):
            across[x] = bands[1, min(max(x - hero[b, 1], -reach), reach) + reach]
        for y in range(glyphs.shape[1]):
            dy = y - hero[b, 0]
            band = bands[0, min(max(dy, -reach), reach) + reach] * num_bands
            for x in range(glyphs.shape[2]):
                glyph = np.int64(glyphs[b, y, x])
                if glyph < 0 or glyph >= kinds.shape[0]:
                    return False
                kind = np.int64(kinds[glyph])
                if kind < 0:
                    continue
                dx = x - hero[b, 1]
                if -half <= dy <= half and -half <= dx <= half:
                    place = (dy + half) * size + dx + half
                    rows[b, n] = place * K + kind
                    n += 1
                    if groups[glyph] >= 0:
                        rows[b, n] = first_group + place * G + groups[glyph]
                        n += 1
                    if species[glyph] >= 0:
                        rows[b, n] = first_species + species[glyph]
                        n += 1
                else:
                    row = (band + across[x]) * K + kind
                    if last_seen[row] != b:
                        last_seen[row] = b
                        rows[b, n] = first_far + row
                        n += 1
        counts[b] = n
    return True


@numba.njit(cache=True, nogil=True)
def append(ids, lengths, first, rows, counts):
    """Append to the rows of each observation the next of `ids`, `lengths[b]` of them.

    Args:
        ids: [F] integers, those of one observation after another; negative ones are left out.
        lengths: [B] integers.
        first: row of id 0.
        rows: [B, R] integers, of which the first `counts` are filled.
        counts: [B] int32, increased.
    """
    at = 0
    for b in range(lengths.shape[0]):
        n = counts[b]
        for _ in range(lengths[b]):
            if ids[at] >= 0:
                rows[b, n] = first + ids[at]
                n += 1
            at += 1
        counts[b] = n


def map_rows(
    glyphs: np.ndarray, hero: np.ndarray, layout: TableLayout, room: int, dtype: type
) -> tuple[np.ndarray, np.ndarray]:
    """Find the table rows of maps.

    A cell near the hero has the rows of its place and kind, of its place and group, and of its
    species. Distant cells have the row of their patch and kind, once for equal ones.

    Args:
        glyphs: [B, H, W] integers.
        hero: [B, 2] int64, row and column; may be outside.
        layout: of the table.
        room: columns for further rows.
        dtype: of the rows.

    Returns:
        Rows [B, R] and counts [B] int32, how many of them are filled; the others are 0.

    Raises:
        IndexError: for a glyph out of range.
    """
    B, H, W = glyphs.shape
    near = min((2 * layout.half + 1) ** 2, H * W)
    rows = np.zeros((B, H * W + 2 * near + room), dtype)
    counts = np.zeros(B, np.int32)
    if not _map_rows(glyphs, hero, layout, rows, counts):
        raise IndexError(f"a glyph is outside of 0 to {layout.glyphs.shape[1] - 1}")
    return rows, counts
