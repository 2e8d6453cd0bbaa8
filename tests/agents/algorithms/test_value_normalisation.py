"""Values in units of their streams' returns: units of rewards do not matter, outputs are kept."""

import copy
import dataclasses
from functools import cache, partial

import gymnasium
import numpy as np
import pytest
import torch

from firstlight.agents import MLP, PPO, ActorCritic, SubPO, Trainer, load
from firstlight.agents.session.run_directory import checkpoint
from firstlight.envs import Chain, GymVec, Runner
from firstlight.intrinsic import HashCount, Heads, RewardMixer, Sum, Term
from firstlight.networks.normalisation import ReturnNormaliser

KINDS = ["popart", "scale"]


def make_policy(vec, kind="popart", num_streams=1, seed=0):
    torch.manual_seed(seed)
    encoder = MLP(vec.obs_space, hidden=(16,))
    options = {"num_streams": num_streams, "normalize_value": kind}
    return ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, **options)


def scaled_env(scale):
    env = gymnasium.make("CartPole-v1")
    return gymnasium.wrappers.TransformReward(env, partial(float.__mul__, float(scale)))


@cache
def trained(scale, kind, *, bonus=False):
    """Return the policy after four iterations on rewards times `scale`."""
    vec = GymVec([partial(scaled_env, scale)] * 4)
    modules = {"count": HashCount(vec.obs_space, bits=16)} if bonus else {}
    terms = {"reward": Term(), **{name: Term(weight=0.5) for name in modules}}
    mixer = RewardMixer(terms, Heads(normalize=True) if bonus else Sum())
    policy = make_policy(vec, kind, mixer.num_streams)
    options = {"minibatch_size": 32, "num_epochs": 2, "advantage_floor": 1e-3}
    trainer = Trainer(vec, PPO(policy, **options), modules, mixer, num_steps=32)
    for _ in range(4):
        trainer.iterate(10_000)
    return policy


def parameters(policy):
    return {name: p.detach() for name, p in policy.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_are_powers_of_two_change_no_bit(kind):
    plain = parameters(trained(1, kind, bonus=False))
    for scale in (2**-10, 2**10):
        other = trained(scale, kind)
        assert all(torch.equal(plain[name], p) for name, p in parameters(other).items())
    assert float(other.returns.scale) > 2**10


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_units_change_only_rounding(kind, bonus):
    plain = parameters(trained(1, kind, bonus=bonus))
    for scale in (1e-3, 1e3):
        other = parameters(trained(scale, kind, bonus=bonus))
        for name, p in other.items():
            torch.testing.assert_close(p, plain[name], atol=2e-4, rtol=0, msg=name)


def test_without_normalisation_units_do_change_training():
    plain, other = (parameters(trained(scale, "none")) for scale in (1, 1e3))
    assert max(float((other[n] - plain[n]).abs().max()) for n in plain) > 2e-3


def some_rewards(seed, rows=200, offset=0.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, generator=g), torch.randn(rows, 2, generator=g) * 30 + offset


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_moving_moments_without_a_bias_from_their_start(kind):
    normaliser = ReturnNormaliser(2, centred=kind == "popart", decay=0.9)
    means, squares, peaks = [], [], []
    for seed in range(5):
        reward, target = some_rewards(seed, offset=100 * seed)
        normaliser.update(reward, target)
        means.append(target.double().numpy().mean(0))
        squares.append((target.double().numpy() ** 2).mean(0))
        peaks.append(reward.abs().amax(0).numpy())
    weights = 0.9 ** np.arange(5)[::-1]
    mean = np.average(means, 0, weights) if kind == "popart" else np.zeros(2)
    std = np.sqrt(np.average(squares, 0, weights) - mean**2)
    assert (std > np.max(peaks, 0)).all()
    np.testing.assert_allclose(normaliser.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(normaliser.scale, std, rtol=1e-5)


def test_the_order_of_rows_does_not_matter():
    one, other = ReturnNormaliser(2), ReturnNormaliser(2)
    reward, target = some_rewards(0)
    order = torch.randperm(len(reward), generator=torch.Generator().manual_seed(1))
    one.update(reward, target)
    other.update(reward[order], target[order])
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-9)


def test_each_stream_waits_for_its_own_first_reward():
    normaliser = ReturnNormaliser(2)
    zeros, target = torch.zeros(9, 2), torch.full((9, 2), 70.0)
    normaliser.update(zeros, target)
    assert normaliser.mean.tolist() == [0, 0]
    assert normaliser.scale.tolist() == [1, 1]
    normaliser.update(torch.tensor([[0.0, 1e-3]]).expand(9, 2), target)
    assert normaliser.rewarded.tolist() == [False, True]
    assert normaliser.scale.tolist() == pytest.approx([1, 1e-3])
    assert normaliser.mean.tolist() == pytest.approx([0, 70])


def test_the_scale_stays_while_a_sparse_reward_is_absent():
    normaliser = ReturnNormaliser(1)
    normaliser.update(torch.tensor([[0.0], [5.0]]), torch.tensor([[0.0], [5.0]]))
    for _ in range(1000):
        normaliser.update(torch.zeros(64, 1), torch.zeros(64, 1))
    assert float(normaliser.scale) == pytest.approx(5)


@pytest.mark.parametrize("kind", KINDS)
def test_new_statistics_do_not_change_what_the_heads_predict(kind):
    vec = Chain(8, length=3)
    policy = make_policy(vec, kind, num_streams=2)
    torch.nn.init.normal_(policy.value_head.weight)
    obs = {"obs": torch.randint(0, 2, (1, 40, 4), dtype=torch.uint8)}
    first = torch.ones(1, 40, dtype=torch.bool)
    for seed, offset in enumerate((0, -500, 30)):
        before = policy(obs, {}, first).value
        policy.observe_returns(*some_rewards(seed, offset=offset))
        after = policy(obs, {}, first).value
        assert policy.returns.scale.min() > 10
        torch.testing.assert_close(after, before, atol=5e-5 * (1 + abs(offset)), rtol=1e-4)


def test_heads_that_have_learnt_nothing_predict_the_mean():
    vec = Chain(8, length=3)
    policy = make_policy(vec, num_streams=2)
    rollout = Runner(vec).collect(policy, 8)
    assert not rollout.value.any()
    policy.observe_returns(*some_rewards(0, offset=-60))
    value = Runner(vec).collect(policy, 8).value
    torch.testing.assert_close(value, policy.returns.mean.expand_as(value))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_reward_after_a_million_zeros_moves_no_more_than_one_step(kind):
    vec = Chain(8, length=3)
    policy = make_policy(vec, kind)
    options = {"num_epochs": 1, "minibatch_size": 10**6, "entropy_coef": 0.0, "adaptive_kl": None}
    learner = PPO(policy, lr=1e-3, **options)
    before = parameters(copy.deepcopy(policy))

    def update(*ends):
        rollout = Runner(vec).collect(policy, 32)
        reward = torch.zeros_like(rollout.reward)
        for end in ends:
            reward[end] = 1.0
        rollout = dataclasses.replace(rollout, reward=reward)
        return learner.update(rollout, RewardMixer({})(rollout, {}))

    policy.observe_returns(torch.zeros(10**6, 1), torch.zeros(10**6, 1))
    for _ in range(5):
        update()
    for name, p in parameters(policy).items():
        assert torch.equal(p, before[name]), name  # nothing to learn from, not even noise
    assert policy.returns.scale == 1
    metrics = update((20, 3))
    assert 0 < metrics["train/grad_norm"] < float("inf")
    for name, p in parameters(policy).items():
        # Adam's largest step at its sixth update, when the five before had no gradient
        bound = 1e-3 * (0.1 / (1 - 0.9**6)) / (0.001 / (1 - 0.999**6)) ** 0.5
        assert (p - before[name]).abs().max() <= bound * 1.01, name
    assert policy.returns.scale == 1  # the size of the one reward


def test_a_few_huge_rewards_do_not_set_the_scale():
    """As NetHack's score: most rewards are small, and one in ten thousand is 200."""
    generator, returns = torch.Generator().manual_seed(0), ReturnNormaliser(1)
    for _ in range(50):
        reward = torch.rand(4096, 1, generator=generator) - 0.5
        reward[torch.rand(4096, 1, generator=generator) < 1e-4] = 200.0
        returns.update(reward, 3 * torch.randn(4096, 1, generator=generator))
    assert 3 / 1.1 < returns.scale < 3 * 1.5


def test_a_checkpoint_that_holds_the_largest_reward_keeps_its_scale():
    before = ReturnNormaliser(2)
    before.update(torch.tensor([[0.5, 0.0]]), torch.zeros(1, 2))
    state = before.state_dict()
    for name in ("reward_total", "reward_square"):
        del state[name]
    state["largest"] = torch.tensor([0.5, 0.0], dtype=torch.float64)
    loaded = ReturnNormaliser(2)
    loaded.load_state_dict(state)
    assert loaded.scale.tolist() == [0.5, 1.0]
    loaded.update(torch.zeros(3, 2), torch.zeros(3, 2))
    assert loaded.scale.tolist() == [0.5, 1.0]


def test_invalid_rows_are_not_counted():
    vec = Chain(8, length=3, autoreset="next_step")
    policy = make_policy(vec)
    rollout = Runner(vec).collect(policy, 32)
    assert not rollout.valid.all()
    spoilt = dataclasses.replace(rollout, reward=torch.where(rollout.valid, rollout.reward, 1e6))
    updated = []
    for case in (rollout, spoilt):
        copied = copy.deepcopy(policy)
        PPO(copied, minibatch_size=64).update(case, RewardMixer({})(case, {}))
        updated.append(copied.state_dict())
    torch.testing.assert_close(updated[0], updated[1], rtol=0, atol=0)


@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_a_stream_of_weight_zero_is_absent(floor):
    vec = Chain(8, length=3)
    policy = make_policy(vec, num_streams=2)
    single = make_policy(vec, num_streams=1)
    shared = {k: v for k, v in policy.state_dict().items() if "returns" not in k}
    shared |= {k: v[:1] for k, v in shared.items() if k.startswith("value_head")}
    single.load_state_dict(single.state_dict() | shared)
    rollout = Runner(vec).collect(policy, 32)
    alone = dataclasses.replace(rollout, value=rollout.value[..., :1])
    options = {"minibatch_size": 64, "advantage_floor": floor}
    bonus = {"b": torch.rand(rollout.reward.shape) * 1e4}
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.0)}, Heads())
    PPO(policy, **options).update(rollout, mixer(rollout, bonus))
    PPO(single, **options).update(alone, RewardMixer({"reward": Term()})(alone, {}))
    ours, theirs = parameters(policy), parameters(single)
    for name, p in theirs.items():
        own = ours[name][:1] if name.startswith("value_head") else ours[name]
        torch.testing.assert_close(own, p, atol=1e-6, rtol=0)


def test_a_batch_without_rewards_is_not_scaled_up():
    vec = Chain(8, length=3)
    moved = []
    for floor in (0.0, 1.0):
        policy = make_policy(vec, "none")
        rollout = Runner(vec).collect(policy, 32)
        rollout = dataclasses.replace(rollout, reward=torch.zeros_like(rollout.reward))
        rewards = RewardMixer({})(rollout, {})
        learner = PPO(policy, num_epochs=1, minibatch_size=10**6, advantage_floor=floor)
        moved.append(abs(learner.update(rollout, rewards)["train/grad_norm"]))
    assert moved[1] < moved[0]


def test_subpo_learns_in_units_of_returns_too():
    vec = Chain(8, length=3)
    policy = make_policy(vec)
    rollout = Runner(vec).collect(policy, 32)
    learner = SubPO(policy, gamma=None)
    rollout = dataclasses.replace(rollout, reward=torch.full_like(rollout.reward, 1e3))
    metrics = learner.update(rollout, RewardMixer({})(rollout, {}))
    assert policy.returns.scale >= 1e3
    assert metrics["train/value_loss"] < 100


def resumed(folder, total, resume=False):
    vec = Chain(8, length=3)
    learner = PPO(make_policy(vec), minibatch_size=64, adaptive_kl=0.01, lr_decay="linear")
    trainer = Trainer(vec, learner, num_steps=16, run_dir=folder, resume=resume)
    trainer.run(total)
    return learner


def test_a_run_resumes_exactly_and_its_agent_has_the_statistics(tmp_path):
    unbroken = resumed(tmp_path / "one", 128 * 6)
    part = Chain(8, length=3)
    learner = PPO(make_policy(part), minibatch_size=64, adaptive_kl=0.01, lr_decay="linear")
    trainer = Trainer(part, learner, num_steps=16, run_dir=tmp_path / "two", checkpoint_every=128)
    trainer.run(128 * 6, [lambda run, metrics: run.steps >= 128 * 3])
    again = resumed(tmp_path / "two", 128 * 6, resume=True)
    ours, theirs = again.state_dict(), unbroken.state_dict()
    assert ours["lr_factor"] == theirs["lr_factor"]
    torch.testing.assert_close(ours["policy"], theirs["policy"], rtol=0, atol=0)
    agent = load(tmp_path / "two", which="newest")
    assert agent.policy.init_kwargs["normalize_value"] == "popart"
    assert torch.equal(agent.policy.returns.scale, again.policy.returns.scale)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="normalize_value is 'often', expected one of none"):
        make_policy(Chain(2, length=3), "often")


def test_policies_of_older_checkpoints_are_not_normalised():
    vec = Chain(2, length=3)
    kwargs = {"obs_space": {}, "act_space": {"space": "Discrete", "n": 2}, "encoder": {}}
    kwargs |= {"critic_encoder": None, "num_streams": 1}
    old = {"policy_spec": {"target": "theirs.Policy", "kwargs": kwargs}}
    assert checkpoint.upgraded(old, 2)["policy_spec"]["kwargs"]["normalize_value"] == "none"
    assert not any("returns" in name for name in make_policy(vec, "none").state_dict())
