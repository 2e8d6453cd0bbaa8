"""Sources joined into one bonus: their shares, contributions, correlations and budgets."""

import math

import numpy as np
import pytest
import torch
from hand_made import noise

from firstlight.intrinsic import Heads, RewardMixer, Sum, Term
from firstlight.intrinsic.mixer import Krc, Product, ShareCap

JOINING = {
    "product": Product,
    "product, one head": lambda: Product(heads=False),
    "krc": Krc,
    "krc, one head": lambda: Krc(heads=False),
}
joining = pytest.mark.parametrize("make", JOINING.values(), ids=JOINING)


def metrics_of(rollout, terms, combine, bonus):
    mixer = RewardMixer(terms, combine)
    return mixer.update(rollout, mixer(rollout, bonus))


def naive_sizes(rollout, weights, bonus, combine):
    """Mean size of the weighted reward and of the bonus, row by row."""
    task = joint = count = 0.0
    for t, n in rollout.valid.nonzero().tolist():
        factors = [weights[name] * values[t, n].item() for name, values in bonus.items()]
        size = abs(math.prod(factors))
        joint += size if isinstance(combine, Product) else size ** (1 / len(factors))
        task += abs(weights["reward"] * rollout.reward[t, n].item())
        count += 1
    return task / count, joint / count


@joining
def test_joined_sources_have_equal_parts_of_the_share_of_their_bonus(rollout, make):
    weights = {"reward": 0.5, "a": 2.0, "b": 0.3, "c": 0.7}
    bonus = {name: noise(rollout, i) for i, name in enumerate("abc")}
    terms = {name: Term(weight=weight) for name, weight in weights.items()}
    metrics = metrics_of(rollout, terms, make(), bonus)
    task, joint = naive_sizes(rollout, weights, bonus, make())
    assert metrics["reward/reward/share"] == pytest.approx(task / (task + joint), rel=1e-4)
    for name in "abc":
        share = metrics[f"reward/{name}/share"]
        assert share == pytest.approx(joint / (task + joint) / 3, rel=1e-4)


@joining
def test_contributions_add_up_to_the_weighted_reward(rollout, make):
    terms = {"reward": Term(weight=0.5), "a": Term(weight=2.0), "b": Term(weight=0.3)}
    bonus = {"a": noise(rollout) - 0.3, "b": noise(rollout, 1)}
    rewards = RewardMixer(terms, make())(rollout, bonus)
    expected = (rewards.reward * rewards.weight).sum(-1)
    torch.testing.assert_close(sum(rewards.contributed.values()), expected)
    for combine in (Sum(), Heads()):
        rewards = RewardMixer(terms, combine)(rollout, bonus)
        expected = (rewards.reward * rewards.weight).sum(-1)
        torch.testing.assert_close(sum(rewards.contributed.values()), expected)


@joining
def test_shares_do_not_depend_on_units_that_cancel_in_the_bonus(rollout, make):
    terms = {"a": Term(), "b": Term()}
    a, b = noise(rollout), noise(rollout, 1)
    here = metrics_of(rollout, terms, make(), {"a": a, "b": b})
    there = metrics_of(rollout, terms, make(), {"a": 1e4 * a, "b": 1e-4 * b})
    for name in ("reward", "a", "b"):
        tag = f"reward/{name}/share"
        assert here[tag] == pytest.approx(there[tag], rel=1e-4)


@joining
def test_the_correlation_with_the_bonus_is_high_for_the_deciding_factor(rollout, make):
    gate = (noise(rollout) < 0.1).float()
    bonus = {
        "gate": gate,
        "wide": 0.5 + noise(rollout, 1),
        "flat": torch.full_like(gate, 0.3),
    }
    mixer = RewardMixer({name: Term() for name in bonus}, make())
    rewards = mixer(rollout, bonus)
    metrics = mixer.update(rollout, rewards)
    factors = np.stack([values[rollout.valid].double().numpy() for values in bonus.values()])
    joined = factors.prod(0) if isinstance(mixer.combine, Product) else factors.prod(0) ** (1 / 3)
    for name, values in zip(bonus, factors, strict=True):
        tag = f"reward/{name}/correlation_joined"
        if name == "flat":
            assert tag not in metrics
        else:
            assert metrics[tag] == pytest.approx(np.corrcoef(values, joined)[0, 1], abs=1e-4)
    assert metrics["reward/gate/correlation_joined"] > 0.9
    assert abs(metrics["reward/wide/correlation_joined"]) < 0.5
    assert "reward/reward/correlation_joined" not in metrics
    alone = metrics_of(rollout, {"gate": Term()}, make(), {"gate": gate})
    assert "reward/gate/correlation_joined" not in alone


def test_it_is_logged_for_many_joined_sources_and_never_for_added_ones(rollout):
    bonus = {name: noise(rollout, i) for i, name in enumerate("abcdefg")}
    terms = {name: Term() for name in bonus}
    found = [t for t in metrics_of(rollout, terms, Product(), bonus) if "correlation" in t]
    assert found == [f"reward/{name}/correlation_joined" for name in bonus]
    for combine in (Sum(), Heads()):
        assert combine.joint(bonus, dict.fromkeys(bonus, 1.0)) is None
        added = metrics_of(rollout, {"a": Term()}, combine, {"a": bonus["a"]})
        assert not any("joined" in tag for tag in added)


# relative budgets


@joining
@pytest.mark.parametrize("capped", ["a", "b", "ab", "ba"])
def test_an_exploding_joint_bonus_is_limited_to_its_share(rollout, make, capped):
    cap = {"a": 0.3, "b": 0.4}
    terms = {
        name: Term(weight=0.5, budget=ShareCap(share=cap[name]) if name in capped else None)
        for name in sorted(cap, reverse=capped == "ba")
    }
    bonus = {"a": noise(rollout), "b": noise(rollout, 1)}
    mixer, share = RewardMixer(terms, make()), min(cap[name] for name in capped)
    for loud in (1e-9, 1e6, 1.0):
        given = {"a": bonus["a"], "b": loud * bonus["b"]}
        metrics = mixer.update(rollout, mixer(rollout, given))
        joint = metrics["reward/a/share"] + metrics["reward/b/share"]
        if loud == 1e6:
            assert joint == pytest.approx(share, abs=1e-4)
            free = {name: Term(weight=0.5) for name in terms}
            assert metrics_of(rollout, free, make(), given)["reward/reward/share"] < 0.01
        else:
            assert joint <= share + 1e-4
    modest = {"a": bonus["a"], "b": 1e-9 * bonus["b"]}
    components = mixer(rollout, modest).components
    assert all(torch.equal(part.scaled, part.before_budget) for part in components.values())


@joining
def test_a_budget_keeps_signs_and_proportions_of_the_joint_bonus(rollout, make):
    bonus = {
        "a": noise(rollout) - 0.5,
        "b": (noise(rollout, 1) - 0.3).clamp(min=0) * 1e4,
    }
    free = RewardMixer({"a": Term(), "b": Term()}, make())(rollout, bonus).contributed["a"]
    terms = {"a": Term(), "b": Term(budget=ShareCap(share=0.2))}
    held = RewardMixer(terms, make())(rollout, bonus).contributed["a"]
    assert torch.isfinite(held).all()
    assert torch.equal(free.sign(), held.sign())
    ratio = (held / free)[free != 0]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
    assert ratio[0] < 0.1
