"""Pairs of captions: drawn, compared by a judge, and read back as arrays, as Motif does."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from firstlight.envs.seeding import derive
from firstlight.intrinsic.language.annotation import AnnotationService
from firstlight.intrinsic.language.store import Item, LabelStore

BLOCK = 4096
"""Pairs that are drawn, asked and read at once; memory does not depend on how many there are."""

_HELD_BACK = 5  # one pair of so many


def draw_pairs(
    counts: np.ndarray, num_pairs: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw pairs of captions at random, each by how often it occurred.

    The same counts and seed give the same pairs, and a longer series begins with a shorter one.

    Args:
        counts: [C] int64, of the captions.
        num_pairs: pairs in all.
        seed: of the draws.

    Yields:
        Numbers of the first and of the second captions, [up to BLOCK] int64 each.
    """
    ends = counts.cumsum()
    random = np.random.default_rng(derive(seed, "pairs of captions"))
    for start in range(0, num_pairs, BLOCK):
        drawn = random.integers(0, int(ends[-1]), (BLOCK, 2))[: num_pairs - start]
        first, second = np.searchsorted(ends, drawn, side="right").T
        yield first, second


def pair_of(first: str, second: str) -> Item:
    """Return the item that two texts are compared under, whichever comes first."""
    return (first, second) if first < second else (second, first)


@dataclass(slots=True)
class PairCounts:
    """What became of the drawn pairs.

    Args:
        drawn: so far.
        ties: drawn pairs of equal captions, which are ties and are not asked.
        compared: drawn pairs of different captions that have an answer, new or known before.
        abstained: those of them for which the judge gave no label.
        complete: whether every pair has been answered.
    """

    drawn: int = 0
    ties: int = 0
    compared: int = 0
    abstained: int = 0
    complete: bool = False


def annotate_pairs(
    texts: Sequence[str],
    counts: np.ndarray,
    service: AnnotationService,
    *,
    num_pairs: int,
    seed: int,
    on_block: Callable[[PairCounts], None] = lambda _: None,
) -> PairCounts:
    """Have the drawn pairs compared; those that the store knows are not asked again.

    Ends early if the service has reached a limit or its judge has given up.

    Args:
        texts: C captions as a judge sees them.
        counts: [C] int64.
        service: started.
        num_pairs: pairs to draw.
        seed: of the draws.
        on_block: called after each block of pairs.
    """
    done = PairCounts()
    for first, second in draw_pairs(counts, num_pairs, seed):
        named = [(texts[i], texts[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
        items = Counter(pair_of(a, b) for a, b in named if a != b)
        service.submit(items)
        service.wait()
        answers = service.take()
        service.forget_answered()
        done.drawn += len(named)
        done.ties += len(named) - items.total()
        done.compared += sum(items[item] for item in answers)
        done.abstained += sum(items[item] for item, score in answers.items() if score is None)
        on_block(done)
        if len(answers) < len(items):
            return done
    done.complete = True
    return done


@dataclass(frozen=True, slots=True)
class ComparedPairs:
    """Comparisons of sentences, as arrays.

    Args:
        first: [P] int32, numbers of the first sentences.
        second: [P] int32.
        score: [P] float32, 0 if the first is better, 1 the second, 0.5 a tie.
        held_back: [P] bool, pairs to measure with; a pair that was drawn twice is in one part.
        missing: drawn pairs without an answer.
        abstained: drawn pairs on which the judge abstained.
        ties: drawn pairs of equal sentences; a model cannot learn from them.
    """

    first: np.ndarray
    second: np.ndarray
    score: np.ndarray
    held_back: np.ndarray
    missing: int
    abstained: int
    ties: int


def read_pairs(
    texts: Sequence[str],
    sentence_of: np.ndarray,
    counts: np.ndarray,
    store: LabelStore,
    judge: tuple[str, str],
    *,
    num_pairs: int,
    seed: int,
) -> ComparedPairs:
    """Read the comparisons of the drawn pairs from the store; a person's count first.

    Args:
        texts: C captions as a judge saw them.
        sentence_of: [C] int64, number of each caption's sentence; several captions may share one.
        counts: [C] int64.
        store: of the labels.
        judge: model and prompt that the labels are kept under.
        num_pairs: pairs to draw, as when they were annotated.
        seed: of the draws.
    """
    parts, missing, abstained, ties = [np.zeros((0, 4))], 0, 0, 0
    for first, second in draw_pairs(counts, num_pairs, seed):
        pairs = list(zip(first.tolist(), second.tolist(), strict=True))
        items = [pair_of(texts[i], texts[j]) for i, j in pairs]
        found = store.find(dict.fromkeys(x for x in items if x[0] != x[1]), *judge)
        rows: list[tuple[float, ...]] = []
        for (i, j), item in zip(pairs, items, strict=True):
            here, there = int(sentence_of[i]), int(sentence_of[j])
            if here == there:
                ties += 1
            elif item not in found:
                missing += 1
            elif (score := found[item]) is None:
                abstained += 1
            else:
                both = (here, there) if texts[i] == item[0] else (there, here)
                rows.append((*both, score, _is_held_back(here, there)))
        parts.append(np.array(rows, float).reshape(-1, 4))
    numbers = np.concatenate(parts).T
    return ComparedPairs(
        numbers[0].astype(np.int32),
        numbers[1].astype(np.int32),
        numbers[2].astype(np.float32),
        numbers[3].astype(bool),
        missing,
        abstained,
        ties,
    )


def _is_held_back(first: int, second: int) -> bool:
    """Whether the comparisons of two sentences, by their numbers, are for measuring only."""
    key = f"{min(first, second)} {max(first, second)}"
    return zlib.crc32(key.encode()) % _HELD_BACK == 0
