"""Find equal texts, and hash words and runs of consecutive words to numbers below a bound.

A word is a run of ASCII letters, digits and bytes of other alphabets, in lower case. Its hash is a
polynomial in its bytes modulo 2^64, so that words in any batch can be hashed at once. `hash_bytes`
loops over bytes on the CPU; `hash_tensor` computes the same on any device.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

_BASE = np.int64(0x01000193_0000_01B3)  # odd, so that its powers never vanish modulo 2^64
_JOIN = np.int64(0x2545F491_4F6C_DD1D)
_MIX = np.int64(0x1B873593_CC9E_2D51)


@numba.njit(cache=True, nogil=True)
def _hash(texts, longest, buckets, ids, counts):
    total = 0
    recent = np.zeros(longest, np.int64)
    for b in range(texts.shape[0]):
        words, begin = 0, total
        value, power = np.int64(0), np.int64(1)
        inside = False
        for i in range(texts.shape[1] + 1):
            letter = np.int64(texts[b, i]) if i < texts.shape[1] else np.int64(0)
            if 65 <= letter <= 90:
                letter += 32
            if 97 <= letter <= 122 or 48 <= letter <= 57 or letter >= 128:
                value += letter * power
                power *= _BASE
                inside = True
            elif inside:
                for k in range(min(words, longest - 1), 0, -1):
                    recent[k] = recent[k - 1]
                recent[0] = value
                words += 1
                joined = np.int64(0)
                for k in range(min(words, longest)):
                    joined = joined * _JOIN + recent[k]
                    mixed = (joined ^ (joined >> 29)) * _MIX
                    mixed = (mixed ^ (mixed >> 32)) * _JOIN
                    ids[total] = (mixed >> 32) % buckets
                    total += 1
                value, power, inside = np.int64(0), np.int64(1), False
        counts[b] = total - begin
    return total


@numba.njit(cache=True, nogil=True)
def _distinct(texts, slots, first, inverse):
    found = 0
    for b in range(texts.shape[0]):
        value = np.int64(0)
        for i in range(texts.shape[1]):
            value = (value ^ np.int64(texts[b, i])) * _BASE
        slot = (value ^ (value >> 32)) & (slots.shape[0] - 1)
        while True:
            known = slots[slot]
            if known < 0:
                slots[slot] = known = found
                first[found] = b
                found += 1
                break
            same = True
            for i in range(texts.shape[1]):
                if texts[first[known], i] != texts[b, i]:
                    same = False
                    break
            if same:
                break
            slot = (slot + 1) & (slots.shape[0] - 1)
        inverse[b] = known
    return found


def distinct_rows(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct texts of [B, size] uint8, in the order in which they occur.

    Returns:
        The row of the first of each, [D] int64, and which of them each text is, [B] int64.
    """
    slots = np.full(1 << (2 * len(texts)).bit_length(), -1, np.int64)  # at most half are taken
    first, inverse = np.empty(len(texts), np.int64), np.empty(len(texts), np.int64)
    return first[: _distinct(texts, slots, first, inverse)], inverse


def hash_bytes(texts: np.ndarray, longest: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the words of texts and each run of up to `longest` words.

    Args:
        texts: [B, size] uint8.
        longest: words in the longest run, at least 1.
        buckets: bound of the hashes.

    Returns:
        Hashes [F] int64 of one text after another: of each word as it ends, then of the word with
        the one before it, with the two before it, and so on. And how many each text has, [B] int64.
    """
    most = (texts.shape[1] + 1) // 2 * longest  # every second byte ends a word
    ids, counts = np.empty(len(texts) * most, np.int64), np.empty(len(texts), np.int64)
    return ids[: _hash(texts, longest, buckets, ids, counts)], counts


def hash_tensor(texts: Tensor, longest: int, buckets: int) -> tuple[Tensor, Tensor]:
    """Hash words as `hash_bytes` does, by torch operations on the device of `texts`."""
    B, size = texts.shape
    letters = texts.long()
    letters = letters + 32 * ((letters >= 65) & (letters <= 90))
    inside = (letters >= 97) & (letters <= 122) | (letters >= 48) & (letters <= 57)
    inside |= letters >= 128
    place = torch.arange(size, device=texts.device)
    before = torch.where(inside, -1, place).cummax(1).values  # the last byte outside of words
    at = (place - before - 1).clamp(min=0)  # place in the word
    powers = torch.ones(size, dtype=torch.int64, device=texts.device)
    powers[1:] = int(_BASE)
    parts = torch.where(inside, letters * powers.cumprod(0)[at], 0)
    starts = inside.clone()
    starts[:, 1:] &= ~inside[:, :-1]
    word = (starts.cumsum(1) - 1).clamp(min=0)
    most = (size + 1) // 2
    values = torch.zeros((B, most), dtype=torch.int64, device=texts.device)
    values.scatter_add_(1, word, parts)
    numbers = torch.arange(most, device=texts.device)
    there = numbers < starts.sum(1, keepdim=True)
    joined, hashes, kept = torch.zeros_like(values), [], []
    for k in range(longest):  # the word k before this one
        earlier = torch.zeros_like(values)
        earlier[:, k:] = values[:, : most - k]
        joined = joined * int(_JOIN) + earlier
        mixed = (joined ^ (joined >> 29)) * int(_MIX)
        mixed = (mixed ^ (mixed >> 32)) * int(_JOIN)
        hashes.append((mixed >> 32) % buckets)
        kept.append(there & (numbers >= k))
    mask = torch.stack(kept, 2)
    return torch.stack(hashes, 2)[mask], mask.sum((1, 2))
