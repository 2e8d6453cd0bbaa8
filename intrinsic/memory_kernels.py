"""Hash tables of visit counts in numba, used by `memory`.

Hashes are uint64 and table indices int64 throughout, because numba turns a mix into float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SEED = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_FINAL = np.uint64(0x94D049BB133111EB)
_SHIFT = np.uint64(32)
_SPREAD = np.int64(0x9E3779B1)


@njit(cache=True, nogil=True)
def hash_words(words, out):
    """Hash each row of `words` [R, W] uint64 into `out` [R] uint64."""
    for row in range(words.shape[0]):
        h = _SEED
        for word in words[row]:
            h = (h ^ word) * _MULTIPLIER
            h ^= h >> _SHIFT
        h *= _FINAL
        out[row] = h ^ (h >> _SHIFT)


@njit(cache=True, nogil=True)
def _find(table_keys, table_owners, table_counts, key, owner, slot):
    """First slot, from `slot` on, that holds this key of this owner or is empty."""
    mask = len(table_keys) - 1
    while table_counts[slot] > 0 and (table_keys[slot] != key or table_owners[slot] != owner):
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _home(table_keys, key, owner):
    """First slot to search for this key of this owner."""
    return (key ^ (owner * _SPREAD)) & (len(table_keys) - 1)


@njit(cache=True, nogil=True)
def count_visits(table_keys, table_owners, table_counts, keys, owners, valid, out):
    """Count `keys` step by step; all columns of a step read the table before any is added.

    Args:
        table_keys: [C] int64, C a power of two and larger than the number of entries to hold.
        table_owners: [C] int64.
        table_counts: [C] int64, 0 in an empty slot.
        keys: [T, N] int64.
        owners: [T, N] int64; equal keys of different owners are counted separately.
        valid: [T, N] bool.
        out: [T, N] int64, is set to the visits so far including this one; unchanged if not valid.

    Returns:
        Number of slots filled.
    """
    T, N = keys.shape
    slots = np.empty(N, np.int64)
    filled = 0
    for t in range(T):
        for n in range(N):
            if valid[t, n]:
                key, owner = keys[t, n], owners[t, n]
                slot = _home(table_keys, key, owner)
                slot = _find(table_keys, table_owners, table_counts, key, owner, slot)
                slots[n] = slot
                out[t, n] = table_counts[slot] + 1
        for n in range(N):
            if valid[t, n]:
                key, owner = keys[t, n], owners[t, n]  # another environment may have added it
                slot = _find(table_keys, table_owners, table_counts, key, owner, slots[n])
                if table_counts[slot] == 0:
                    table_keys[slot], table_owners[slot] = key, owner
                    filled += 1
                table_counts[slot] += 1
    return filled


@njit(cache=True, nogil=True)
def look_up_counts(table_keys, table_owners, table_counts, keys, owner, out):
    """Write the counts of an owner's `keys` [R] int64 to `out` [R] int64; 0 for unknown keys."""
    for i in range(len(keys)):
        slot = _home(table_keys, keys[i], owner)
        out[i] = table_counts[_find(table_keys, table_owners, table_counts, keys[i], owner, slot)]


@njit(cache=True, nogil=True)
def move_entries(keys, owners, counts, new_keys, new_owners, new_counts):
    """Insert entries [R] of distinct (key, owner) into an empty table [C]; all int64."""
    for i in range(len(keys)):
        slot = _home(new_keys, keys[i], owners[i])
        slot = _find(new_keys, new_owners, new_counts, keys[i], owners[i], slot)
        new_keys[slot], new_owners[slot], new_counts[slot] = keys[i], owners[i], counts[i]
