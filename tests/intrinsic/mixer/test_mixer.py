"""`RewardMixer`: what it adds, what it leaves unchanged, its metrics, and what it rejects."""

import dataclasses
import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from hand_made import noise

from firstlight.intrinsic import (
    Heads,
    Linear,
    ReturnScale,
    RewardMixer,
    Streams,
    Sum,
    Term,
    shaping,
)
from firstlight.intrinsic import mixer as mixer_package
from firstlight.intrinsic.mixer import EpisodeCap, SoftMin, ZScore


def test_sum_is_a_hand_added_reward_bit_for_bit(rollout):
    a, b = noise(rollout, 0), noise(rollout, 1)
    mixer = RewardMixer({"reward": Term(), "a": Term(weight=0.3), "b": Term(weight=0.7)}, Sum())
    rewards = mixer(rollout, {"a": a, "b": b})
    by_hand = rollout.reward + a * 0.3 + b * 0.7
    assert torch.equal(rewards.reward[..., 0], torch.where(rollout.valid, by_hand, 0.0))
    assert rewards.weight.tolist() == [1.0]
    assert mixer.num_streams == 1


def test_heads_leave_sources_unweighted_and_weight_the_advantages(rollout):
    bonus = noise(rollout)
    rewards = RewardMixer({"reward": Term(weight=2.0), "b": Term(weight=0.5)}, Heads())(
        rollout, {"b": bonus}
    )
    assert torch.equal(rewards.reward[..., 0], rollout.reward)
    assert torch.equal(rewards.reward[..., 1], bonus * rollout.valid)
    assert rewards.weight.tolist() == [2.0, 0.5]
    assert rewards.streams == ("reward", "b")


def test_permuting_the_terms_permutes_the_streams(rollout):
    terms = {"reward": Term(), "a": Term(weight=0.3, gamma=0.9), "b": Term(episodic=False)}
    bonus = {"a": noise(rollout, 0), "b": noise(rollout, 1)}
    straight = RewardMixer(terms, Heads())(rollout, bonus)
    swapped = RewardMixer({n: terms[n] for n in ("b", "reward", "a")}, Heads())(rollout, bonus)
    order = [straight.streams.index(name) for name in swapped.streams]
    for field in ("reward", "discount", "carry", "weight"):
        assert torch.equal(getattr(straight, field)[..., order], getattr(swapped, field))


def test_streams_sum_their_groups_and_reject_terms_that_do_not_fit(rollout):
    a, b = noise(rollout, 0), noise(rollout, 1)
    terms = {"reward": Term(), "a": Term(weight=0.3), "b": Term(weight=0.5, episodic=False)}
    rewards = RewardMixer(terms, Streams({"task": ["reward", "a"], "novelty": ["b"]}))(
        rollout, {"a": a, "b": b}
    )
    assert torch.equal(rewards.reward[..., 0], (rollout.reward + 0.3 * a) * rollout.valid)
    assert torch.equal(rewards.reward[..., 1], 0.5 * b * rollout.valid)
    with pytest.raises(ValueError, match="differ in gamma or episodic"):
        RewardMixer(terms, Streams({"task": ["reward", "b"], "novelty": ["a"]}))
    with pytest.raises(ValueError, match="sources are"):
        RewardMixer(terms, Streams({"task": ["reward", "a"]}))


def test_episode_ends_become_discount_and_carry(rollout):
    terms = {"reward": Term(gamma=0.9), "b": Term(gamma=0.8, episodic=False)}
    rewards = RewardMixer(terms)(rollout, {"b": noise(rollout)})
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    expected = torch.where(rollout.terminated, 0.0, 0.9)
    assert torch.equal(rewards.discount[..., 0], expected)
    assert (rewards.discount[..., 1] == 0.8).all()
    assert torch.equal(rewards.carry[..., 0] == 0, rollout.terminated | rollout.truncated)
    assert (rewards.carry[..., 1] == 1).all()


@pytest.mark.parametrize("combine", [Sum(), Heads(), Streams({"all": ["reward", "b"]})])
def test_weight_zero_needs_no_bonus_and_adds_nothing(rollout, combine):
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.0)}, combine)
    rewards = mixer(rollout, {})
    assert torch.equal(rewards.reward[..., 0], rollout.reward)
    assert set(rewards.components) == {"reward"}
    assert not mixer.active("b", 0.0)
    if rewards.reward.shape[-1] == 2:
        assert rewards.weight.tolist() == [1.0, 0.0]
        assert not rewards.reward[..., 1].any()


def test_a_scheduled_weight_follows_progress(rollout):
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=Linear(1.0, 0.0, finish=0.5))}, Heads())
    bonus = {"b": noise(rollout)}
    weights = [mixer(rollout, bonus, progress).weight[1].item() for progress in (0, 0.25, 0.5, 1)]
    assert weights == [1.0, 0.5, 0.0, 0.0]


def test_the_environments_reward_is_never_touched(rollout):
    before = rollout.reward.clone()
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=10.0, clip=0.1)}, Sum())
    mixer.update(rollout, mixer(rollout, {"b": noise(rollout)}))
    assert torch.equal(rollout.reward, before)


def test_order_within_a_term_is_reduce_transform_clip(rollout):
    members = torch.stack([noise(rollout, i) for i in range(3)], -1)

    class Double(torch.nn.Module):
        def forward(self, raw, rollout):
            return 2 * raw

        def update(self, raw, rollout):
            pass

    term = Term(transform=Double(), clip=0.9)
    part = RewardMixer({"b": term})(rollout, {"b": members}).components["b"]
    mean = members.mean(-1) * rollout.valid
    torch.testing.assert_close(part.raw, mean)
    torch.testing.assert_close(part.scaled, (2 * mean).clamp(max=0.9))


def test_soft_minimum_lies_between_worst_case_and_mean(rollout):
    members = torch.stack([noise(rollout, i) for i in range(4)], -1)

    def reduced(beta):
        term = Term(reduce=SoftMin(beta=beta))
        return RewardMixer({"b": term})(rollout, {"b": members}).components["b"].raw[rollout.valid]

    valid = members[rollout.valid]
    torch.testing.assert_close(reduced(1e-2), valid.mean(-1), atol=1e-2, rtol=0)
    torch.testing.assert_close(reduced(1e4), valid.min(-1).values, atol=1e-3, rtol=0)
    assert (reduced(3.0) <= valid.mean(-1) + 1e-6).all()
    assert (reduced(3.0) >= valid.min(-1).values - 1e-6).all()


def test_forward_is_pure_and_update_stores(rollout):
    mixer = RewardMixer({"rnd": Term(transform=ReturnScale(0.99))})
    bonus = {"rnd": noise(rollout)}
    before = {k: v.clone() for k, v in mixer.state_dict().items()}
    first = mixer(rollout, bonus)
    assert all(torch.equal(v, before[k]) for k, v in mixer.state_dict().items())
    assert torch.equal(first.reward, mixer(rollout, bonus).reward)
    mixer.update(rollout, first)
    assert not all(torch.equal(v, before.get(k)) for k, v in mixer.state_dict().items())


def test_statistics_are_restored_from_a_state_dict(rollout):
    def fresh():
        return RewardMixer({"rnd": Term(transform=ReturnScale(0.99))})

    mixer, bonus = fresh(), {"rnd": noise(rollout)}
    mixer.update(rollout, mixer(rollout, bonus))
    other = fresh()
    other.load_state_dict(mixer.state_dict())
    assert torch.equal(mixer(rollout, bonus).reward, other(rollout, bonus).reward)


def test_shares_add_up_to_1_and_raw_is_the_mean_over_valid_rows(rollout):
    bonus = noise(rollout) + 1
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.5)})
    metrics = mixer.update(rollout, mixer(rollout, {"b": bonus}))
    assert metrics["reward/b/raw"] == pytest.approx(bonus[rollout.valid].mean().item())
    assert metrics["reward/b/weighted"] == pytest.approx(0.5 * metrics["reward/b/scaled"])
    assert metrics["reward/b/share"] + metrics["reward/reward/share"] == pytest.approx(1.0)


def test_sparsity_is_the_fraction_of_rows_with_raw_value_0(rollout):
    bonus = torch.where(noise(rollout) < 0.25, 0.0, noise(rollout, 1) + 1)
    mixer = RewardMixer({"reward": Term(), "b": Term(transform=ZScore())})
    metrics = mixer.update(rollout, mixer(rollout, {"b": bonus}))
    silent = (bonus[rollout.valid] == 0).float().mean().item()
    assert 0.2 < silent < 0.3
    assert metrics["reward/b/sparsity"] == pytest.approx(silent)
    assert metrics["reward/reward/sparsity"] > 0.8


def test_correlations_of_pairs_are_those_of_valid_rows_and_a_constant_has_none(rollout):
    a, b = noise(rollout, 0), noise(rollout, 1)
    bonus = {"a": a, "twin": 3 * a + 1, "foe": 1 - a, "b": b, "flat": torch.full_like(a, 0.3)}
    bonus = {n: torch.where(rollout.valid, v, 77.0) for n, v in bonus.items()}
    mixer = RewardMixer({"reward": Term(), **{name: Term() for name in bonus}})
    metrics = mixer.update(rollout, mixer(rollout, bonus))
    found = {k: v for k, v in metrics.items() if "correlation" in k}
    assert len(found) == 10  # of five that vary
    assert found["reward/a/correlation_twin"] == pytest.approx(1, abs=1e-5)
    assert found["reward/a/correlation_foe"] == pytest.approx(-1, abs=1e-5)
    pair = torch.stack([a[rollout.valid], b[rollout.valid]])
    assert found["reward/a/correlation_b"] == pytest.approx(pair.corrcoef()[0, 1].item(), abs=1e-5)


def test_more_than_six_sources_are_not_paired(rollout):
    bonus = {name: noise(rollout, i) for i, name in enumerate("abcdef")}
    mixer = RewardMixer({"reward": Term(), **{name: Term() for name in bonus}})
    metrics = mixer.update(rollout, mixer(rollout, bonus))
    assert not any("correlation" in tag for tag in metrics)
    del bonus["f"]
    mixer = RewardMixer({"reward": Term(), **{name: Term() for name in bonus}})
    assert sum("correlation" in t for t in mixer.update(rollout, mixer(rollout, bonus))) == 15


def test_metrics_of_a_rollout_without_valid_rows_are_finite(rollout):
    idle = dataclasses.replace(rollout, valid=torch.zeros_like(rollout.valid))
    mixer = RewardMixer({"b": Term(transform=ZScore(), budget=[EpisodeCap(cap=1.0)])})
    metrics = mixer.update(idle, mixer(idle, {"b": noise(rollout)}))
    assert all(math.isfinite(value) for value in metrics.values())


def test_invalid_sources_are_reported_by_name(rollout):
    mixer = RewardMixer({"b": Term()})
    with pytest.raises(ValueError, match="no term for"):
        mixer(rollout, {"b": noise(rollout), "c": noise(rollout)})
    with pytest.raises(ValueError, match="gave no bonus"):
        mixer(rollout, {})
    with pytest.raises(ValueError, match="shape"):
        mixer(rollout, {"b": noise(rollout).T})


def test_a_transform_that_ignores_valid_still_gives_0_on_invalid_rows(rollout):
    class Shift(torch.nn.Module):
        def forward(self, raw, rollout):
            return raw + 1

        def update(self, raw, rollout):
            pass

    rewards = RewardMixer({"b": Term(transform=Shift())})(rollout, {"b": noise(rollout)})
    assert not rewards.reward[~rollout.valid].any()
    assert (rewards.reward[rollout.valid][:, 1] >= 1).all()


def test_invalid_rows_have_no_reward(rollout):
    assert not rollout.valid.all()
    loud = dataclasses.replace(rollout, reward=torch.full_like(rollout.reward, 7.0))
    rewards = RewardMixer({"b": Term()})(loud, {"b": noise(rollout) + 1})
    assert not rewards.reward[~rollout.valid].any()


DOCS = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")


def test_the_example_in_the_docs_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
    names = {}
    exec(code, names)  # our own text
    assert names["rewards"].reward.shape == (16, 4, 3)
    assert names["metrics"]["reward/count/share"] <= 0.5 + 1e-6


def test_the_docs_mention_every_public_name():
    parts = [
        *mixer_package.__all__,
        *(n for n, f in vars(shaping).items() if inspect.isfunction(f)),
    ]
    protocols = ("Component", "RewardMixer", "Rewards", "Schedule", "Stream", "Joint")
    wanted = set(parts) - {*protocols, "Budget", "Reduce", "Transform"}
    assert len(wanted) > 25
    assert {name for name in wanted if f"`{name}" not in DOCS} == set()
