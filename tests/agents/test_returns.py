"""Advantages against plain loops and closed forms, also with invalid rows."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from firstlight.agents.returns import gae, successor_values, transparent, vtrace
from firstlight.envs.runner import Runner
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic.mixer import Heads, RewardMixer, Term


def random_inputs(seed, T=13, N=5, K=2):
    g = torch.Generator().manual_seed(seed)
    reward, value, next_value = (torch.randn(T, N, K, generator=g) for _ in range(3))
    ended = torch.rand(T, N, K, generator=g) < 0.2
    discount = torch.where(ended & (torch.rand(T, N, K, generator=g) < 0.5), 0.0, 0.97)
    valid = torch.rand(T, N, generator=g) > 0.2
    return reward, value, next_value, discount, (~ended).float(), valid


def naive_gae(reward, value, next_value, discount, carry, valid, lam):
    """Compute GAE as a sum over the future of every row, without recursion."""
    T, N, K = reward.shape
    out = np.zeros((T, N, K))
    for n in range(N):
        rows = [t for t in range(T) if valid[t, n]]
        for k in range(K):
            for t in range(T):
                factor, total = 1.0, 0.0
                for s in (r for r in rows if r >= t):
                    d = float(discount[s, n, k])
                    delta = reward[s, n, k] + d * next_value[s, n, k] - value[s, n, k]
                    total += factor * float(delta)
                    factor *= d * lam * float(carry[s, n, k])
                out[t, n, k] = total
    return out


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_gae_equals_a_sum_over_the_future(seed, lam):
    inputs = random_inputs(seed)
    np.testing.assert_allclose(gae(*inputs, lam), naive_gae(*inputs, lam), atol=1e-4)


def test_gae_with_lambda_one_is_the_discounted_return_minus_the_value():
    reward = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    value = torch.tensor([0.5, 0.25, 0.125, 4.0]).view(4, 1, 1)
    ones = torch.ones(3, 1, 1)
    valid = torch.ones(3, 1, dtype=torch.bool)
    advantage = gae(reward, value[:-1], value[1:], 0.9 * ones, ones, valid, 1.0)
    first = 1 + 0.9 * 2 + 0.81 * 3 + 0.729 * 4 - 0.5
    assert advantage[0, 0, 0].item() == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.7, 0.95, 1.0])
def test_vtrace_on_policy_equals_gae(lam):
    reward, value, next_value, discount, carry, valid = random_inputs(7)
    on_policy = torch.zeros(reward.shape[:2])
    traced = vtrace(on_policy, reward, value, next_value, discount, carry, valid, lam)
    expected = gae(reward, value, next_value, discount, carry, valid, lam)
    assert (traced.value_target - value - expected)[valid].abs().max() < 1e-6
    assert (traced.advantage - expected)[valid].abs().max() < 1e-6


def lambda_return(t, reward, value, next_value, discount, carry, lam):
    """Mix the n-step returns of one environment and stream [T] from step t, by their definition."""
    returns, ahead, factor = [], 0.0, 1.0
    for s in range(t, len(reward)):
        ahead += factor * reward[s]
        factor *= discount[s]
        returns.append(ahead + factor * next_value[s])
        if not carry[s]:
            break
    weights = [(1 - lam) * lam**n for n in range(len(returns) - 1)] + [lam ** (len(returns) - 1)]
    return sum(weight * ret for weight, ret in zip(weights, returns, strict=True))


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_targets_of_vtrace_on_policy_are_lambda_returns(lam):
    reward, value, next_value, discount, carry, valid = random_inputs(5, T=8, N=3)
    # the successor's value is the next row's, except where a stream ends
    next_value[:-1] = torch.where(carry[:-1] > 0, value[1:], next_value[:-1])
    fields = (reward, value, next_value, discount, carry)
    traced = vtrace(torch.zeros(8, 3), *fields, torch.ones_like(valid), lam)
    for t, n, k in np.ndindex(8, 3, 2):
        wanted = lambda_return(t, *(field[:, n, k].tolist() for field in fields), lam)
        assert traced.value_target[t, n, k].item() == pytest.approx(wanted, abs=1e-6, rel=1e-6)


def naive_vtrace(log_rho, reward, value, next_value, discount, carry, valid, lam, rho_bar, c_bar):
    """Equation 1 of Espeholt et al. 2018 with the traces of its remark 2, summed term by term."""
    rho = log_rho.double().exp()

    def correction(s, n, k):
        """Return v_s - V_s of the first valid row from s on."""
        total, factor = 0.0, 1.0
        for t in range(s, len(reward)):
            if valid[t, n]:
                d = float(discount[t, n, k])
                delta = float(reward[t, n, k] + d * next_value[t, n, k] - value[t, n, k])
                total += factor * min(rho_bar, float(rho[t, n])) * delta
                factor *= d * float(carry[t, n, k]) * lam * min(c_bar, float(rho[t, n]))
        return total

    target, advantage = np.zeros((2, *reward.shape))
    for s, n, k in np.ndindex(*reward.shape):
        if valid[s, n]:
            d = float(discount[s, n, k])
            target[s, n, k] = float(value[s, n, k]) + correction(s, n, k)
            onward = lam * float(carry[s, n, k]) * correction(s + 1, n, k)
            error = float(reward[s, n, k] - value[s, n, k])
            advantage[s, n, k] = error + d * (float(next_value[s, n, k]) + onward)
    return target, advantage


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_vtrace_equals_its_definition(seed, lam):
    """With terminations, truncations, streams that continue across ends, and invalid rows."""
    inputs = random_inputs(seed, T=9, N=3)
    valid = inputs[-1]
    log_rho = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed))
    got = vtrace(log_rho, *inputs, lam, rho_bar=1.2, c_bar=0.9)
    target, advantage = naive_vtrace(log_rho, *inputs, lam, rho_bar=1.2, c_bar=0.9)
    np.testing.assert_allclose(got.value_target[valid], target[valid], atol=2e-5)
    np.testing.assert_allclose(got.advantage[valid], advantage[valid], atol=2e-5)


def test_vtrace_bears_ratios_of_any_size():
    reward, value, next_value, discount, carry, valid = random_inputs(1, T=4)
    for log_ratio in (500.0, -500.0):
        traced = vtrace(
            torch.full((4, 5), log_ratio), reward, value, next_value, discount, carry, valid, 0.95
        )
        assert torch.isfinite(traced.value_target).all()
        assert torch.isfinite(traced.advantage).all()


def test_invalid_rows_take_the_value_of_the_row_after():
    value = torch.arange(5.0).view(5, 1, 1)
    valid = torch.tensor([True, False, False, True]).view(4, 1)
    assert transparent(value, valid).flatten().tolist() == [0, 3, 3, 3, 4]


class Scripted:
    """Takes the action ``plan(position, step of the episode, episode)``; values by table."""

    def __init__(self, plan, table):
        self.plan, self.table = plan, table  # table [positions, K]
        self.t, self.episode = 0, -1

    def initial_state(self, num_envs):
        return {}

    def __call__(self, obs, state, is_first):
        self.episode += int(is_first[0, 0])
        self.t = 0 if is_first[0, 0] else self.t + 1
        self.position = int(obs["obs"][0, 0].argmax())
        return SimpleNamespace(dist=self, value=obs["obs"].float() @ self.table, state={})

    def draw(self, generator):
        return self.plan(self.position, self.t, self.episode).view(1, 1), torch.zeros(1, 1)


def advantages(autoreset, estimator, rows=40):
    """Compute the advantages of the first `rows` valid rows of a plan under one autoreset mode."""
    vec = Chain(1, length=3, horizon=4, autoreset=autoreset)

    def plan(position, t, episode):  # errs in every second episode, so that both kinds of end occur
        good = vec.combination[min(position, 2)]
        return 1 - good if t == 1 and episode % 2 else good

    table = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    rollout = Runner(vec).collect(Scripted(plan, table), 2 * rows)
    rollout = rollout.slice(0, int((rollout.valid.cumsum(0) == rows).nonzero()[0, 0]) + 1)
    assert not (rollout.terminated | rollout.truncated)[-1].any()  # where a bootstrap is the same
    terms = {"reward": Term(gamma=0.9), "bonus": Term(gamma=0.8, episodic=False)}
    bonus = rollout.next_obs()["obs"].float() @ torch.tensor([0.1, 0.2, 0.3, 0.4])
    rewards = RewardMixer(terms, Heads())(rollout, {"bonus": bonus})
    final_value = rollout.final_obs["obs"].float() @ table
    next_value = successor_values(rollout, rollout.value, final_value, rewards.carry)
    args = (rewards.reward, rollout.value[:-1], next_value, rewards.discount, rewards.carry)
    if estimator == "gae":
        out = gae(*args, rollout.valid, 0.95)
    else:
        log_rho = torch.sin(rollout.valid.cumsum(0).float())  # by valid row, not by time
        out = vtrace(log_rho, *args, rollout.valid).advantage
    return out[rollout.valid], rollout


@pytest.mark.parametrize("estimator", ["gae", "vtrace"])
def test_an_invalid_row_is_transparent(estimator):
    """The same actions give the same advantages under both autoreset modes."""
    expected, same_step = advantages("same_step", estimator)
    got, next_step = advantages("next_step", estimator)
    assert same_step.valid.all()
    assert (~next_step.valid).sum() > 5
    assert next_step.terminated.sum() > 2
    assert next_step.truncated.sum() > 2
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_truncation_bootstraps_and_termination_does_not():
    """On an endless reward of 1 the value stays 1 / (1 - gamma) only if time limits bootstrap."""
    gamma, T = 0.9, 50
    vec = Chain(1, length=3, horizon=4)
    actor = Scripted(lambda *_: 1 - vec.combination[0], torch.full((4, 1), 1 / (1 - gamma)))
    rollout = Runner(vec).collect(actor, T)
    assert rollout.truncated.sum() == T // 4
    assert not rollout.terminated.any()
    rollout = dataclasses.replace(rollout, reward=torch.ones(T, 1))
    mixer = RewardMixer({"reward": Term(gamma=gamma)})
    rewards = mixer(rollout, {})
    value, final = rollout.value, rollout.final_obs["obs"].float() @ actor.table
    next_value = successor_values(rollout, value, final, rewards.carry)
    args = (rewards.reward, value[:-1], next_value, rewards.discount, rewards.carry)
    assert gae(*args, rollout.valid, 0.95).abs().max() < 1e-4
    ended = dataclasses.replace(
        rollout, terminated=rollout.truncated, truncated=torch.zeros_like(rollout.truncated)
    )
    rewards = mixer(ended, {})
    next_value = successor_values(ended, value, final, rewards.carry)
    args = (rewards.reward, value[:-1], next_value, rewards.discount, rewards.carry)
    assert gae(*args, ended.valid, 0.95).min() < -5
