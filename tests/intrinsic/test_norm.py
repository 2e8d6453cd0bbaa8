"""Running moments, `ReturnScale`, `RecentScale` and `RewardScale` against plain loops."""

import dataclasses

import hand_made
import numpy as np
import pytest
import torch

from firstlight.intrinsic.mixer.terms import Transform
from firstlight.intrinsic.norm import RecentScale, ReturnScale, RewardScale
from firstlight.networks.normalisation import RunningMoments

PRIOR = 1e-4


def moments_of(x):
    """Mean and variance [D] of rows [R, D] and of a prior of mean 0 and variance 1."""
    x = np.asarray(x, np.float64)
    count = len(x) + PRIOR
    mean = x.sum(0) / count
    return mean, ((x**2).sum(0) + PRIOR) / count - mean**2


def blank(T, N, valid=None, env_ids=None):
    obs = {"obs": torch.zeros(T + 1, N)}
    return hand_made.rollout(obs, valid=valid, env_ids=env_ids)


@pytest.mark.parametrize("cuts", [[], [1], [0, 7, 7, 30], list(range(40))])
def test_moments_do_not_depend_on_the_batches(cuts):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 4 + 9
    moments = RunningMoments((3,))
    for part in torch.tensor_split(x, cuts):
        moments.update(part)
    mean, var = moments_of(x)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(moments.var, var, rtol=1e-9)
    assert float(moments.count) == pytest.approx(40 + PRIOR)


def test_moments_of_large_observations_are_merged_in_parts():
    x = torch.randint(0, 256, (5, 2**20), dtype=torch.uint8)
    moments = RunningMoments((2**10, 2**10))
    moments.update(x.view(5, 2**10, 2**10))
    mean, var = moments_of(x)
    np.testing.assert_allclose(moments.mean.flatten(), mean, rtol=1e-9)
    np.testing.assert_allclose(moments.var.flatten(), var, rtol=1e-7, atol=1e-9)


def test_merged_stores_nothing():
    moments = RunningMoments()
    merged = moments.merged(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert float(merged.mean) == pytest.approx(3.0, rel=1e-4)
    assert [float(moments.count), float(moments.mean), float(moments.var)] == [PRIOR, 0, 1]


def test_normalised_observations_have_unit_variance_and_are_clipped():
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 7 - 3
    moments = RunningMoments((2,))
    moments.update(x)
    z = moments.normalize(x, clip=2.0)
    assert z.dtype == torch.float32
    assert z.abs().max() == 2.0
    inside = z.abs() < 2
    np.testing.assert_allclose(
        (z * moments.var.sqrt() + moments.mean)[inside], x[inside], rtol=1e-4
    )


def test_a_constant_normalises_to_nearly_0():
    moments = RunningMoments((1,))
    moments.update(torch.full((500, 1), 200, dtype=torch.uint8))
    assert moments.normalize(torch.tensor([[200]], dtype=torch.uint8), 5.0).abs() < 0.1
    assert moments.normalize(torch.tensor([[0]], dtype=torch.uint8), 5.0) == -5


def test_returns_are_filtered_over_time_and_not_over_environments():
    """The golden case: CleanRL's RND filters its [T, N] buffer over N."""
    raw = torch.tensor([[1.0, 10.0, 5.0], [2.0, 20.0, 0.0]])
    returns = np.array([1, 10, 5, 0.5 * 1 + 2, 0.5 * 10 + 20, 0.5 * 5 + 0])
    _, var = moments_of(returns)
    scaled = ReturnScale(gamma=0.5)(raw, blank(2, 3))
    np.testing.assert_allclose(scaled, raw / np.sqrt(var), rtol=1e-6)
    across = np.array([1, 10.5, 10.25, 2, 21, 10.5])
    assert abs(moments_of(across)[1] / var - 1) > 0.1


def naive(rewards, gamma):
    """All filtered returns of rollouts of (raw, valid, env_ids), by plain loops."""
    last, seen = {}, []
    for raw, valid, env_ids in rewards:
        for t in range(raw.shape[0]):
            for n, env in enumerate(env_ids.tolist()):
                if valid[t, n]:
                    last[env] = gamma * last.get(env, 0.0) + float(raw[t, n])
                    seen.append(last[env])
    return np.array(seen)


def random_rewards(count, T=7, N=4):
    numbers = torch.Generator().manual_seed(1)
    for _ in range(count):
        valid = torch.rand(T, N, generator=numbers) < 0.8
        env_ids = torch.randperm(N + 2, generator=numbers)[:N]
        yield torch.randn(T, N, generator=numbers), valid, env_ids


def test_returns_continue_across_rollouts_and_episode_ends_by_environment_id():
    scale, rewards = ReturnScale(0.9), list(random_rewards(4))
    for i, (raw, valid, env_ids) in enumerate(rewards):
        rollout = blank(*raw.shape, valid, env_ids)
        ends = dataclasses.replace(
            rollout, is_first=torch.ones_like(rollout.is_first), truncated=valid.clone()
        )
        _, var = moments_of(naive(rewards[: i + 1], 0.9))
        expected = np.where(valid, raw / np.sqrt(var), 0)
        np.testing.assert_allclose(scale(raw, ends), expected, rtol=1e-5)
        scale.update(raw, ends)


def test_invalid_rows_do_not_change_returns():
    raw = torch.tensor([[1.0], [99.0], [2.0], [99.0], [3.0]])
    valid = torch.tensor([[True], [False], [True], [False], [True]])
    with_holes, without = ReturnScale(), ReturnScale()
    holes, dense = blank(5, 1, valid), blank(3, 1)
    scaled = with_holes(raw, holes)
    assert torch.equal(scaled[valid], without(raw[valid][:, None], dense)[:, 0])
    assert not scaled[~valid].any()
    with_holes.update(raw, holes)
    without.update(raw[valid][:, None], dense)
    assert torch.equal(with_holes.returns, without.returns)
    assert torch.equal(with_holes.moments.count, without.moments.count)


@pytest.mark.parametrize("make", [ReturnScale, RewardScale])
def test_scales_are_transforms_with_a_pure_forward_and_saved_statistics(make):
    scale, rewards = make(), list(random_rewards(3))
    assert isinstance(scale, Transform)
    for raw, valid, env_ids in rewards[:2]:
        rollout = blank(*raw.shape, valid, env_ids)
        before = {name: value.clone() for name, value in scale.state_dict().items()}
        first = scale(raw, rollout)
        assert all(torch.equal(before[name], value) for name, value in scale.state_dict().items())
        scale.update(raw, rollout)
        assert not torch.equal(before["moments.count"], scale.moments.count)
        assert first.dtype == torch.float32
    loaded = make()
    loaded.load_state_dict(scale.state_dict())
    raw, valid, env_ids = rewards[2]
    rollout = blank(*raw.shape, valid, env_ids)
    assert torch.equal(loaded(raw, rollout), scale(raw, rollout))


def test_reward_scale_divides_by_the_deviation_of_the_reward():
    scale, seen = RewardScale(), []
    for raw, valid, env_ids in random_rewards(3):
        rollout = blank(*raw.shape, valid, env_ids)
        seen += raw[valid].tolist()
        _, var = moments_of(seen)
        expected = np.where(valid, raw / np.sqrt(var), 0)
        np.testing.assert_allclose(scale(raw, rollout), expected, rtol=1e-5)
        scale.update(raw, rollout)


def test_a_rollout_without_valid_rows_does_not_change_a_scale():
    scale = ReturnScale()
    rollout = blank(3, 2, torch.zeros(3, 2, dtype=torch.bool))
    raw = torch.ones(3, 2)
    assert not scale(raw, rollout).any()
    scale.update(raw, rollout)
    assert float(scale.moments.count) == PRIOR
    assert not scale.returns.any()


def by_hand(memory, bonuses, valid, gamma):
    """Divisor of `RecentScale` after each rollout [T, N] of `bonuses`, by plain loops."""
    last, rollouts, divisors = {}, [], []
    for raw, counted in zip(bonuses, valid, strict=True):
        returns = []
        for t in range(len(raw)):
            for n in range(raw.shape[1]):
                if counted[t, n]:
                    last[n] = gamma * last.get(n, 0.0) + float(raw[t, n])
                    returns.append(last[n])
        rollouts.append(returns)
        recent = []
        for past in rollouts[::-1]:
            recent += past
            if len(recent) >= memory:
                break
        divisors.append(np.sqrt(np.mean(np.square(recent))))
    return divisors


@pytest.mark.parametrize("memory", [1, 50, 90, 10_000])
def test_recent_scale_divides_by_the_size_of_the_last_rollouts(memory):
    numbers = torch.Generator().manual_seed(0)
    bonuses = [torch.rand(12, 4, generator=numbers) * 0.7**i for i in range(8)]
    valid = [torch.rand(12, 4, generator=numbers) < 0.8 for _ in bonuses]
    scale = RecentScale(memory, gamma=0.9)
    for raw, counted, std in zip(bonuses, valid, by_hand(memory, bonuses, valid, 0.9), strict=True):
        rollout = blank(12, 4, valid=counted)
        before = {name: value.clone() for name, value in scale.state_dict().items()}
        scaled = scale(raw, rollout)
        assert all(torch.equal(value, before[n]) for n, value in scale.state_dict().items())
        torch.testing.assert_close(scaled, torch.where(counted, raw / np.float32(std), 0.0))
        scale.update(raw, rollout)


def test_a_bonus_that_shrinks_has_its_size_again_after_the_stated_memory():
    """With `ReturnScale` it stays small for ever."""
    recent, ever, sizes = RecentScale(400, gamma=0.9), ReturnScale(0.9), {}
    numbers = torch.Generator().manual_seed(0)
    for i in range(40):
        raw = torch.rand(20, 5, generator=numbers) * (1.0 if i < 10 else 1e-2)
        rollout = blank(20, 5)
        sizes[i] = [float(scale(raw, rollout).mean()) for scale in (recent, ever)]
        for scale in (recent, ever):
            scale.update(raw, rollout)
    assert sizes[10][0] < 0.05 * sizes[9][0]
    forgotten = 10 + 4 + 3  # 400 steps are 4 rollouts, and in 60 steps the sums forget 0.9^60
    assert sizes[forgotten][0] == pytest.approx(sizes[9][0], rel=0.4)
    assert sizes[39][1] < 0.05 * sizes[9][1]


def test_the_gain_of_recent_scale_is_bounded():
    numbers = torch.Generator().manual_seed(0)
    noise = torch.rand(20, 5, generator=numbers)
    scale, rollout = RecentScale(100, gamma=0.9, max_gain=50.0), blank(20, 5)
    scale.update(noise, rollout)
    expected = 1e-6 * noise * 50 / float(scale.largest)
    for _ in range(5):
        scale.update(1e-6 * noise, rollout)
    torch.testing.assert_close(scale(1e-6 * noise, rollout), expected)


def test_recent_scale_of_constant_and_absent_bonuses_is_finite():
    scale, rollout = RecentScale(), blank(200, 2)
    assert not scale(torch.zeros(200, 2), rollout).any()
    scale.update(torch.zeros(200, 2), rollout)
    constant = torch.full((200, 2), 3.0)
    for _ in range(300):
        scale.update(constant, rollout)
    assert float(scale(constant, rollout).max()) == pytest.approx(1 - 0.99, rel=0.01)
    empty = blank(5, 2, valid=torch.zeros(5, 2, dtype=torch.bool))
    before = float(scale.largest)
    scale.update(torch.ones(5, 2), empty)
    assert float(scale.largest) == before
    assert not scale(torch.ones(5, 2), empty).any()


def test_recent_scale_continues_from_its_state():
    numbers = torch.Generator().manual_seed(0)
    one, two = RecentScale(150, gamma=0.9), RecentScale(150, gamma=0.9)
    for i in range(6):
        raw, rollout = torch.rand(20, 5, generator=numbers), blank(20, 5)
        if i == 3:
            two.load_state_dict(one.state_dict())
        if i >= 3:
            assert torch.equal(one(raw, rollout), two(raw, rollout))
            two.update(raw, rollout)
        one.update(raw, rollout)
