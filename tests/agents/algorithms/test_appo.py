"""APPO: PPO's update where nothing lags, corrections where it does, and a bound on age."""

import copy
import dataclasses

import pytest
import torch

from firstlight.agents import GRU, MLP, PPO, ActorCritic
from firstlight.agents.algorithms.appo import APPO
from firstlight.envs import Chain, Runner
from firstlight.intrinsic import HashCount, Heads, RewardMixer, Term

N, T = 6, 20
SMALL = {"num_epochs": 2, "minibatch_size": 30}


def make_policy(vec, *, memory=False, streams=2):
    torch.manual_seed(1)
    encoder = MLP(vec.obs_space, hidden=(10,))
    core = GRU(10, hidden=8) if memory else None
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=encoder,
        core=core,
        num_streams=streams,
        normalize_value="none",
    )
    policy.policy_head.weight.data *= 100
    return policy


def collected(autoreset="same_step", *, memory=False):
    """A policy, a rollout of it with ends of episodes, and its rewards in two streams."""
    vec = Chain(N, length=3, horizon=7, autoreset=autoreset)
    policy = make_policy(vec, memory=memory)
    runner = Runner(vec, keep_states=True)
    runner.collect(policy, 5)
    rollout = runner.collect(policy, T)
    count = HashCount(vec.obs_space)
    mixer = RewardMixer({"reward": Term(), "count": Term(episodic=False)}, Heads())
    return policy, rollout, mixer(rollout, {"count": count.compute(rollout)}, 0.0)


def moved(policy, size=0.3):
    """A copy of the policy with other parameters."""
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(3)
    for parameter in other.parameters():
        parameter.data += size * torch.randn(parameter.shape, generator=generator)
    return other


def parameters(learner):
    return torch.cat([p.detach().flatten() for p in learner.policy.parameters()])


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_gae_without_lag_is_ppos_update_bit_for_bit(autoreset, memory):
    policy, rollout, rewards = collected(autoreset, memory=memory)
    options = {**SMALL, "adaptive_kl": 0.01, "advantage_floor": 1e-3}
    if memory:
        options |= {"sequence_length": 5}
    ppo = PPO(copy.deepcopy(policy), **options)
    appo = APPO(copy.deepcopy(policy), estimator="gae", **options)
    for _ in range(2):
        wanted, got = (learner.update(rollout, rewards) for learner in (ppo, appo))
        assert {name: got[name] for name in wanted} == wanted
    assert torch.equal(parameters(ppo), parameters(appo))


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_vtrace_of_the_policy_that_acted_estimates_what_ppo_does(autoreset, memory):
    """A policy with a memory is evaluated from its stored state, also across ends of episodes."""
    policy, rollout, rewards = collected(autoreset, memory=memory)
    assert (rollout.terminated | rollout.truncated).sum() > 5
    with torch.no_grad():
        wanted = PPO(policy)._estimate(rollout, rewards)
        got = APPO(policy, estimator="vtrace")._estimate(rollout, rewards)
    for name in ("value", "target", "advantage", "log_prob"):
        one, other = getattr(got, name), getattr(wanted, name)
        torch.testing.assert_close(one[rollout.valid], other[rollout.valid], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(got.weight, torch.ones(T, N), atol=2e-5, rtol=0)


def test_vtrace_takes_values_and_ratios_of_the_policy_that_learns():
    policy, rollout, rewards = collected()
    learner = APPO(moved(policy), estimator="vtrace")
    rollout = dataclasses.replace(rollout, lag=1)
    with torch.no_grad():
        first = learner._estimate(rollout, rewards)
        poisoned = dataclasses.replace(rollout, value=rollout.value + 100)
        second = learner._estimate(poisoned, rewards)
        past = {name: field[:T] for name, field in rollout.obs.items()}
        out = learner.policy(past, {}, rollout.is_first[:T])
    assert torch.equal(first.advantage, second.advantage)
    assert torch.equal(first.value, out.value)
    log_rho = out.dist.log_prob(rollout.action) - rollout.log_prob
    # without traces the target of a step is V + min(1, rho) * (r + d V' - V), and the advantage
    # is that error without its weight
    with torch.no_grad():
        single = APPO(learner.policy, estimator="vtrace", gae_lambda=0.0)._estimate(
            rollout, rewards
        )
    weight = log_rho.exp().clamp(max=1.0)[..., None]
    torch.testing.assert_close(
        single.target - single.value, weight * single.advantage, atol=1e-5, rtol=1e-5
    )
    assert (weight < 0.9).any()


@pytest.mark.parametrize("estimator", ["vtrace", "gae"])
def test_columns_of_a_policy_that_is_too_old_enter_no_loss(estimator):
    policy, rollout, rewards = collected()
    lag = torch.tensor([0, 1, 3, 4, 9, 2])  # of each environment
    old = lag > 3
    rollout = dataclasses.replace(rollout, lag=lag)
    results = []
    for garbage in (0.0, 7.0):
        reward = rewards.reward.clone()
        reward[:, old] += garbage
        learner = APPO(copy.deepcopy(policy), estimator=estimator, max_lag=3, lr=1e-2, **SMALL)
        metrics = learner.update(rollout, dataclasses.replace(rewards, reward=reward))
        results.append(parameters(learner))
        assert metrics["train/used_share"] == pytest.approx(4 / 6)
        assert metrics["train/lr"] == pytest.approx(1e-2 * 4 / 6)
        assert metrics["train/lag"] == pytest.approx(19 / 6)
    assert torch.equal(*results)
    assert not torch.equal(results[0], parameters(APPO(policy)))
    unbounded = APPO(copy.deepcopy(policy), estimator=estimator, max_lag=None, **SMALL)
    assert unbounded.update(rollout, rewards)["train/used_share"] == 1


def test_a_rollout_that_is_too_old_changes_nothing():
    policy, rollout, rewards = collected()
    learner = APPO(policy, max_lag=2, **SMALL)
    before = parameters(learner)
    metrics = learner.update(dataclasses.replace(rollout, lag=3), rewards)
    assert torch.equal(parameters(learner), before)
    assert metrics["train/used_share"] == 0
    assert metrics["train/lag"] == 3


@pytest.mark.parametrize("estimator", ["vtrace", "gae"])
def test_an_update_starts_unclipped_however_far_the_policy_that_acted_is(estimator):
    """Its divergence is that of its own steps, so the adaptive learning rate follows them alone."""
    policy, rollout, rewards = collected()
    rollout = dataclasses.replace(rollout, lag=1)
    learner = APPO(moved(policy, 1.0), estimator=estimator, adaptive_kl=0.004, lr=1e-9, **SMALL)
    first = learner.update(rollout, rewards)
    assert first["train/start_kl"] > 0.1
    assert first["train/clipfrac"] == 0
    assert first["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    second = learner.update(rollout, rewards)
    assert second["train/lr"] == pytest.approx(first["train/lr"] * 1.5)


@pytest.mark.parametrize("rho_bar", [1.0, 1.5])
def test_the_first_gradient_is_the_weighted_policy_gradient(rho_bar, monkeypatch):
    """Rows count min(rho_bar, pi/mu) times in the policy's gradient, and once in the values'."""
    policy, rollout, rewards = collected()
    rollout = dataclasses.replace(rollout, lag=1)
    start = moved(policy, 1.0)
    options = {"normalize_advantage": False, "entropy_coef": 0.0, "max_grad_norm": 1e9}
    options |= {"num_epochs": 1, "minibatch_size": T * N, "adaptive_kl": None, "lr": 0.0}
    learner = APPO(start, estimator="vtrace", rho_bar=rho_bar, **options)
    with torch.no_grad():
        estimates = learner._estimate(rollout, rewards)
    got, step = {}, learner.optimizer.clipped_step

    def clipped_step(max_norm):
        got.update({name: p.grad.clone() for name, p in learner.policy.named_parameters()})
        return step(max_norm)

    monkeypatch.setattr(learner.optimizer, "clipped_step", clipped_step)
    metrics = learner.update(rollout, rewards)

    past = {name: field[:T] for name, field in rollout.obs.items()}
    out = learner.policy(past, {}, rollout.is_first[:T])
    log_prob = out.dist.log_prob(rollout.action)
    ratio = (log_prob.detach() - rollout.log_prob).exp()
    advantage = rewards.advantage(estimates.advantage, rollout.valid)
    used = rollout.valid
    policy_loss = -(ratio.clamp(max=rho_bar) * advantage * log_prob)[used].mean()
    live = (rewards.weight != 0).float()
    value_loss = 0.5 * ((out.value - estimates.target).square() * live).sum(-1)[used].mean()
    (policy_loss + 0.5 * value_loss).backward()
    wanted = {name: p.grad for name, p in learner.policy.named_parameters() if p.grad is not None}
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert metrics["train/rho_clipped"] == pytest.approx(
        (ratio > rho_bar).float().mean().item(), abs=1e-6
    )


def test_states_of_ppo_and_appo_are_interchangeable():
    policy, rollout, rewards = collected()
    ppo, appo = PPO(copy.deepcopy(policy), **SMALL), APPO(copy.deepcopy(policy), **SMALL)
    ppo.update(rollout, rewards)
    appo.load_state_dict(copy.deepcopy(ppo.state_dict()))
    assert torch.equal(parameters(appo), parameters(ppo))
    appo.update(rollout, rewards)
    ppo.load_state_dict(copy.deepcopy(appo.state_dict()))
    assert torch.equal(parameters(ppo), parameters(appo))
    assert ppo.state_dict().keys() == appo.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"estimator": "td"}, "estimator is 'td', expected one of gae, vtrace"),
        ({"c_bar": 2.0}, "c_bar is 2.0 and rho_bar is 1.0"),
        ({"c_bar": 0.0}, "expected 0 < c_bar"),
        ({"max_lag": -1}, "max_lag is -1"),
    ],
)
def test_options_out_of_range_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        APPO(make_policy(Chain(2, length=3)), **options)
