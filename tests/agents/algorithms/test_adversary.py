"""AGAC's adversary: what it adds to advantages and losses, and what it learns."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.agents.algorithms.auxiliaries import Adversary
from firstlight.envs import Chain, Runner
from firstlight.intrinsic import Linear, RewardMixer

OBS = spaces.Dict({"obs": spaces.Box(-1, 1, (3,), np.float32)})


def make_policy(vec, act_space=None, **options):
    torch.manual_seed(0)
    space = vec.act_space if act_space is None else act_space
    encoder = MLP(vec.obs_space, hidden=(16,))
    return ActorCritic(vec.obs_space, space, encoder=encoder, **options)


def prepared(adversary, vec, policy, progress=0.0):
    """A rollout, the advantage that the adversary adds, and all valid rows as one batch."""
    rollout = Runner(vec).collect(policy, 16)
    learner = PPO(policy, auxiliaries=[adversary])
    adversary.observe(rollout, progress)
    past = {name: field[:-1] for name, field in rollout.obs.items()}
    with torch.no_grad():
        out = policy(past, rollout.state, rollout.is_first[:-1])
    extra = adversary.advantage(rollout, out)
    batch = dataclasses.replace(learner._batch(rollout, RewardMixer({})(rollout, {})))
    return rollout, extra, batch.take(batch.valid[0].nonzero()[:, 0])


def log_probs(adversary, policy, obs):
    """Log-probabilities of policy and adversary for one observation."""
    one = {name: field[None] for name, field in obs.items()}
    with torch.no_grad():
        ours = policy.policy_head(policy.encoder(one)).log_softmax(-1)[0]
        other = adversary.policy_head(adversary.encoder(one)).log_softmax(-1)[0]
    return ours, other


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_the_advantage_is_the_surprise_of_the_adversary(autoreset):
    vec = Chain(3, length=3, autoreset=autoreset)
    policy, adversary = make_policy(vec), Adversary(vec.obs_space, vec.act_space, coef=0.3)
    torch.nn.init.normal_(adversary.policy_head.weight)
    rollout, extra, batch = prepared(adversary, vec, policy)
    divergences = []
    for t in range(16):
        for n in range(3):
            if not rollout.valid[t, n]:
                assert extra[t, n] == 0
                continue
            obs = {name: field[t, n] for name, field in rollout.obs.items()}
            ours, other = log_probs(adversary, policy, obs)
            action = rollout.action[t, n]
            assert float(extra[t, n]) == pytest.approx(
                0.3 * float(ours[action] - other[action]), abs=1e-4
            )
            divergences.append(float((ours.exp() * (ours - other)).sum()))
    loss = adversary.loss(policy, batch)
    assert loss.item() == pytest.approx(0.01 * np.mean(divergences), rel=1e-3)
    total = np.sum(divergences) / (16 * 3)
    assert adversary.metrics()["adversary/kl"] == pytest.approx(total, rel=1e-3)


def test_the_value_shift_has_the_gradient_of_a_shifted_target():
    vec = Chain(3, length=3)
    policy = make_policy(vec)
    adversary = Adversary(vec.obs_space, vec.act_space, coef=0.5, value_shift=True, value_coef=0.7)
    torch.nn.init.normal_(adversary.policy_head.weight)
    _, _, batch = prepared(adversary, vec, policy)
    value = policy(batch.obs, batch.state, batch.is_first).value[0, :, 0]
    parameters = [*policy.value_head.parameters()]

    def gradient(loss):
        return torch.autograd.grad(loss, parameters, retain_graph=True)

    target = batch.target[0, :, 0]
    shifted = target + 0.5 * adversary._divergence[batch.rows[0]]
    expected = gradient(0.7 * 0.5 * (value - shifted).square().mean())
    plain = gradient(0.7 * 0.5 * (value - target).square().mean())
    added = gradient(adversary.loss(policy, batch))
    for want, a, b in zip(expected, plain, added, strict=True):
        torch.testing.assert_close(a + b, want, rtol=1e-4, atol=1e-6)


def test_c_follows_its_schedule_and_0_adds_nothing():
    vec = Chain(2, length=3)
    policy = make_policy(vec)
    adversary = Adversary(vec.obs_space, vec.act_space, coef=Linear(1.0, 0.0))
    torch.nn.init.normal_(adversary.policy_head.weight)
    for progress, some in ((0.0, True), (1.0, False)):
        _, extra, _ = prepared(adversary, vec, policy, progress)
        assert bool(extra.any()) == some


def test_the_adversary_learns_to_imitate_and_the_policy_does_not_follow_it():
    vec = Chain(8, length=3)
    policy = make_policy(vec)
    torch.nn.init.normal_(policy.policy_head.weight)
    adversary = Adversary(vec.obs_space, vec.act_space, coef=0.0, adversary_coef=1.0)
    _, _, batch = prepared(adversary, vec, policy)
    optimiser = torch.optim.Adam(adversary.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        loss = adversary.loss(policy, batch)
        optimiser.zero_grad()
        policy.zero_grad()
        loss.backward()
        assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_continuous_actions_are_estimated_from_those_taken():
    box = spaces.Box(-1, 1, (2,), np.float32)
    vec = Chain(2, length=3)
    policy, adversary = make_policy(vec, box), Adversary(vec.obs_space, box)
    rollout = Runner(vec).collect(make_policy(vec), 16)
    action = torch.rand(16, 2, 2)
    rollout = dataclasses.replace(rollout, action=action)
    adversary.observe(rollout, 0.0)
    past = {name: field[:-1] for name, field in rollout.obs.items()}
    with torch.no_grad():
        out = policy(past, {}, rollout.is_first[:-1])
        extra = adversary.advantage(rollout, out)
        flat = {name: field.flatten(0, 1) for name, field in past.items()}
        other = adversary.adversary(flat).log_prob(action.flatten(0, 1)).view(16, 2)
        torch.testing.assert_close(extra, 4e-4 * (out.dist.log_prob(action) - other))


@pytest.mark.parametrize("value_shift", [False, True])
def test_a_run_logs_the_divergence_and_is_restored(value_shift):
    vec = Chain(4, length=3)

    def learner():
        adversary = Adversary(vec.obs_space, vec.act_space, coef=0.1, value_shift=value_shift)
        return PPO(make_policy(vec, normalize_value="scale"), auxiliaries=[adversary])

    first, second = learner(), learner()
    metrics = Trainer(vec, first, num_steps=16).iterate(10**6)
    assert metrics["adversary/kl"] >= 0
    second.load_state_dict(first.state_dict())
    pairs = zip(first.auxiliaries[0].parameters(), second.auxiliaries[0].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
