"""Reward models: what they learn from labels, and what they give before and after."""

import math

import pytest
import torch

from firstlight.intrinsic.language.reward_models import (
    CharacterCNN,
    Classification,
    Ranking,
    Retrieval,
    text_bytes,
)

GOOD = [f"picked up the {colour} key" for colour in ("red", "green", "blue", "grey", "pink")]
BAD = [f"bumped into a {colour} wall" for colour in ("red", "green", "blue", "grey", "pink")]
SMALL = {"width": 8, "length": 54, "hidden": 16, "batch_size": 16, "lr": 3e-3}


def rated(good=1.0, bad=0.0):
    return {**{(x,): good for x in GOOD}, **{(x,): bad for x in BAD}}


def learnt(model, labels, times=8):
    model.add(labels)
    for _ in range(times):
        model.learn(True)
    return model


def test_texts_become_bytes_cut_off_and_padded():
    rows = text_bytes(["ab", "é☃", "", "long"], 3)
    assert rows.tolist() == [[97, 98, 0], [233, 63, 0], [0, 0, 0], [108, 111, 110]]


def test_the_network_reads_every_character_up_to_its_length():
    torch.manual_seed(0)
    network = CharacterCNN(8, 54)
    one = text_bytes(["a" * 54], 54)
    for at in (0, 20, 53):
        other = one.clone()
        other[0, at] = 98
        assert not torch.equal(network(one), network(other))
    with pytest.raises(ValueError, match="at least 27"):
        CharacterCNN(length=26)


def test_retrieval_looks_labels_up():
    model = Retrieval(threshold=0.5)
    assert model.add({("a",): 1.0, ("b",): 0.5, ("c",): None})
    assert model.rate(["a", "b", "c", "never seen"]).tolist() == [1, 0, 0, 0]
    assert model.add({("a",): 0.0})  # a person's correction
    assert model.rate(["a"]).tolist() == [0]
    assert not model.add({("a",): 0.0, ("d",): None})  # nothing to learn from


def test_the_order_in_which_answers_come_does_not_matter():
    one, two = Retrieval(), Retrieval()
    one.add(rated())
    two.add(dict(reversed(rated().items())))
    assert one.known() == two.known()


def test_classification_learns_labels_and_rates_texts_without_one():
    model = learnt(Classification(**SMALL), rated())
    assert model.rate(GOOD).tolist() == [1] * 5
    assert model.rate(BAD).tolist() == [0] * 5
    assert model.rate(["picked up the white key", "bumped into a white wall"]).tolist() == [1, 0]


def test_classification_gives_nothing_before_enough_labels():
    model = Classification(min_labels=3, threshold=0.0, **SMALL)  # η 0: everything else would pay
    assert model.rate(GOOD).tolist() == [0] * 5
    learnt(model, {(x,): 1.0 for x in GOOD} | {(x,): 0.0 for x in BAD[:2]})
    assert model.rate(GOOD).tolist() == [0] * 5
    learnt(model, {(BAD[2],): 0.0})
    assert model.rate(GOOD).tolist() == [1] * 5


def test_the_threshold_makes_a_classifier_pay_less():
    model = learnt(Classification(**SMALL), rated(), times=1)
    paid = []
    for threshold in (0.0, 0.3, 0.5, 0.7, 0.999999):
        model.threshold = threshold
        paid.append(float(model.rate([*GOOD, *BAD]).sum()))
    assert paid == sorted(paid, reverse=True)
    assert paid[0] == 10
    assert paid[-1] == 0


def test_a_relabelled_text_is_learnt_anew():
    model = learnt(Classification(**SMALL), rated())
    learnt(model, rated(good=0.0, bad=1.0), times=12)
    assert model.rate(GOOD).tolist() == [0] * 5
    assert model.rate(BAD).tolist() == [1] * 5


def test_many_labels_are_learnt_one_step_a_rollout(monkeypatch):
    model = Classification(**SMALL)
    model.add(rated())
    steps = []
    monkeypatch.setattr(model.fitter, "fit", lambda rows, loss: steps.append(rows) or 0.0)
    model.learn(True)
    model.learn(False)
    monkeypatch.setattr("firstlight.intrinsic.language.reward_models._FEW", 5)
    model.learn(False)
    model.learn(True)
    assert steps == [32 * 10, 10, 10]  # rows: steps times the ten labels


def comparisons():
    """Every pair of texts: good ones beat bad ones, of equals there are ties."""
    texts = [*GOOD, *BAD]
    quality = {**dict.fromkeys(GOOD, 1), **dict.fromkeys(BAD, 0)}
    pairs = [(a, b) for a in texts for b in texts if a < b]
    return {(a, b): (1 + quality[b] - quality[a]) / 2 for a, b in pairs}


def test_ranking_orders_texts_by_comparisons_and_ties_lie_together():
    model = learnt(Ranking(**SMALL), comparisons(), times=10)
    good, bad = model.raw(GOOD), model.raw(BAD)
    assert good.min() > bad.max() + 1
    assert max(good.std(), bad.std()) < (good.mean() - bad.mean()) / 4


def test_the_loss_of_ranking_is_that_of_bradley_and_terry():
    model = Ranking(**SMALL)
    first, second = model.bytes_of(["abc", "abz", "x"]), model.bytes_of(["xyz", "q", "y"])
    target = torch.tensor([0.0, 1.0, 0.5])
    r1, r2 = model.output(first).tolist(), model.output(second).tolist()
    total = 0.0
    for a, b, y in zip(r1, r2, target.tolist(), strict=True):
        better = math.exp(b) / (math.exp(a) + math.exp(b))
        total -= y * math.log(better) + (1 - y) * math.log(1 - better)
    assert model.loss([first, second], target).item() == pytest.approx(total / 3, rel=1e-5)


def test_ranking_pays_normalised_scores_above_the_threshold():
    model = Ranking(z_threshold=-10.0, **SMALL)
    assert model.rate(GOOD).tolist() == [0] * 5  # nothing before the first fit
    model.observe(model.raw(GOOD))
    learnt(model, comparisons(), times=4)
    seen = [*GOOD, *BAD, *BAD, *BAD]  # bad texts are met more often
    for part in (seen[:7], seen[7:]):
        model.observe(model.raw(part))
    raw = model.raw(seen)
    z = (raw - raw.mean()) / raw.std(unbiased=False)
    torch.testing.assert_close(model.rate(seen), z, rtol=1e-4, atol=1e-4)
    model.z_threshold = 0.0
    assert torch.equal(model.rate(seen) > 0, z > 0)
    assert (model.rate(seen)[z <= 0] == 0).all()
    model.z_threshold = float(z.max()) + 0.1
    assert not model.rate(seen).any()


@pytest.mark.parametrize("kind", [Classification, Ranking])
def test_a_loaded_model_goes_on_identically(kind):
    labels = rated() if kind is Classification else comparisons()
    model = learnt(kind(seed=1, **SMALL), labels, times=2)
    model.observe(model.raw(GOOD))
    loaded = kind(seed=2, **SMALL)
    loaded.load_state_dict(model.state_dict())
    for each in (model, loaded):
        each.learn(True)
    assert torch.equal(model.rate([*GOOD, *BAD]), loaded.rate([*GOOD, *BAD]))
    assert loaded.labels == model.labels


def test_building_a_model_draws_no_global_random_numbers():
    before = torch.get_rng_state()
    Classification(**SMALL)
    Ranking(**SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_k_is_checked():
    with pytest.raises(ValueError, match="min_labels is 0"):
        Classification(min_labels=0, **SMALL)
