"""Policies with a memory: acting equals learning, sequences, ends of episodes, and a task."""

import copy
import dataclasses

import pytest
import torch
from optimizer_steps import counted_steps
from recall import Recall

from firstlight.agents import GRU, LSTM, MLP, PPO, ActorCritic, SubPO, Trainer, TwinMLP
from firstlight.agents.agent import Agent
from firstlight.agents.algorithms.auxiliaries import Rapid, RewardPrediction, StateReconstruction
from firstlight.agents.algorithms.natural import fisher_product
from firstlight.agents.learner import final_value, minibatches
from firstlight.envs import Chain, Runner
from firstlight.envs.types import map_obs, take
from firstlight.intrinsic import RewardMixer

N, T = 6, 24
CORES = [GRU, LSTM]
MODES = ["same_step", "next_step"]
PLAIN = {"normalize_advantage": False, "num_epochs": 1}


def make_policy(vec, kind=GRU, encoders="shared", *, hidden=8, **options):
    """A policy whose probabilities and values depend on its memory."""
    torch.manual_seed(1)
    parts = {"encoder": MLP(vec.obs_space, hidden=(10,)), "core": kind(10, hidden=hidden)}
    if encoders == "separate":
        parts["critic_encoder"] = MLP(vec.obs_space, hidden=(7,))
        parts["critic_core"] = kind(7, hidden=5)
    if encoders == "twin":
        parts["encoder"] = TwinMLP(vec.obs_space, hidden=(10,))
        parts["critic_core"] = kind(10, hidden=hidden)
    options = {"normalize_value": "none"} | options
    policy = ActorCritic(vec.obs_space, vec.act_space, **parts, **options)
    policy.policy_head.weight.data *= 100
    return policy


def collected(kind=GRU, autoreset="same_step", encoders="shared", *, steps=T, **options):
    """A policy, and a rollout that begins with a state, in episodes of different length."""
    vec = Chain(N, length=3, horizon=7, autoreset=autoreset)
    policy = make_policy(vec, kind, encoders)
    runner = Runner(vec, keep_states=True, **options)
    runner.collect(policy, 5)
    return policy, runner.collect(policy, steps)


def rewards_of(rollout):
    return RewardMixer({})(rollout, {})


@pytest.mark.parametrize("encoders", ["shared", "separate", "twin"])
@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("kind", CORES)
def test_acting_step_by_step_equals_one_pass_over_the_rollout(kind, autoreset, encoders):
    policy, rollout = collected(kind, autoreset, encoders)
    assert rollout.is_first[1:].any(1).sum() > 3
    assert all(field.abs().sum() > 0 for field in rollout.state.values())
    out = policy(rollout.obs, rollout.state, rollout.is_first)  # T + 1 steps
    torch.testing.assert_close(out.value, rollout.value)
    log_prob = policy(
        map_obs(lambda field: field[:T], rollout.obs), rollout.state, rollout.is_first[:T]
    ).dist.log_prob(rollout.action)
    torch.testing.assert_close(log_prob, rollout.log_prob, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("kind", CORES)
def test_stored_states_are_those_before_each_step(kind, autoreset):
    policy, rollout = collected(kind, autoreset)
    for t in range(T):
        state = map_obs(lambda field, t=t: field[t], rollout.states)
        row = map_obs(lambda field, t=t: field[t : t + 1], rollout.obs)
        out = policy(row, state, rollout.is_first[t : t + 1])
        torch.testing.assert_close(out.value[0], rollout.value[t])
    part = rollout.slice(9, 15)
    again = policy(part.obs, part.state, part.is_first)
    torch.testing.assert_close(again.value, rollout.value[9:16])


def played_by_hand(policy, observations):
    """Value [K] of the last observation of an episode, from an empty memory on."""
    state, out = policy.initial_state(1), None
    for t, obs in enumerate(observations):
        is_first = torch.tensor([[t == 0]])
        out = policy(map_obs(lambda field: field[None, None], obs), state, is_first)
        state = out.state
    return out.value[0, 0]


@pytest.mark.parametrize("encoders", ["shared", "separate"])
@pytest.mark.parametrize("kind", CORES)
def test_a_truncated_episode_is_valued_with_the_memory_of_all_its_observations(kind, encoders):
    policy, rollout = collected(kind, "same_step", encoders)
    values = final_value(policy, rollout)
    checked = 0
    for row, (t, n) in enumerate(rollout.final_at.tolist()):
        begins = [s for s in range(t + 1) if rollout.is_first[s, n]]
        if not begins or not rollout.truncated[t, n]:
            continue  # it began in the rollout before
        seen = [map_obs(lambda f, s=s, n=n: f[s, n], rollout.obs) for s in range(begins[-1], t + 1)]
        last = map_obs(lambda field, row=row: field[row], rollout.final_obs)
        torch.testing.assert_close(values[row], played_by_hand(policy, [*seen, last]))
        forgetful = played_by_hand(policy, [last])
        assert (forgetful - values[row]).abs().max() > 1e-4
        checked += 1
    assert checked > 3


def test_with_next_step_autoreset_the_last_observation_is_a_row_with_the_right_memory():
    policy, rollout = collected(GRU, "next_step")
    ends = (rollout.truncated[: T - 1]).nonzero().tolist()
    checked = 0
    for t, n in ends:
        begins = [s for s in range(t + 1) if rollout.is_first[s, n]]
        if not begins:
            continue
        assert not rollout.valid[t + 1, n]
        assert rollout.is_first[t + 2, n]
        seen = [map_obs(lambda f, s=s, n=n: f[s, n], rollout.obs) for s in range(begins[-1], t + 2)]
        torch.testing.assert_close(rollout.value[t + 1, n], played_by_hand(policy, seen))
        checked += 1
    assert checked > 1


def gradients(learner, batch):
    learner.policy.zero_grad()
    learner._add_gradients(batch, 1.0, live=torch.ones(1), entropy_coef=0.01)
    return [parameter.grad for parameter in learner.policy.parameters()]


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("kind", CORES)
def test_minibatches_over_all_columns_add_up_to_the_gradient_of_whole_sequences(kind, autoreset):
    policy, rollout = collected(kind, autoreset)
    learner = PPO(policy, minibatch_size=2 * T, **PLAIN)
    batch = learner._batch(rollout, rewards_of(rollout))
    assert batch.valid.shape == (T, N)
    whole = gradients(learner, batch)
    parts = list(minibatches(batch, 2 * T, torch.Generator().manual_seed(0)))
    assert [part.valid.shape for part in parts] == [(T, 2)] * 3
    total = [torch.zeros_like(gradient) for gradient in whole]
    for part in parts:
        share = part.valid.sum() / batch.valid.sum()
        for sum_, gradient in zip(total, gradients(learner, part), strict=True):
            sum_ += share * gradient
    for ours, expected in zip(total, whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "burn_in"), [(6, 0), (8, 0), (24, 0), (6, 6), (5, 4), (40, 3)])
def test_each_valid_row_enters_the_loss_once_with_the_state_of_acting(length, burn_in):
    policy, rollout = collected(LSTM, "next_step")
    learner = PPO(policy, minibatch_size=48, sequence_length=length, burn_in=burn_in, **PLAIN)
    batch = learner._batch(rollout, rewards_of(rollout))
    used = batch.rows[batch.valid]
    assert sorted(used.tolist()) == rollout.valid.flatten().nonzero()[:, 0].tolist()
    assert batch.valid.shape[0] == min(length + burn_in, T)
    out = policy(batch.obs, batch.state, batch.is_first)  # all rows, also those that warm up
    torch.testing.assert_close(
        out.dist.log_prob(batch.action), batch.log_prob, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(out.value, rollout.value[:-1].flatten(0, 1)[batch.rows])
    metrics = learner.update(rollout, rewards_of(rollout))
    assert metrics["train/approx_kl"] < 0.01


def test_gradients_stop_at_the_beginning_of_a_sequence():
    """They equal those of a loop that detaches the state every six steps."""
    policy, rollout = collected()
    learner = PPO(policy, minibatch_size=T * N, sequence_length=6, **PLAIN)
    ours = gradients(learner, learner._batch(rollout, rewards_of(rollout)))
    whole = PPO(policy, minibatch_size=T * N, **PLAIN)
    batch = whole._batch(rollout, rewards_of(rollout))
    state, values, log_probs, entropies = rollout.state, [], [], []
    for t in range(T):
        if t % 6 == 0:
            state = map_obs(torch.Tensor.detach, state)
        row = map_obs(lambda field, t=t: field[t : t + 1], rollout.obs)
        out = policy(row, state, rollout.is_first[t : t + 1])
        state = out.state
        values.append(out.value)
        log_probs.append(out.dist.log_prob(rollout.action[t : t + 1]))
        entropies.append(out.dist.entropy())
    ratio = (torch.cat(log_probs) - rollout.log_prob).exp()
    clipped = ratio.clamp(0.8, 1.2)
    surrogate = -torch.min(ratio * batch.advantage, clipped * batch.advantage).mean()
    error = 0.5 * (torch.cat(values) - batch.target).square().mean()
    loss = surrogate + 0.5 * error - 0.01 * torch.cat(entropies).mean()
    expected = torch.autograd.grad(loss, list(policy.parameters()))
    through = gradients(whole, batch)
    for one, two in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(ours, through, strict=True))


def test_what_burn_in_steps_would_add_to_the_loss_changes_no_gradient():
    policy, rollout = collected()
    learner = PPO(policy, minibatch_size=T * N, sequence_length=6, burn_in=6, **PLAIN)
    batch = learner._batch(rollout, rewards_of(rollout))
    warm = torch.ones_like(batch.valid)
    warm[6:] = False
    warm[:, :N] = False  # the first sequences have nothing before them
    assert torch.equal(warm, ~batch.valid)
    noise = torch.where(warm, 7.0, 0.0)
    changed = dataclasses.replace(
        batch,
        log_prob=batch.log_prob + noise,
        advantage=batch.advantage + noise,
        target=batch.target + noise[..., None],
        value=batch.value + noise[..., None],
    )
    for one, two in zip(gradients(learner, batch), gradients(learner, changed), strict=True):
        assert torch.equal(one, two)
    other = dataclasses.replace(batch, obs=map_obs(lambda f: f + warm[..., None], batch.obs))
    moved = gradients(learner, other)  # but they do warm up the memory
    assert any(
        not torch.equal(one, two) for one, two in zip(gradients(learner, batch), moved, strict=True)
    )


@pytest.mark.parametrize("options", [{}, {"sequence_length": 8, "burn_in": 8}], ids=str)
def test_permuting_environments_leaves_the_update_as_it_is(options):
    policy, rollout = collected(LSTM, "same_step")
    order = torch.tensor([4, 2, 0, 5, 1, 3])

    def columns(field):
        return map_obs(columns, field) if isinstance(field, dict) else field[:, order]

    names = ("obs", "info", "action", "log_prob", "value", "reward", "terminated", "truncated")
    names = (*names, "valid", "is_first", "states")
    final_at = rollout.final_at.clone()
    final_at[:, 1] = order.argsort()[final_at[:, 1]]
    permuted = dataclasses.replace(
        rollout,
        **{name: columns(getattr(rollout, name)) for name in names},
        state=take(rollout.state, order),
        final_at=final_at,
    )
    updated = []
    for case in (rollout, permuted):
        copied = copy.deepcopy(policy)
        PPO(copied, minibatch_size=T * N, num_epochs=2, **options).update(case, rewards_of(case))
        updated.append(copied.state_dict())
    for name, field in updated[0].items():
        torch.testing.assert_close(updated[1][name], field, atol=1e-5, rtol=1e-4)
        assert not torch.equal(field, policy.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minibatch_size": T - 1}, "minibatch_size is 23, which would cut the sequences of 24"),
        ({"minibatch_size": 5, "sequence_length": 6}, "would cut the sequences of 6 steps"),
        ({"sequence_length": 7}, "sequence_length is 7, expected a divisor of the 24 steps"),
        ({"sequence_length": 6, "burn_in": 4}, "24 steps of a rollout less a burn_in of 4"),
    ],
)
def test_sizes_that_would_cut_sequences_are_refused_before_training(options, message):
    vec = Chain(N, length=3)
    with pytest.raises(ValueError, match=message):
        Trainer(vec, PPO(make_policy(vec), **options), num_steps=T)
    plain = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space))
    Trainer(vec, PPO(plain, **options), num_steps=T).iterate(10**6)  # without a memory they fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 1}, "sequence_length is 1, expected at least 2"),
        ({"burn_in": 4}, "burn_in is 4, expected 0, or more with a sequence_length"),
        ({"sequence_length": 4, "burn_in": -1}, "burn_in is -1, expected 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    vec = Chain(N, length=3)
    with pytest.raises(ValueError, match=message):
        PPO(make_policy(vec), **options)


def test_the_core_of_the_values_goes_with_features_of_their_own():
    vec = Chain(N, length=3)
    encoder, other = MLP(vec.obs_space, hidden=(8,)), MLP(vec.obs_space, hidden=(8,))
    for parts in ({"critic_core": GRU(8)}, {"core": GRU(8), "critic_encoder": other}):
        with pytest.raises(ValueError, match="critic_core is given with a core"):
            ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, **parts)


@pytest.mark.parametrize(("length", "burn_in", "size"), [(None, 0, 48), (8, 0, 30), (6, 6, 36)])
def test_the_number_of_gradient_steps_is_known_before(length, burn_in, size):
    vec = Chain(N, length=3, autoreset="next_step")
    learner = PPO(make_policy(vec), minibatch_size=size, sequence_length=length, burn_in=burn_in)
    taken = counted_steps(learner.optimizer)
    Trainer(vec, learner, num_steps=T).iterate(10**6)
    assert len(taken) == learner.gradient_steps(T, N) == 4 * round(T * N / size)


def test_an_auxiliary_that_clones_single_steps_refuses_a_memory():
    vec = Chain(N, length=3)
    with pytest.raises(ValueError, match=r"Rapid clones single steps, .* set core=none"):
        PPO(make_policy(vec), auxiliaries=[Rapid(vec.obs_space)])


@pytest.mark.parametrize("options", [{}, {"sequence_length": 8, "burn_in": 8}], ids=str)
def test_prediction_heads_read_the_encoder_and_no_row_that_is_not_valid(options):
    policy, rollout = collected(LSTM, "next_step")
    heads = [RewardPrediction(10, length=4, hidden=4), StateReconstruction(policy.obs_space, 10)]
    learner = PPO(policy, minibatch_size=48, auxiliaries=heads, **options)
    learner.auxiliaries.observe(rollout, 0.0)
    batch = learner._batch(rollout, rewards_of(rollout))
    assert not batch.valid.all()
    twice = dataclasses.replace(
        batch,
        obs=map_obs(lambda f: torch.where(batch.valid[..., None], f, 1 - f), batch.obs),
        rows=torch.where(batch.valid, batch.rows, 0),
    )
    for head in heads:
        assert torch.equal(head.loss(policy, batch), head.loss(policy, twice))
    metrics = learner.update(rollout, rewards_of(rollout))
    assert metrics["reward_prediction/loss"] > 0
    assert metrics["state_reconstruction/loss"] > 0


@pytest.mark.parametrize("kind", CORES)
def test_the_fisher_matrix_of_a_policy_with_a_memory_is_that_of_its_jacobian(kind):
    policy, rollout = collected(kind, steps=8)
    parameters = list(policy.parameters())
    past = map_obs(lambda field: field[:8], rollout.obs)

    def distribution():
        return policy(past, rollout.state, rollout.is_first[:8]).dist

    numbers = torch.Generator().manual_seed(0)
    sizes = [p.numel() for p in parameters]
    vector = torch.randn(sum(sizes), generator=numbers)
    product = fisher_product(distribution, parameters, vector, rollout.valid)
    params = distribution().params
    rows = []
    for output in params.flatten():
        gradient = torch.autograd.grad(
            output, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([part.flatten() for part in gradient]))
    jacobian = torch.stack(rows)
    metric = params.detach().exp().flatten()
    expected = jacobian.t() @ (metric * (jacobian @ vector)) / rollout.valid.sum()
    assert (product - expected).abs().max() < 1e-2 * expected.abs().max()


@pytest.mark.parametrize("natural", [False, True])
def test_subpo_trains_the_memory_through_time(natural):
    policy, rollout = collected()
    before = copy.deepcopy(policy.core.state_dict())
    SubPO(policy, natural=natural).update(rollout, rewards_of(rollout))
    for name, field in policy.core.state_dict().items():
        assert not torch.equal(field, before[name])


@pytest.mark.parametrize("kind", CORES)
def test_an_agent_carries_the_memory_from_call_to_call(kind):
    policy, rollout = collected(kind, encoders="separate")
    column = map_obs(lambda field: field[:, 0], rollout.obs)
    first = rollout.is_first[:, 0].clone()
    first[0] = True
    whole = policy(
        map_obs(lambda field: field[:, None], column), policy.initial_state(1), first[:, None]
    )
    agent, state, chosen = Agent(policy), None, []
    for t in range(T + 1):
        state = None if first[t] else state
        action, state = agent.act({"obs": column["obs"][t].numpy()}, state, deterministic=True)
        chosen.append(int(action))
    assert chosen == whole.dist.mode()[:, 0].tolist()
    assert set(state) == set(whole.state)
    for name, field in state.items():
        torch.testing.assert_close(field, whole.state[name])
        assert field.abs().sum() > 0


@pytest.mark.parametrize("kind", [GRU, LSTM, None])
def test_a_bit_is_remembered_only_with_a_memory(kind):
    vec = Recall(32, delay=4, autoreset="next_step" if kind is LSTM else "same_step")
    torch.manual_seed(0)
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=MLP(vec.obs_space, hidden=(16,)),
        core=None if kind is None else kind(16, hidden=16),
    )
    learner = PPO(policy, lr=1e-2, minibatch_size=160, sequence_length=10, entropy_coef=0.0)
    trainer = Trainer(vec, learner, num_steps=20, seed=0)
    returns = []

    def solved(run, metrics):
        returns.append(metrics.get("rollout/return_mean", 0.0))
        return returns[-1] > 0.95

    trainer.run(40_000, [solved])
    if kind is None:
        assert max(returns) < 0.7
    else:
        assert max(returns) > 0.95
