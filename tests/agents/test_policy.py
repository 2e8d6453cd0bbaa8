"""ActorCritic: the features of its heads, and the cores that precede them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents import MLP, ActorCritic, Policy, TwinMLP
from firstlight.agents.fast_forms import FusedActor
from firstlight.networks.cores import GRU, Core, Feedforward
from firstlight.networks.encoders import Grid

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
    policy.encoder_bfloat16 = True
    rounded = policy.features(obs, {}, is_first)
    for a, b in ((exact.policy, rounded.policy), (exact.value, rounded.value)):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        torch.testing.assert_close(b, a, atol=0.03, rtol=0.02)
    rounded.policy.sum().backward()
    assert {p.grad.dtype for p in policy.encoder.parameters()} == {torch.float32}


GRID = spaces.Dict(
    image=spaces.Box(0, 255, (3, 3, 3), np.uint8),
    direction=spaces.Discrete(4),
    action_mask=spaces.MultiBinary(5),
)


def grid_policy(kind=ActorCritic, core=False, **options):
    torch.manual_seed(0)
    encoder = Grid(GRID, hidden=8)
    memory = {"core": GRU(8)} if core else {}
    policy = kind(GRID, spaces.Discrete(5), encoder=encoder, num_streams=K, **memory, **options)
    for head in (policy.policy_head, policy.value_head):
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    return policy


def grid_inputs():
    numbers = torch.Generator().manual_seed(1)
    obs = {
        "image": torch.randint(0, 6, (T, N, 3, 3, 3), generator=numbers).to(torch.uint8),
        "direction": torch.randint(0, 4, (T, N), generator=numbers),
        "action_mask": torch.randint(0, 2, (T, N, 5), generator=numbers).to(torch.int8),
    }
    return obs, torch.zeros(T, N, dtype=torch.bool)


@pytest.mark.parametrize("normalize_value", ["none", "popart", "scale"])
def test_a_fused_actor_equals_the_policy(normalize_value):
    policy = grid_policy(normalize_value=normalize_value)
    obs, is_first = grid_inputs()
    for _ in range(2):  # of which the second one has other parameters, and a scale of returns
        policy.observe_returns(*(torch.randn(40, K) * 7 + 3 for _ in range(2)))
        actor = policy.for_acting()
        assert isinstance(actor, FusedActor)
        out, wanted = actor(obs, actor.initial_state(N), is_first), policy(obs, {}, is_first)
        torch.testing.assert_close(out.value, wanted.value)
        torch.testing.assert_close(out.dist.params, wanted.dist.params)
        assert not out.value.requires_grad
        for parameter in policy.parameters():
            nn.init.normal_(parameter)


def test_policies_with_a_memory_and_subclasses_act_by_their_own_forward():
    class Other(ActorCritic):
        pass

    class Doubled(Feedforward):
        def forward(self, features, state, is_first):
            return 2 * features, state

    doubled = grid_policy()
    doubled.core = Doubled(8)
    for policy in (grid_policy(core=True), grid_policy(Other), make_policy("separate"), doubled):
        assert policy.for_acting() is policy
        assert policy.vjp({"image": torch.zeros(1, 2, 3, 3, 3, dtype=torch.uint8)}) is None


def test_layers_that_cannot_be_joined_act_and_learn_by_forward():
    """Activations with parameters, and weights that another module computes."""
    policy = ActorCritic(OBS, spaces.Discrete(2), encoder=MLP(OBS, activation=nn.PReLU))
    obs, _ = inputs()
    assert policy.for_acting() is policy
    assert policy.vjp(obs) is None
    policy = ActorCritic(OBS, spaces.Discrete(2), encoder=MLP(OBS))
    assert policy.vjp(obs) is not None
    nn.utils.parametrizations.weight_norm(policy.value_head)
    assert policy.vjp(obs) is None


def test_a_fused_actor_of_many_rows_equals_the_policy():
    policy = grid_policy()
    obs, _ = grid_inputs()
    many = {name: field.repeat(1, 200, *[1] * (field.dim() - 2)) for name, field in obs.items()}
    is_first = torch.zeros(T, 200 * N, dtype=torch.bool)
    out, wanted = policy.for_acting()(many, {}, is_first), policy(many, {}, is_first)
    torch.testing.assert_close(out.value, wanted.value)
    torch.testing.assert_close(out.dist.params, wanted.dist.params)


@pytest.mark.parametrize("kind", [MLP, TwinMLP])
def test_a_fused_actor_of_fully_connected_layers_equals_the_policy(kind):
    torch.manual_seed(0)
    policy = ActorCritic(
        OBS, spaces.Box(-1, 1, (2,)), encoder=kind(OBS, hidden=(6, 5)), num_streams=K
    )
    for parameter in policy.parameters():
        nn.init.normal_(parameter)
    (obs, is_first), actor = inputs(), policy.for_acting()
    assert isinstance(actor, FusedActor)
    out, wanted = actor(obs, {}, is_first), policy(obs, {}, is_first)
    torch.testing.assert_close(out.value, wanted.value)
    torch.testing.assert_close(out.dist.params, wanted.dist.params)
