"""Normalised streams: advantages against plain loops, units, invalid rows and shares."""

import dataclasses
import math

import pytest
import torch

from firstlight.intrinsic import Heads, RewardMixer, Term
from firstlight.intrinsic.mixer import EpisodeCap, Lagrangian, ShareCap

MIXED = {"reward": Term(weight=2.0), "a": Term(weight=0.5), "b": Term(weight=-0.25)}


def noise(rollout, seed=0, K=None):
    numbers = torch.Generator().manual_seed(seed)
    shape = rollout.reward.shape if K is None else (*rollout.reward.shape, K)
    return torch.randn(shape, generator=numbers)


def mixed(rollout, *, normalize=True, **changed):
    bonus = {name: noise(rollout, i) for i, name in enumerate("ab")} | changed
    return RewardMixer(MIXED, Heads(normalize=normalize))(rollout, bonus)


def naive(advantages, valid, weight, normalize):
    """[T][N] by plain loops over lists."""
    T, N, K = advantages.shape
    total = [[0.0] * N for _ in range(T)]
    for k in range(K):
        rows = [advantages[t, n, k].item() for t in range(T) for n in range(N) if valid[t, n]]
        mean, deviation = 0.0, 1.0
        if normalize[k]:
            mean = sum(rows) / len(rows)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in rows) / len(rows))
        for t in range(T):
            for n in range(N):
                total[t][n] += weight[k] * (advantages[t, n, k].item() - mean) / deviation
    return torch.tensor(total)


@pytest.mark.parametrize(
    "normalize", [(True, True, True), (False, False, False), (True, False, True)]
)
def test_advantages_are_normalised_weighted_and_added_as_by_plain_loops(rollout, normalize):
    rewards = dataclasses.replace(mixed(rollout), normalize=normalize)
    advantages = (noise(rollout, 7, K=3) + 3) * torch.tensor([1e-3, 1.0, 50.0])
    expected = naive(advantages, rollout.valid, [2.0, 0.5, -0.25], normalize)
    got = rewards.advantage(advantages, rollout.valid)
    torch.testing.assert_close(got[rollout.valid], expected[rollout.valid], rtol=1e-4, atol=1e-4)


def test_only_heads_and_lagrangian_normalise_and_only_if_set(rollout):
    assert mixed(rollout).normalize == (True, True, True)
    assert mixed(rollout, normalize=False).normalize == (False, False, False)
    assert RewardMixer(MIXED)(rollout, {n: noise(rollout) for n in "ab"}).normalize == (False,) * 3
    for normalize in (True, False):
        combine = Lagrangian(thresholds={"a": 1.0}, normalize=normalize)
        assert {stream.normalize for stream in RewardMixer(MIXED, combine).streams} == {normalize}


def test_scale_and_offset_of_a_stream_change_nothing(rollout):
    rewards, advantages = mixed(rollout), noise(rollout, 7, K=3)
    units = torch.tensor([1e-3, 1.0, 1e4])
    here = rewards.advantage(advantages, rollout.valid)
    there = rewards.advantage(advantages * units + torch.tensor([0.0, 5.0, -1e4]), rollout.valid)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
    plain = mixed(rollout, normalize=False)
    assert not torch.allclose(
        plain.advantage(advantages, rollout.valid),
        plain.advantage(advantages * units, rollout.valid),
    )


def test_rows_that_are_not_valid_are_not_counted(rollout):
    rewards, advantages = mixed(rollout), noise(rollout, 7, K=3)
    large = torch.where(rollout.valid[..., None], advantages, 1e6)
    here, there = (rewards.advantage(a, rollout.valid) for a in (advantages, large))
    assert torch.equal(here[rollout.valid], there[rollout.valid])
    nothing = rewards.advantage(advantages, torch.zeros_like(rollout.valid))
    assert torch.isfinite(nothing).all()


def test_a_stream_without_reward_is_not_normalised(rollout):
    """Before its first reward a stream's advantages are errors of its value head."""
    no_reward = dataclasses.replace(rollout, reward=torch.zeros_like(rollout.reward))
    errors = noise(rollout, 7, K=3) * torch.tensor([1e-4, 1.0, 1.0])
    for case, size in ((rollout, 2.0), (no_reward, 2e-4)):
        rewards = mixed(case)
        alone = dataclasses.replace(rewards, weight=rewards.weight * torch.tensor([1.0, 0, 0]))
        combined = alone.advantage(errors, case.valid)[case.valid]
        assert combined.std().item() == pytest.approx(size, rel=0.15)


def test_the_order_of_streams_does_not_matter(rollout):
    rewards, advantages, order = mixed(rollout), noise(rollout, 7, K=3), [2, 0, 1]
    swapped = dataclasses.replace(
        rewards, reward=rewards.reward[..., order], weight=rewards.weight[order]
    )
    torch.testing.assert_close(
        rewards.advantage(advantages, rollout.valid),
        swapped.advantage(advantages[..., order], rollout.valid),
    )


def test_share_caps_are_rejected_and_episode_caps_are_not():
    for combine in (Heads(normalize=True), Lagrangian(thresholds={"b": 1.0})):
        with pytest.raises(ValueError, match=r"'b' are normalised.*ShareCap"):
            RewardMixer({"b": Term(budget=ShareCap(share=0.5))}, combine)
        RewardMixer({"b": Term(budget=EpisodeCap(cap=0.5))}, combine)


def test_the_share_of_a_normalised_stream_is_the_share_of_its_weight(rollout):
    mixer = RewardMixer(MIXED, Heads(normalize=True))
    for scale in (1.0, 1e6):
        bonus = {"a": scale * noise(rollout), "b": noise(rollout, 1)}
        metrics = mixer.update(rollout, mixer(rollout, bonus))
        shares = [metrics[f"reward/{name}/share"] for name in MIXED]
        assert shares == pytest.approx([2 / 2.75, 0.5 / 2.75, 0.25 / 2.75])
    bonus["a"] = torch.zeros_like(rollout.reward)
    metrics = mixer.update(rollout, mixer(rollout, bonus))
    assert metrics["reward/a/share"] == 0
    assert metrics["reward/reward/share"] == pytest.approx(2 / 2.25)
