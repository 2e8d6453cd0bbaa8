"""Similarities of sentences: by their words, or by sentence embeddings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Similarity = Callable[[Sequence[str], Sequence[str]], Tensor]
"""Maps A and B texts to their similarities [A, B] float32, at most 1."""

_WORD = re.compile(r"[a-z0-9$]+")


def word_similarity(first: Sequence[str], second: Sequence[str]) -> Tensor:
    """Cosines of the word counts of A and B texts: [A, B] float32; 0 for a text without words.

    Upper and lower case are the same, and articles do not count.

    >>> word_similarity(["picked up the red key"], ["picked up the red ball", "Picked up red key"])
    tensor([[0.7500, 1.0000]])
    """
    words = [_words(text) for text in (*first, *second)]
    index = {word: i for i, word in enumerate(sorted({w for each in words for w in each}))}
    counts = torch.zeros(len(words), max(len(index), 1), dtype=torch.float64)
    for row, each in enumerate(words):
        for word in each:
            counts[row, index[word]] += 1
    one, two = counts.split([len(first), len(second)])
    lengths = one.norm(dim=1)[:, None] * two.norm(dim=1)
    return (one @ two.T / lengths.clamp(min=1e-12)).float()


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in ("a", "an", "the")]


class EmbeddingSimilarity:
    """Cosines of sentence embeddings, which are computed once for each text.

    Args:
        embed: maps texts to vectors of length 1; a text's vector must not depend on the others.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Tensor]):
        self._embed, self._known = embed, dict[str, Tensor]()

    def __call__(self, first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Cosines of A and B texts: [A, B] float32."""
        if new := sorted({*first, *second} - self._known.keys()):
            self._known |= dict(zip(new, self._embed(new).float().cpu(), strict=True))
        if not first or not second:
            return torch.zeros(len(first), len(second))
        one, two = (torch.stack([self._known[text] for text in each]) for each in (first, second))
        # not a matrix product, whose last bits depend on the number of rows
        return torch.stack([(row * two).sum(-1) for row in one])
