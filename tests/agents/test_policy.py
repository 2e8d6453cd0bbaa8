"""ActorCritic: the features of its heads, and the cores that precede them."""

import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents import MLP, ActorCritic, Policy, TwinMLP
from firstlight.networks.cores import Core

T, N, K = 5, 3, 2
OBS = spaces.Dict({"obs": spaces.Box(-1, 1, (4,))})


class Sum(Core):
    """A core that sums the features of an episode; its state is one tensor."""

    def __init__(self, dim):
        super().__init__()
        self.out_dim = dim

    def initial_state(self, num_envs):
        return {"sum": torch.zeros(num_envs, self.out_dim)}

    def forward(self, features, state, is_first):
        total, outputs = state["sum"], []
        for feature, first in zip(features, is_first, strict=True):
            total = torch.where(first[:, None], 0.0, total) + feature
            outputs.append(total)
        return torch.stack(outputs), {"sum": total}


def encoders(kind):
    if kind == "twin":
        return {"encoder": TwinMLP(OBS, hidden=(6,))}
    if kind == "separate":
        return {"encoder": MLP(OBS, hidden=(6,)), "critic_encoder": MLP(OBS, hidden=(7,))}
    return {"encoder": MLP(OBS, hidden=(6,))}


def make_policy(kind, recurrent=False):
    torch.manual_seed(0)
    policy = ActorCritic(OBS, spaces.Discrete(2), num_streams=K, **encoders(kind))
    if recurrent:
        policy.core = Sum(policy.core.out_dim)
        if policy.critic_core is not None:
            policy.critic_core = Sum(policy.critic_core.out_dim)
    return policy


def inputs():
    numbers = torch.Generator().manual_seed(1)
    is_first = torch.zeros(T, N, dtype=torch.bool)
    is_first[0] = True
    is_first[2, 1] = True
    return {"obs": torch.rand(T, N, 4, generator=numbers)}, is_first


def encoded(policy, obs):
    """Compute the encoders' features, for the policy and for the values."""
    flat = {"obs": obs["obs"].flatten(0, 1)}
    features = policy.encoder(flat)
    if isinstance(policy.encoder, TwinMLP):
        pair = features.unbind(0)
    elif policy.critic_encoder is not None:
        pair = features, policy.critic_encoder(flat)
    else:
        pair = features, features
    return [part.unflatten(0, (T, N)) for part in pair]


@pytest.mark.parametrize("kind", ["shared", "separate", "twin"])
def test_without_a_memory_the_heads_read_the_encoders_features(kind):
    policy, (obs, is_first) = make_policy(kind), inputs()
    assert policy.initial_state(N) == {}
    features = policy.features(obs, {}, is_first)
    for part, expected in zip(features[:2], encoded(policy, obs), strict=True):
        assert torch.equal(part, expected)
    out = policy(obs, {}, is_first)
    torch.testing.assert_close(out.value, policy.value_head(features.value))
    logits = policy.policy_head(features.policy)
    torch.testing.assert_close(out.dist.params, logits.log_softmax(-1))
    assert out.state == {}


@pytest.mark.parametrize("kind", ["shared", "separate", "twin"])
def test_a_core_processes_the_features_of_both_heads(kind):
    policy, (obs, is_first) = make_policy(kind, recurrent=True), inputs()
    features = policy.features(obs, policy.initial_state(N), is_first)
    for part, single in zip(features[:2], encoded(policy, obs), strict=True):
        for n in range(N):
            for t in range(T):
                start = 2 if n == 1 and t >= 2 else 0
                torch.testing.assert_close(part[t, n], single[start : t + 1, n].sum(0))


@pytest.mark.parametrize("kind", ["shared", "separate", "twin"])
def test_the_state_contains_that_of_both_cores(kind):
    policy, (obs, is_first) = make_policy(kind, recurrent=True), inputs()
    state = policy.initial_state(N)
    names = {"sum"} if kind == "shared" else {"sum", "critic.sum"}
    assert set(state) == names
    whole = policy(obs, state, is_first)
    assert set(whole.state) == names
    values = []
    for t in range(T):
        out = policy({"obs": obs["obs"][t : t + 1]}, state, is_first[t : t + 1])
        state = out.state
        values.append(out.value)
    torch.testing.assert_close(torch.cat(values), whole.value)
    for name in names:
        torch.testing.assert_close(state[name], whole.state[name])


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", ["shared", "separate", "twin"])
def test_policy_features_equal_the_first_result_of_features(kind, recurrent):
    policy, (obs, is_first) = make_policy(kind, recurrent), inputs()
    state = policy.initial_state(N)
    alone = policy.policy_features(obs, state, is_first)
    assert torch.equal(alone, policy.features(obs, state, is_first).policy)


def test_a_policy_without_features_raises_when_an_auxiliary_reads_them():
    class Constant(Policy):
        def forward(self, obs, state, is_first):
            raise AssertionError

    policy, (obs, is_first) = Constant(), inputs()
    assert policy.initial_state(N) == {}
    with pytest.raises(NotImplementedError, match=r"Constant does not implement features"):
        policy.policy_features(obs, {}, is_first)


def test_parameters_of_feed_forward_policies_keep_names_and_order():
    """Checkpoints and optimiser states depend on both."""
    policy = ActorCritic(OBS, spaces.Box(-1, 1, (2,)), **encoders("separate"))
    assert [name for name, _ in policy.named_parameters()] == [
        "log_std",
        "encoder.layers.0.weight",
        "encoder.layers.0.bias",
        "critic_encoder.layers.0.weight",
        "critic_encoder.layers.0.bias",
        "policy_head.weight",
        "policy_head.bias",
        "value_head.weight",
        "value_head.bias",
    ]


def test_an_action_space_without_a_distribution_is_refused():
    with pytest.raises(ValueError, match="no action distribution for"):
        ActorCritic(OBS, spaces.Text(3), encoder=MLP(OBS))


def test_an_encoder_may_be_any_module_with_an_out_dim():
    class Linear(nn.Module):
        out_dim = 3

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, obs):
            return self.layer(obs["obs"])

    policy, (obs, is_first) = (
        ActorCritic(OBS, spaces.Discrete(2), encoder=Linear(), num_streams=K),
        inputs(),
    )
    assert policy(obs, {}, is_first).value.shape == (T, N, K)


@pytest.mark.parametrize("kind", ["shared", "separate", "twin"])
def test_bfloat16_changes_encoders_by_its_rounding_and_keeps_float32_around_them(kind):
    policy = make_policy(kind)
    obs, is_first = inputs()
    exact = policy.features(obs, {}, is_first)
    policy.bfloat16 = True
    rounded = policy.features(obs, {}, is_first)
    for a, b in ((exact.policy, rounded.policy), (exact.value, rounded.value)):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        torch.testing.assert_close(b, a, atol=0.03, rtol=0.02)
    rounded.policy.sum().backward()
    assert {p.grad.dtype for p in policy.encoder.parameters()} == {torch.float32}
