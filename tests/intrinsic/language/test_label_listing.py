"""Finding and counting labels: the same as a loop over all of them."""

import random

import pytest

from firstlight.intrinsic.language.label_listing import (
    KINDS,
    LabelFilter,
    count_entries,
    count_labels,
    find_entries,
    kind_of,
    score_of,
)
from firstlight.intrinsic.language.store import PERSON, Label, LabelStore

TEXTS = ["a key", "A KEY!", "50 % of\nit", 'the "door"', "back\\slash", "under_score", "☃ key"]


@pytest.fixture(scope="module")
def store():
    made, rng = LabelStore(), random.Random(0)
    items = [(text,) for text in TEXTS] + [tuple(rng.sample(TEXTS, 2)) for _ in range(8)]
    for item in items:
        for judge in rng.sample(["one", "two"], rng.choice([1, 2])):
            score = rng.choice([None, 0.0, 0.5, 0.7, 1.0])
            made.put([Label(item, score, judge, rng.choice(["p1", "q2"]), time=rng.random())])
        if rng.random() < 0.4:
            made.correct(item, rng.choice([None, 0.0, 1.0]))
    made.correct(("only a person",), 1.0)
    yield made
    made.close()


def expected(store, chosen):
    """A loop over all labels."""
    labels = [*store.labels()]
    person = {label.item: label.score for label in labels if label.model == PERSON}
    judged = {label.item for label in labels if label.model != PERSON}
    found = []
    for label in labels:
        if label.model == PERSON and label.item in judged:
            continue
        score = person.get(label.item, label.score)
        fits = any(chosen.text.lower() in text.lower() for text in label.item)
        fits &= not chosen.label or kind_of(len(label.item), score) == chosen.label
        by = label.item in person if chosen.model == PERSON else label.model == chosen.model
        fits &= not chosen.model or by
        if fits and label.prompt.startswith(chosen.prompt):
            found.append((label.item, label.model, label.prompt))
    return sorted(found)


FILTERS = [
    LabelFilter(),
    *(LabelFilter(text=text) for text in ("key", "%", "_", "\\", '"', "\n", "☃", "nothing")),
    *(LabelFilter(label=kind) for kind in KINDS),
    LabelFilter(model="one"),
    LabelFilter(model=PERSON),
    LabelFilter(model=PERSON, label="unclear"),
    LabelFilter(prompt="p"),
    LabelFilter(text="key", label="helpful", model="two"),
]


@pytest.mark.parametrize("chosen", FILTERS, ids=str)
def test_a_filter_finds_what_a_loop_finds(store, chosen):
    found = find_entries(store, chosen)
    names = sorted((x.label.item, x.label.model, x.label.prompt) for x in found)
    assert names == expected(store, chosen)
    assert count_entries(store, chosen) == len(found)


def test_parts_make_the_whole(store):
    whole = find_entries(store, LabelFilter(), order="doubtful")
    parts = [
        x
        for at in range(0, len(whole) + 3, 3)
        for x in find_entries(store, LabelFilter(), order="doubtful", limit=3, offset=at)
    ]
    assert parts == whole
    assert len(whole) > 10


def test_doubtful_ones_come_first_and_corrected_ones_last(store):
    found = find_entries(store, LabelFilter(), order="doubtful")
    ranks = [
        (x.is_corrected, x.label.score is not None, abs((x.label.score or 0) - 0.5)) for x in found
    ]
    assert ranks == sorted(ranks, key=lambda rank: (rank[0], rank[1], rank[2] if rank[1] else 0))


def test_counts_are_those_of_a_loop(store):
    counts = {}
    for label in store.labels():
        key = (label.model, label.prompt, kind_of(len(label.item), label.score))
        counts[key] = counts.get(key, 0) + 1
    assert {row[:3]: row[3] for row in count_labels(store)} == counts


@pytest.mark.parametrize("kind", KINDS)
def test_words_and_scores_of_a_label_are_inverse(kind):
    length = 2 if kind in ("first", "tie", "second") else 1
    assert kind_of(length, score_of(kind)) == kind
