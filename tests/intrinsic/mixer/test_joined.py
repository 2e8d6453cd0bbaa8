"""Sources that are joined into one bonus: their shares, their budgets, and who is warned of."""

import logging
import math

import numpy as np
import pytest
import torch

from firstlight import envs
from firstlight.intrinsic import Heads, RewardMixer, Sum, Term
from firstlight.intrinsic.mixer import Krc, Product, ShareCap

JOINING = {
    "product": Product,
    "product, one head": lambda: Product(heads=False),
    "krc": Krc,
    "krc, one head": lambda: Krc(heads=False),
}
joining = pytest.mark.parametrize("make", JOINING.values(), ids=JOINING)


@pytest.fixture
def rollout():
    vec = envs.Chain(6, length=2, autoreset="next_step")
    rollout = envs.Runner(vec).collect(envs.RandomActor(vec.act_space), 40)
    assert not rollout.valid.all()
    assert rollout.reward.any()
    return rollout


def noise(rollout, seed=0):
    return torch.rand(rollout.reward.shape, generator=torch.Generator().manual_seed(seed))


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
def test_shares_are_of_what_is_learnt_from_and_factors_have_equal_parts(rollout, make):
    weights = {"reward": 0.5, "a": 2.0, "b": 0.3, "c": 0.7}
    bonus = {name: noise(rollout, i) for i, name in enumerate("abc")}
    terms = {name: Term(weight=weight) for name, weight in weights.items()}
    metrics = metrics_of(rollout, terms, make(), bonus)
    task, joint = naive_sizes(rollout, weights, bonus, make())
    assert metrics["reward/reward/share"] == pytest.approx(task / (task + joint), rel=1e-4)
    for name in "abc":
        own = metrics[f"reward/{name}/share"]
        assert own == pytest.approx(joint / (task + joint) / 3, rel=1e-4)


@joining
def test_what_sources_contribute_adds_up_to_what_is_learnt_from(rollout, make):
    terms = {"reward": Term(weight=0.5), "a": Term(weight=2.0), "b": Term(weight=0.3)}
    bonus = {"a": noise(rollout) - 0.3, "b": noise(rollout, 1)}
    rewards = RewardMixer(terms, make())(rollout, bonus)
    heard = (rewards.reward * rewards.weight).sum(-1)
    torch.testing.assert_close(sum(rewards.contributed.values()), heard)
    for combine in (Sum(), Heads()):
        rewards = RewardMixer(terms, combine)(rollout, bonus)
        heard = (rewards.reward * rewards.weight).sum(-1)
        torch.testing.assert_close(sum(rewards.contributed.values()), heard)


@joining
def test_units_that_cancel_in_the_bonus_change_no_share(rollout, make):
    terms = {"a": Term(), "b": Term()}
    a, b = noise(rollout), noise(rollout, 1)
    here = metrics_of(rollout, terms, make(), {"a": a, "b": b})
    there = metrics_of(rollout, terms, make(), {"a": 1e4 * a, "b": 1e-4 * b})
    for name in ("reward", "a", "b"):
        tag = f"reward/{name}/share"
        assert here[tag] == pytest.approx(there[tag], rel=1e-4)


@joining
def test_the_correlation_with_the_bonus_tells_which_factor_decides(rollout, make):
    gate = (noise(rollout) < 0.1).float()
    bonus = {"gate": gate, "wide": 0.5 + noise(rollout, 1), "flat": torch.full_like(gate, 0.3)}
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


def test_it_is_logged_of_many_sources_too_and_never_where_sources_are_added(rollout):
    bonus = {name: noise(rollout, i) for i, name in enumerate("abcdefg")}
    terms = {name: Term() for name in bonus}
    found = [t for t in metrics_of(rollout, terms, Product(), bonus) if "correlation" in t]
    assert found == [f"reward/{name}/correlation_joined" for name in bonus]
    for combine in (Sum(), Heads()):
        assert combine.joint(bonus, dict.fromkeys(bonus, 1.0)) is None
        added = metrics_of(rollout, {"a": Term()}, combine, {"a": bonus["a"]})
        assert not any("joined" in tag for tag in added)


# a share of the whole


@joining
@pytest.mark.parametrize("capped", ["a", "b", "ab", "ba"])
def test_a_joined_bonus_that_explodes_is_held_to_its_share(rollout, make, capped):
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
def test_signs_and_gaps_of_a_bonus_survive_its_budget(rollout, make):
    bonus = {"a": noise(rollout) - 0.5, "b": (noise(rollout, 1) - 0.3).clamp(min=0) * 1e4}
    free = RewardMixer({"a": Term(), "b": Term()}, make())(rollout, bonus).contributed["a"]
    terms = {"a": Term(), "b": Term(budget=ShareCap(share=0.2))}
    held = RewardMixer(terms, make())(rollout, bonus).contributed["a"]
    assert torch.isfinite(held).all()
    assert torch.equal(free.sign(), held.sign())
    ratio = (held / free)[free != 0]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
    assert ratio[0] < 0.1


# who is warned of


def warnings(caplog):
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return lines


@joining
def test_a_joined_bonus_that_drowns_the_task_is_named_once_with_all_its_sources(
    rollout, make, caplog
):
    caplog.set_level(logging.WARNING)
    mixer = RewardMixer({"a": Term(), "b": Term()}, make())

    def iterate(size):
        bonus = {"a": 1e5 * size * noise(rollout), "b": 1e-5 * size * noise(rollout, 1)}
        mixer.update(rollout, mixer(rollout, bonus))
        return warnings(caplog)

    assert iterate(0.1) == []  # large in its own units, small in the bonus
    (line,) = iterate(1e3)
    assert "sources 'a' and 'b' together make 100.0%" in line
    assert iterate(1e3) == []
    assert iterate(0.1) == []
    assert len(iterate(1e3)) == 1
