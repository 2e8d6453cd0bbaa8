"""SubPO: credit against closed forms on a problem of two steps, episode ends, and learning."""

import copy
import dataclasses
import math
from collections import deque

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents import MLP, ActorCritic, Trainer
from firstlight.agents.algorithms.natural import fisher_product
from firstlight.agents.algorithms.subpo import SubPO
from firstlight.agents.policy import Policy, PolicyOutput
from firstlight.envs import Chain, Runner
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.types import Rollout, check
from firstlight.intrinsic import Heads, RewardMixer, Submodular, Sum, Term
from firstlight.intrinsic.submodular import CallableSetFunction, Field
from firstlight.networks.distributions import Categorical
from firstlight.networks.encoders import Grid

SETS = {0: {0}, 1: {1, 2}}  # cells that the first action covers
THEN = {(0, 0): {1, 2, 3}, (0, 1): {0}, (1, 0): {1}, (1, 1): {2}}  # and the second after it


def gains(a, b):
    first = len(SETS[a])
    return first, len(SETS[a] | THEN[a, b]) - first


class Table(Policy):
    """Logits and a value for each of three observations: the start, and after either action."""

    obs_space = spaces.Dict({"obs": spaces.Discrete(3)})
    act_space = spaces.Discrete(2)

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[math.log(3), 0.0]] * 3))
        self.values = nn.Parameter(torch.tensor([[0.3], [-1.2], [2.0]]))

    def initial_state(self, num_envs):
        return {}

    def forward(self, obs, state, is_first):
        return PolicyOutput(Categorical(self.logits[obs["obs"]]), self.values[obs["obs"]], state)


def enumerated(policy):
    """Make each of the four episodes as often as the policy takes it: 9, 3, 3 and 1 of 16."""
    pairs = [(0, 0)] * 9 + [(0, 1)] * 3 + [(1, 0)] * 3 + [(1, 1)]
    action = torch.tensor(pairs).T  # [2, 16]
    N = action.shape[1]
    first = torch.zeros(N, dtype=torch.int64)
    obs = {"obs": torch.stack([first, action[0] + 1, first])}
    no = torch.zeros(2, N, dtype=torch.bool)
    truncated, is_first = no.clone(), torch.zeros(3, N, dtype=torch.bool)
    truncated[1] = True
    is_first[[0, 2]] = True
    rollout = Rollout(
        obs=obs,
        info={},
        action=action,
        log_prob=torch.zeros(2, N),
        value=policy.values.detach()[obs["obs"]],
        dist_params=None,
        reward=torch.tensor([gains(*pair) for pair in pairs]).T.float(),
        terminated=truncated,
        truncated=no,
        valid=~no,
        is_first=is_first,
        final_at=torch.tensor([[1, n] for n in range(N)]),
        final_obs={"obs": first},
        final_info={},
        final_state={},
        state={},
        env_ids=torch.arange(N),
    )
    return check(rollout)


def mixed(rollout, gamma=0.5, weight=1.0):
    return RewardMixer({"reward": Term(gamma=gamma, weight=weight)}, Sum())(rollout, {})


def gradient(learner, rollout, rewards):
    """Return the gradient of the objective per episode; the loss is a mean over its two rows."""
    learner.policy.zero_grad()
    loss, _ = learner.loss(rollout, rewards, *learner.credit(rollout, rewards), 0.0)
    loss.backward()
    return -2 * learner.policy.logits.grad


def expected_return(logits, credit):
    """Sum the probability of each episode times ``credit(gains)``."""
    p = logits.softmax(-1)
    pairs = [(a, b) for a in range(2) for b in range(2)]
    return sum(p[0, a] * p[1 + a, b] * credit(*gains(a, b)) for a, b in pairs)


def exact(policy, credit):
    logits = policy.logits.detach().clone().requires_grad_()
    expected_return(logits, credit).backward()
    return logits.grad


@pytest.mark.parametrize("baseline", ["value", "mean", "none"])
def test_the_gradient_equals_that_of_the_expected_set_function(baseline):
    policy = Table()
    rollout = enumerated(policy)
    learner = SubPO(policy, baseline=baseline)
    rewards = mixed(rollout)
    for _ in range(2):  # from the second time on, the running mean is not 0
        got = gradient(learner, rollout, rewards)
        torch.testing.assert_close(got, exact(policy, lambda r, s: r + s))
    assert (learner._mean is not None) == (baseline == "mean")


def test_the_default_gamma_is_that_of_the_mixer():
    policy = Table()
    rollout = enumerated(policy)
    learner = SubPO(policy, baseline="none", gamma=None)
    weight, target, rows = learner.credit(rollout, mixed(rollout, gamma=0.5))
    r, s = rollout.reward
    torch.testing.assert_close(weight, torch.stack([r + 0.5 * s, s]))
    assert torch.equal(target[..., 0], weight)
    assert rows.all()


def test_cumulative_weighting_equals_the_released_code_and_is_not_the_gradient_of_f():
    """The better action has the smaller first gain, and becomes less likely."""
    policy = Table()
    rollout = enumerated(policy)
    learner = SubPO(policy, baseline="none", weighting="cumulative")
    got = gradient(learner, rollout, mixed(rollout))
    probability = policy.logits.detach().softmax(-1)
    expected = torch.zeros(3, 2)
    for a in range(2):
        for b in range(2):
            r, s = gains(a, b)
            weight = probability[0, a] * probability[1 + a, b]
            for state, action, banked in ((0, a, r), (1 + a, b, r + s)):
                score = -probability[state]
                score = score + torch.eye(2)[action]
                expected[state] += weight * banked * score
    torch.testing.assert_close(got, expected)
    assert exact(policy, lambda r, s: r + s)[0, 0] > 0 > got[0, 0]


def test_stream_weights_scale_their_part_of_the_gradient():
    policy = Table()
    rollout = enumerated(policy)
    learner = SubPO(policy, baseline="none")
    one, three = (gradient(learner, rollout, mixed(rollout, weight=w)) for w in (1.0, 3.0))
    torch.testing.assert_close(three, 3 * one)


def cut(rollout, T=1):
    return rollout.slice(0, T), rollout.slice(T, rollout.num_steps)


def test_without_a_critic_only_finished_episodes_contribute():
    policy = Table()
    rollout = enumerated(policy)
    first, second = cut(rollout)
    learner = SubPO(policy, baseline="none")
    before = copy.deepcopy(policy.state_dict())
    assert learner.update(first, mixed(first), 0.0) == {"train/rows_used": 0.0}
    assert all(torch.equal(x, before[n]) for n, x in policy.state_dict().items())
    weight, _, rows = learner.credit(second, mixed(second))
    assert rows.all()
    assert torch.equal(weight, second.reward)


def test_a_critic_bootstraps_at_the_end_of_the_rollout():
    policy = Table()
    rollout = enumerated(policy)
    first, _ = cut(rollout)
    learner = SubPO(policy)
    _, target, rows = learner.credit(first, mixed(first))
    assert rows.all()
    torch.testing.assert_close(target[0, :, 0], first.reward[0] + first.value[1, :, 0])


@pytest.mark.parametrize(("gamma", "after"), [(1.0, 0.0), (0.9, 0.0), (None, 0.5 * 0.3)])
def test_a_time_limit_ends_the_sum_unless_gamma_is_the_mixers(gamma, after):
    policy = Table()
    rollout = enumerated(policy)
    cut_off = dataclasses.replace(
        rollout, terminated=rollout.truncated, truncated=rollout.terminated
    )
    learner = SubPO(policy, gamma=gamma)
    _, target, _ = learner.credit(cut_off, mixed(cut_off, gamma=0.5))
    torch.testing.assert_close(target[1, :, 0], rollout.reward[1] + after)
    first = rollout.reward[0] + (0.5 if gamma is None else gamma) * target[1, :, 0]
    torch.testing.assert_close(target[0, :, 0], first)


@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_cumulative_gains_continue_in_the_next_rollout(baseline):
    policy = Table()
    rollout = enumerated(policy)
    options = {"baseline": baseline, "weighting": "cumulative"}
    whole, halves = SubPO(policy, **options), SubPO(policy, **options)
    _, target, _ = whole.credit(rollout, mixed(rollout))
    first, second = cut(rollout)
    parts = [halves.credit(first, mixed(first))[1]]
    order = torch.arange(16).flip(0)  # the same environments in other columns
    again = dataclasses.replace(
        second,
        reward=second.reward[:, order],
        env_ids=order,
        is_first=second.is_first[:, order],
    )
    loaded = SubPO(policy, **options)
    loaded.load_state_dict(halves.state_dict())
    parts.append(loaded.credit(again, mixed(again))[1][:, order])
    torch.testing.assert_close(torch.cat(parts), target)


def test_invalid_rows_are_transparent():
    """A row in which environments only reset themselves changes nothing."""
    policy = Table()
    rollout = enumerated(policy)
    first, second = cut(rollout)

    def join(a, b):
        return torch.cat([a, b])

    holed = dataclasses.replace(
        rollout,
        obs={"obs": torch.cat([rollout.obs["obs"][:2], rollout.obs["obs"][1:]])},
        value=torch.cat([rollout.value[:2], rollout.value[1:]]),
        reward=torch.cat([first.reward, torch.full((1, 16), 7.0), second.reward]),
        **{
            name: torch.cat([getattr(first, name), getattr(first, name), getattr(second, name)])
            for name in ("action", "log_prob", "terminated", "truncated")
        },
        valid=torch.tensor([True, False, True])[:, None].expand(3, 16),
        is_first=torch.cat([rollout.is_first[:2], rollout.is_first[1:]]),
        final_at=rollout.final_at + torch.tensor([1, 0]),
    )
    for options in ({}, {"baseline": "none"}, {"baseline": "none", "weighting": "cumulative"}):
        one, other = SubPO(policy, **options), SubPO(policy, **options)
        weight, target, _ = one.credit(rollout, mixed(rollout))
        holed_weight, holed_target, rows = other.credit(check(holed), mixed(holed))
        assert rows.tolist() == holed.valid.tolist()
        torch.testing.assert_close(holed_weight[[0, 2]], weight)
        torch.testing.assert_close(holed_target[[0, 2]], target)


@pytest.mark.parametrize("baseline", ["value", "mean"])
def test_a_loaded_learner_repeats_the_next_update(baseline):
    vec = Chain(4, length=3)
    torch.manual_seed(0)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(16,)))
    learner = SubPO(policy, baseline=baseline)
    runner = Runner(vec)
    rollouts = [runner.collect(policy, 12) for _ in range(3)]
    for rollout in rollouts[:2]:
        learner.update(rollout, mixed(rollout))
    other = SubPO(copy.deepcopy(policy), baseline=baseline)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    one, two = (each.update(rollouts[2], mixed(rollouts[2])) for each in (learner, other))
    assert one == pytest.approx(two, nan_ok=True)
    assert {"train/policy_loss", "train/entropy", "train/grad_norm"} <= set(one)
    after = [each.policy.state_dict() for each in (learner, other)]
    assert all(torch.equal(x, after[1][name]) for name, x in after[0].items())


def test_values_that_are_not_finite_raise():
    policy = Table()
    rollout = enumerated(policy)
    rewards = mixed(rollout)
    bad = dataclasses.replace(rewards, reward=rewards.reward * torch.inf)
    with pytest.raises(NonFiniteError, match="policy_loss is"):
        SubPO(policy).update(rollout, bad)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"baseline": "critic"}, "baseline is 'critic', expected one of value, mean, none"),
        ({"weighting": "sum"}, "weighting is 'sum', expected one of reward_to_go, cumulative"),
        ({"weighting": "cumulative"}, "set baseline to mean or none"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"damping": 0.0}, "damping is 0.0"),
    ],
)
def test_invalid_options_raise(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        SubPO(Table(), **options)


def test_the_natural_gradient_solves_the_fisher_matrix_of_a_table():
    """F is block diagonal: a state's share of the rows times (diag p - p pᵀ)."""
    policy = Table()
    rollout = enumerated(policy)
    plain, natural = (SubPO(policy, baseline="none", natural=n, damping=0.05) for n in (0, 1))
    rewards = mixed(rollout)
    gradient(plain, rollout, rewards)
    before = policy.logits.grad.clone()
    natural._precondition(rollout, rollout.valid)
    p = policy.logits.detach().softmax(-1)
    share = torch.bincount(rollout.obs["obs"][:2].flatten()) / 32
    for state in range(3):
        fisher = share[state] * (p[state].diag() - p[state].outer(p[state]))
        expected = torch.linalg.solve(fisher + 0.05 * torch.eye(2), before[state])
        torch.testing.assert_close(policy.logits.grad[state], expected, rtol=1e-3, atol=1e-4)
    assert not policy.values.grad.any()  # no value loss, and not part of the policy


@pytest.mark.parametrize("kind", ["mlp", "gaussian", "grid"])
def test_the_fisher_product_equals_that_of_the_explicit_matrix(kind):
    """Jᵀ M J by whole Jacobians; for a Categorical that is the mean of its scores' squares."""
    torch.manual_seed(0)
    numbers = torch.Generator().manual_seed(1)
    obs_space = spaces.Dict({"obs": spaces.Box(0, 1, (3,))})
    obs = {"obs": torch.rand((1, 5, 3), generator=numbers)}
    act_space, encoder = spaces.Discrete(3), MLP(obs_space, hidden=(4,))
    if kind == "gaussian":
        act_space = spaces.Box(-1, 1, (2,))
    if kind == "grid":
        obs_space = spaces.Dict({"image": spaces.Box(0, 255, (2, 2, 3), np.uint8)})
        obs = {"image": torch.randint(1, 3, (1, 5, 2, 2, 3), generator=numbers).byte()}
        encoder = Grid(obs_space, hidden=4)
    policy = ActorCritic(obs_space, act_space, encoder=encoder)
    nn.init.normal_(policy.policy_head.weight)
    parameters = list(policy.parameters())
    first = torch.zeros((1, 5), dtype=torch.bool)
    rows = torch.tensor([[True, True, False, True, True]])

    def distribution():
        return policy(obs, {}, first).dist

    size = sum(p.numel() for p in parameters)
    fisher = torch.zeros(size, size)
    for n in rows[0].nonzero()[:, 0].tolist():
        dist = distribution()
        params = dist.params[0, n].detach()
        metric = params.exp()
        if kind == "gaussian":  # of the mean and of the log deviation
            metric = torch.cat([(-2 * params[2:]).exp(), torch.full((2,), 2.0)])
        rates = jacobian(dist.params[0, n], parameters)
        fisher += rates.T @ metric.diag() @ rates / 4
    for _ in range(3):
        vector = torch.randn(size, generator=numbers)
        got = fisher_product(distribution, parameters, vector, rows)
        torch.testing.assert_close(got, fisher @ vector, rtol=5e-3, atol=5e-3)


def jacobian(params, parameters):
    """Compute the Jacobian [P, parameters] of one row's distribution."""
    rates = []
    for number in params:
        parts = torch.autograd.grad(
            number, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rates.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rates)


@pytest.mark.parametrize(
    "options", [{}, {"baseline": "mean"}, {"natural": True, "baseline": "mean", "lr": 0.7}], ids=str
)
def test_subpo_learns_to_cover_the_chain(options):
    """Marginal gains suffice; a random agent covers about half of the cells."""
    vec = Chain(32, length=4)
    torch.manual_seed(0)
    encoder = MLP(vec.obs_space, hidden=(32,))
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder, num_streams=2, normalize_value="none"
    )
    module = Submodular(
        vec.obs_space,
        function=CallableSetFunction(lambda s: float(len(set(s)))),
        items=Field("position"),
    )
    mixer = RewardMixer({"reward": Term(weight=0.0), "cells": Term()}, Heads())
    learner = SubPO(policy, **{"lr": 0.02, **options})
    trainer = Trainer(vec, learner, {"cells": module}, mixer, num_steps=16)
    gained = deque(maxlen=5)
    random = None
    for _ in range(40):
        metrics = trainer.iterate(10**6)
        gained.append(metrics["reward/cells/raw"])
        random = gained[0] if random is None else random
    assert random < 0.45
    assert sum(gained) / len(gained) > 0.85  # an optimal agent finds a new cell in every step
