"""Pairs of captions: how they are drawn, asked once, and read back."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from firstlight.intrinsic.language import comparisons
from firstlight.intrinsic.language.annotation import AnnotationService
from firstlight.intrinsic.language.caption_counts import Caption, CaptionCounts
from firstlight.intrinsic.language.comparisons import (
    BLOCK,
    annotate_pairs,
    draw_pairs,
    pair_of,
    read_pairs,
)
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.limits import Limits
from firstlight.intrinsic.language.store import LabelStore

TEXTS = [f"text {i}" for i in range(6)]
COUNTS = np.array([1, 2, 3, 4, 0, 10])


class ByNumber(Judge):
    """Prefers the text with the higher number; ties and abstentions as told; remembers pairs."""

    model, prompt = "by number", "p"

    def __init__(self, abstain=()):
        self.asked, self.abstain = [], abstain

    def rate(self, texts):
        return [float(text[-1]) for text in texts]

    def compare(self, pairs):
        self.calls += 1
        self.asked += pairs
        answers = super().compare(pairs)
        return [None if x in self.abstain else y for x, y in zip(pairs, answers, strict=True)]


def annotate(judge, store, num_pairs=300, **options):
    service = AnnotationService(judge, store, batch_size=4, **options)
    service.start()
    done = annotate_pairs(TEXTS, COUNTS, service, num_pairs=num_pairs, seed=0)
    service.close()
    return done


def drawn(num_pairs, seed=0, counts=COUNTS):
    parts = [np.stack(pair, 1) for pair in draw_pairs(counts, num_pairs, seed)]
    assert all(len(part) <= BLOCK for part in parts)
    return np.concatenate(parts)


def test_captions_are_drawn_by_how_often_they_occurred():
    found = drawn(20_000)
    assert found.shape == (20_000, 2)
    for column in found.T:
        share = np.bincount(column, minlength=len(COUNTS)) / len(column)
        assert share == pytest.approx(COUNTS / COUNTS.sum(), abs=0.015)
    both = np.bincount(found[:, 0] * 6 + found[:, 1], minlength=36) / len(found)
    independent = np.outer(COUNTS, COUNTS).ravel() / COUNTS.sum() ** 2
    assert both == pytest.approx(independent, abs=0.015)


def test_a_longer_series_begins_with_the_shorter_one():
    assert np.array_equal(drawn(BLOCK + 100)[: BLOCK - 5], drawn(BLOCK - 5))
    assert not np.array_equal(drawn(100, seed=1), drawn(100))


def test_every_different_pair_is_asked_once_and_equal_ones_never():
    judge, store = ByNumber(), LabelStore()
    done = annotate(judge, store)
    pairs = [(TEXTS[i], TEXTS[j]) for i, j in drawn(300)]
    different = {pair_of(a, b) for a, b in pairs if a != b}
    assert set(judge.asked) == different
    assert len(judge.asked) == len(different)
    assert done.compared == 300 - done.ties
    assert done.ties == sum(a == b for a, b in pairs) > 0
    assert (done.drawn, done.complete) == (300, True)
    again = ByNumber()
    assert annotate(again, store) == done
    assert again.asked == []
    more = ByNumber()
    annotate(more, store, num_pairs=2000)
    assert not set(more.asked) & different


def test_a_limit_ends_the_asking_and_the_next_command_goes_on():
    judge, store = ByNumber(), LabelStore()
    done = annotate(judge, store, limits=Limits(calls=1))
    assert not done.complete
    assert len(judge.asked) == 4
    pairs = [pair_of(TEXTS[i], TEXTS[j]) for i, j in drawn(300)]
    assert done.compared == sum(pair in judge.asked for pair in pairs)
    rest = ByNumber()
    assert annotate(rest, store).complete
    assert not set(rest.asked) & set(judge.asked)


def test_memory_does_not_grow_with_the_number_of_pairs(monkeypatch):
    monkeypatch.setattr(comparisons, "BLOCK", 64)
    peaks = []
    for num_pairs in (128, 1024):
        judge, store = ByNumber(), LabelStore()
        service = AnnotationService(judge, store, batch_size=64)
        service.start()
        counts = np.ones(10_000, np.int64)
        tracemalloc.start()
        texts = [f"text {i}" for i in range(10_000)]
        annotate_pairs(texts, counts, service, num_pairs=num_pairs, seed=0)
        judge.asked.clear()
        peaks.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        service.close()
        assert len([*store.labels()]) > 0.9 * num_pairs
    assert peaks[1] - peaks[0] < 30_000  # a set of 1,000 pairs is larger


def test_comparisons_read_back_are_the_judges_and_a_person_wins():
    store = LabelStore()
    annotate(ByNumber(abstain=[("text 0", "text 1")]), store)
    store.correct(("text 2", "text 5"), 0.0)
    store.correct(("text 3", "text 5"), None)
    key = ("by number", "p")
    got = read_pairs(TEXTS, np.arange(6), COUNTS, store, key, num_pairs=300, seed=0)
    pairs = [tuple(sorted(row)) for row in drawn(300).tolist()]
    counts = Counter(pairs)
    assert got.ties == sum(n for (i, j), n in counts.items() if i == j)
    assert got.abstained == counts[0, 1] + counts[3, 5] > 0
    assert got.missing == 0
    assert len(got.score) == 300 - got.ties - got.abstained
    rows = list(zip(got.first.tolist(), got.second.tolist(), got.score.tolist(), strict=True))
    for i, j, score in rows:
        better = j > i if {i, j} != {2, 5} else j == 2
        assert score == float(better)
    assert Counter(tuple(sorted(row[:2])) for row in rows) == Counter(
        {x: n for x, n in counts.items() if x[0] != x[1] and x not in ((0, 1), (3, 5))}
    )
    parts = {}
    for i, j, held_back in zip(got.first, got.second, got.held_back, strict=True):
        parts.setdefault(frozenset((int(i), int(j))), set()).add(bool(held_back))
    assert all(len(part) == 1 for part in parts.values())  # no pair is in both parts


def test_a_pair_without_an_answer_is_missing():
    got = read_pairs(
        TEXTS, np.arange(6), COUNTS, LabelStore(), ("by number", "p"), num_pairs=300, seed=0
    )
    assert got.missing == 300 - got.ties
    assert len(got.score) == 0


def test_captions_with_one_sentence_are_equal_for_the_model():
    store = LabelStore()
    annotate(ByNumber(), store)
    halves = np.array([0, 0, 1, 1, 2, 2])
    got = read_pairs(TEXTS, halves, COUNTS, store, ("by number", "p"), num_pairs=300, seed=0)
    assert got.ties == sum(halves[i] == halves[j] for i, j in drawn(300))
    assert not (got.first == got.second).any()


def test_captions_and_steps_are_counted_together(tmp_path):
    counts = CaptionCounts(tmp_path / "sub/captions.sqlite")
    one, two = Caption("a"), Caption("a", "HP 3 of 4")
    counts.add("play", 10, {one: 2, two: 1})
    counts.add("play", 5, {one: 3})
    counts.add("other play", 7, {Caption("b"): 1})
    captions, numbers = counts.read()
    assert captions == [one, two, Caption("b")]
    assert numbers.tolist() == [5, 1, 1]
    assert (counts.steps("play"), counts.steps("other play"), counts.steps("none")) == (15, 7, 0)
    counts.note(family="minigrid", with_mission=True)
    assert (counts.fact("family"), counts.fact("with_mission"), counts.fact("x")) == (
        *("minigrid", True),
        None,
    )
    counts.close()
    assert [caption.text for caption in captions] == ["a", "a [HP 3 of 4]", "b"]


def test_counts_that_cannot_be_written_add_no_steps(tmp_path):
    counts = CaptionCounts(tmp_path / "captions.sqlite")
    with pytest.raises(Exception, match="NOT NULL"):
        counts.add("play", 10, {Caption("a"): None})
    counts.close()
    again = CaptionCounts(tmp_path / "captions.sqlite")
    assert again.steps("play") == 0
    assert again.read()[0] == []
    again.close()
