"""Judges without a language model: rules, labelled examples, and the measured texts."""

import pytest
import torch

from firstlight.intrinsic.language.judges.embedding_judge import (
    EmbeddingJudge,
    SentenceEmbedding,
    fit_logistic,
    read_examples,
)
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.judges.rule_judge import RuleJudge
from firstlight.scripts.benchmarks.judges import area_under_curve, measure
from firstlight.scripts.benchmarks.record_texts import sample


class Table(Judge):
    model, prompt = "table", ""

    def __init__(self, ratings):
        self.ratings = ratings

    def rate(self, texts):
        return [self.ratings[text] for text in texts]


@pytest.mark.parametrize(("family", "least"), [("minigrid", 100), ("nethack", 200)])
def test_the_labelled_texts_are_enough_and_a_third_is_held_back(family, least):
    rows, held_back = read_examples(family), read_examples(family, "held_back")
    assert len(rows) + len(held_back) >= least
    assert len(held_back) == round(0.3 * (len(rows) + len(held_back)))
    texts = [text for text, _ in rows + held_back]
    assert len(set(texts)) == len(texts)
    assert {label for _, label in rows} == {label for _, label in held_back} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("unlocked the red door", 1.0),
        ("opened the red door (task: go to the red door)", 1.0),
        ("opened the red door (task: go to the grey door)", 0.0),
        ("opened the red box", 0.0),
        ("picked up the red key (task: fetch a red ball)", 0.0),
        ("picked up the red ball (task: fetch a red ball)", 1.0),
        ("picked up the red ball (task: put the blue ball near the red ball)", 0.0),
        (
            "picked up the red key (task: use the key to open the door and then get to the goal)",
            1.0,
        ),
        ("dropped the red key", 0.0),
        ("closed the red door", 0.0),
        ("reached the goal", 1.0),
        ("fell into the lava", 0.0),
        ("sang a song", None),
        ("picked up the red key and sang", None),
    ],
)
def test_rules_of_minigrid(text, rating):
    assert RuleJudge("minigrid").rate([text]) == [rating]


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("You kill the newt!", 1.0),
        ("The kitten bites the newt.  The newt is killed!", 0.0),
        ("$ - 12 gold pieces.", 1.0),
        ("f - a scroll of light.", 1.0),
        ("f - a newt corpse.", None),
        ("The door opens.", 1.0),
        ("This door is locked.", 0.0),
        ("It's a wall.", 0.0),
        ("What do you want to eat? [dg or ?*] ", 0.0),
        ("Colourless green ideas sleep furiously", 0.0),
        ("Something altogether else", None),
    ],
)
def test_rules_of_nethack(text, rating):
    assert RuleJudge("nethack").rate([text]) == [rating]


def test_families_differ_in_their_prompt_hash():
    assert RuleJudge("minigrid").prompt != RuleJudge("nethack").prompt


def test_a_comparison_follows_the_ratings_and_asks_each_text_once():
    judge = Table({"a": 0.9, "b": 0.1, "c": 0.9, "d": None})
    pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("a", "d"), ("d", "d")]
    assert judge.compare(pairs) == [0.0, 1.0, 0.5, None, None]
    assert judge.answer([("a", "b")]) == [0.0]
    assert judge.answer([("a",)]) == [0.9]


def embed(texts):
    """Unit vectors by the counts of a few letters."""
    rows = [[text.count(letter) + 0.1 for letter in "abcdef"] for text in texts]
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def test_logistic_regression_is_at_the_minimum_of_its_objective():
    numbers = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 5, generator=numbers, dtype=torch.float64)
    labels = (torch.arange(20) % 4 == 0).double()
    weights = fit_logistic(inputs, labels, 10.0).requires_grad_()
    p = (inputs @ weights[:-1] + weights[-1]).sigmoid()
    each = torch.where(labels == 1, 20 / (2 * 5), 20 / (2 * 15))  # X / (2 X_class)
    loss = -(each * (labels * p.log() + (1 - labels) * (1 - p).log())).sum()
    (10 * loss + weights[:-1].square().sum() / 2).backward()
    assert weights.grad.abs().max() < 1e-3


def test_the_embedding_judge_tells_the_examples_apart_and_abstains_in_the_middle():
    judge = EmbeddingJudge([("aab", 1.0), ("ccd", 0.0)], embed=embed, margin=0.2)
    likely, unlikely, middle = judge.rate(["aaab", "cccd", "acbd"])
    assert likely > 0.7
    assert unlikely < 0.3
    assert middle is None
    assert judge.rate([]) == []


def test_other_examples_are_another_prompt():
    one, two = ([("a", 1.0), ("c", 0.0)], [("a", 1.0), ("d", 0.0)])
    assert EmbeddingJudge(one, embed=embed).prompt != EmbeddingJudge(two, embed=embed).prompt


@pytest.mark.parametrize("examples", [[], [("a", 1.0)], [("a", 1.0), ("b", 0.5)]])
def test_examples_of_both_kinds_are_needed(examples):
    with pytest.raises(ValueError, match="at least one with label 1"):
        EmbeddingJudge(examples, embed=embed)


def test_real_embeddings_rate_texts_that_nobody_labelled():
    before = torch.get_rng_state()
    embedding = SentenceEmbedding()
    assert torch.equal(torch.get_rng_state(), before)
    vectors = embedding(["a cat", "a kitten", "tax law"])
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    for family in ("minigrid", "nethack"):
        judge = EmbeddingJudge(read_examples(family), embed=embedding)
        found = measure(judge, read_examples(family, "held_back"))
        assert found["balanced"] > 0.7
        assert found["auc"] > 0.8


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    assert area_under_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert area_under_curve([0.5, 0.5], [0, 1]) == 0.5


def test_abstentions_are_counted_apart():
    judge = Table({"a": 1.0, "b": 0.0, "c": None, "d": 1.0})
    found = measure(judge, [("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", 0.0)])
    assert found["abstained"] == 0.25
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["balanced"] == 0.75


def test_the_sample_is_drawn_from_thirds_by_frequency():
    from collections import Counter

    counts = Counter({f"text {i}": 1000 - i for i in range(300)})
    drawn = sample(counts, 60)
    assert len({text for text, _ in drawn}) == 60
    third = Counter(int(text.split()[1]) // 100 for text, _ in drawn)
    assert third == {0: 24, 1: 18, 2: 18}
    assert sample(counts, 60) == drawn
    assert len(sample(counts, 1000)) == 300
