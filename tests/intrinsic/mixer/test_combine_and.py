"""`Product` and `Krc`: all bonuses at once, as a product and as a signed geometric mean."""

import math

import pytest
import torch
from hand_made import noise

from firstlight.intrinsic import Linear, RewardMixer, Sum, Term
from firstlight.intrinsic.mixer import Krc, Product


@pytest.mark.parametrize("heads", [True, False])
def test_a_product_multiplies_weighted_bonuses_beside_the_reward(rollout, heads):
    a, b = noise(rollout, 0), noise(rollout, 1)
    terms = {"reward": Term(weight=2.0), "a": Term(weight=0.5), "b": Term()}
    mixer = RewardMixer(terms, Product(heads=heads, gamma=0.9, episodic=False))
    rewards = mixer(rollout, {"a": a, "b": b})
    joined = 0.5 * a * b * rollout.valid
    if heads:
        assert rewards.streams == ("reward", "bonus")
        assert rewards.weight.tolist() == [2.0, 1.0]
        torch.testing.assert_close(rewards.reward[..., 1], joined)
        assert torch.equal(rewards.reward[..., 0], rollout.reward)
        assert (rewards.discount[..., 1] == torch.tensor(0.9)).all()
        assert (rewards.carry[..., 1] == 1).all()
    else:
        torch.testing.assert_close(rewards.reward[..., 0], 2 * rollout.reward + joined)
        assert mixer.num_streams == 1


def test_with_one_source_of_nonzero_weight_the_bonus_is_that_source(rollout):
    a, b = noise(rollout, 0), noise(rollout, 1)
    for combine in (Product(), Krc()):
        mixer = RewardMixer({"a": Term(), "b": Term(weight=Linear(1.0, 0.0, finish=0.5))}, combine)
        both = mixer(rollout, {"a": a, "b": b}).reward[..., 1]
        rest = mixer(rollout, {"a": a}, progress=1.0).reward[..., 1]
        assert torch.equal(rest, a * rollout.valid)
        assert not torch.equal(rest, both)


def test_without_bonuses_there_is_only_the_reward_stream(rollout):
    for combine in (Product(), Krc()):
        assert RewardMixer({}, combine)(rollout, {}).streams == ("reward",)


def naive_krc(values):
    size = math.prod(abs(v) for v in values) ** (1 / len(values))
    return size if all(v >= 0 for v in values) else -size


def test_krc_is_a_geometric_mean_negative_if_any_source_is(rollout):
    bonus = {name: noise(rollout, i, low=-0.4) for i, name in enumerate("abc")}
    rewards = RewardMixer({name: Term() for name in bonus}, Krc())(rollout, bonus)
    for t, n in rollout.valid.nonzero().tolist():
        expected = naive_krc([bonus[name][t, n].item() for name in bonus])
        assert rewards.reward[t, n, 1].item() == pytest.approx(expected, abs=1e-5)
    both = rewards.reward[..., 1]
    assert both.abs().max() <= 1
    signs = torch.stack([values < 0 for values in bonus.values()]).sum(0)
    assert (both[rollout.valid & (signs == 2)] < 0).all()  # two negatives do not cancel
    assert (both[rollout.valid & (signs == 0)] > 0).all()


def test_krc_prefers_balanced_sources_and_a_sum_does_not(rollout):
    balanced, lopsided = (0.5, 0.5), (1.0, 0.1)

    def value(combine, pair):
        bonus = {n: torch.full_like(rollout.reward, v) for n, v in zip("ab", pair, strict=True)}
        terms = {"reward": Term(weight=0.0), "a": Term(), "b": Term()}
        return RewardMixer(terms, combine)(rollout, bonus).reward[rollout.valid][0, -1].item()

    assert value(Sum(), lopsided) > value(Sum(), balanced)
    assert value(Krc(), lopsided) < value(Krc(), balanced)
    assert value(Krc(), (0.0, 1.0)) == 0
