"""Rules that hold for every combine: weight 0, invalid rows, order of terms, purity."""

import copy
import dataclasses

import pytest
import torch
from hand_made import noise

from firstlight import envs
from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.intrinsic import HashCount, Heads, RewardMixer, Streams, Sum, Term
from firstlight.intrinsic.mixer import (
    Krc,
    Lagrangian,
    ParSigmoid,
    Product,
)

EVERY = {
    "sum": Sum,
    "heads": Heads,
    "streams": lambda: Streams({"task": ["reward"], "extra": ["b"]}),
    "one stream": lambda: Streams({"all": ["reward", "b"]}),
    "product": Product,
    "product, one head": lambda: Product(heads=False),
    "krc": Krc,
    "krc, one head": lambda: Krc(heads=False),
    "normalised heads": lambda: Heads(normalize=True),
    "lagrangian": lambda: Lagrangian(thresholds={"b": 0.5}),
    "raw lagrangian": lambda: Lagrangian(thresholds={"b": 0.5}, normalize=False),
    "equality": lambda: Lagrangian(thresholds={"b": 0.5}, equality=True, per="step"),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def make_policy(vec, num_streams=1, seed=0):
    torch.manual_seed(seed)
    encoder = MLP(vec.obs_space, hidden=(32,))
    return ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=num_streams)


@every
def test_a_source_of_weight_zero_does_not_change_an_update(make):
    """The policy and the reward's value head change as if there were no other stream."""
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.0)}, make())
    vec, K = envs.Chain(8, length=3), mixer.num_streams
    policy = make_policy(vec, K)
    rollout = envs.Runner(vec).collect(policy, 32)
    alone = make_policy(vec)
    streams = ("value_head", "returns")
    first = {k: v[:1] if k.startswith(streams) else v for k, v in policy.state_dict().items()}
    alone.load_state_dict(first)
    before = copy.deepcopy(policy.value_head.weight)
    rewards = mixer(rollout, {})
    PPO(policy, minibatch_size=64).update(rollout, rewards)
    mixer.update(rollout, rewards)
    single = dataclasses.replace(rollout, value=rollout.value[..., :1])
    PPO(alone, minibatch_size=64).update(single, RewardMixer({}, Sum())(single, {}))
    exact = {"atol": 0.0 if K == 1 else 1e-6, "rtol": 0}
    torch.testing.assert_close(policy.policy_head.weight, alone.policy_head.weight, **exact)
    torch.testing.assert_close(policy.value_head.weight[:1], alone.value_head.weight, **exact)
    assert torch.equal(policy.value_head.weight[1:], before[1:])
    assert not torch.equal(policy.value_head.weight[:1], before[:1])


@pytest.mark.parametrize("make", [Sum, lambda: Product(heads=False), lambda: Krc(heads=False)])
def test_with_one_stream_weight_zero_is_bit_identical_to_no_module(make):
    def train(weight):
        vec = envs.Chain(8, length=3)
        modules = {} if weight is None else {"b": HashCount(vec.obs_space)}
        mixer = RewardMixer({"reward": Term()} | {n: Term(weight=weight) for n in modules}, make())
        trainer = Trainer(
            vec, PPO(make_policy(vec), minibatch_size=64), modules, mixer, num_steps=32
        )
        for _ in range(3):
            trainer.iterate(10_000)
        return list(trainer.policy.parameters())

    without, zero, one = train(None), train(0.0), train(1.0)
    assert all(torch.equal(a, b) for a, b in zip(without, zero, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(without, one, strict=True))


@every
def test_invalid_rows_change_neither_the_update_nor_the_statistics(make):
    term = Term(weight=0.5, transform=ParSigmoid())
    mixer = RewardMixer({"reward": Term(), "b": term}, make())
    vec = envs.Chain(8, length=3, autoreset="next_step")
    policy = make_policy(vec, mixer.num_streams)
    rollout = envs.Runner(vec).collect(policy, 32)
    assert not rollout.valid.all()
    bonus = noise(rollout)
    scrambled = dataclasses.replace(
        rollout,
        action=torch.where(rollout.valid, rollout.action, 1 - rollout.action),
        log_prob=torch.where(rollout.valid, rollout.log_prob, -50.0),
        reward=torch.where(rollout.valid, rollout.reward, 1e6),
    )
    states = []
    for case, extra in ((rollout, bonus), (scrambled, bonus.where(rollout.valid, -1e6))):
        learner, own = PPO(copy.deepcopy(policy), minibatch_size=64), copy.deepcopy(mixer)
        for _ in range(2):
            rewards = own(case, {"b": extra})
            assert not rewards.reward[~rollout.valid].any()
            learner.update(case, rewards)
            own.update(case, rewards)
        states.append({**learner.policy.state_dict(), **own.state_dict()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@every
def test_permuting_the_terms_permutes_the_streams(rollout, make):
    terms = {"reward": Term(), "b": Term(weight=0.3, gamma=0.99)}
    bonus = {"b": noise(rollout)}
    straight, swapped = (
        RewardMixer({n: terms[n] for n in names}, make())(rollout, bonus)
        for names in (("reward", "b"), ("b", "reward"))
    )
    order = [straight.streams.index(name) for name in swapped.streams]
    for field in ("reward", "discount", "carry", "weight"):
        torch.testing.assert_close(
            getattr(straight, field)[..., order], getattr(swapped, field), atol=1e-6, rtol=0
        )


@every
def test_the_environments_reward_is_not_scaled_or_clipped_by_default(rollout, make):
    loud = dataclasses.replace(rollout, reward=rollout.reward * 1e6)
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.0)}, make())
    for _ in range(3):
        rewards = mixer(loud, {})
        mixer.update(loud, rewards)
    assert torch.equal(rewards.reward[..., 0], torch.where(loud.valid, loud.reward, 0.0))
    assert rewards.weight[0] == 1


@every
def test_forward_stores_nothing_and_shapes_and_dtypes_match(rollout, make):
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.5)}, make())
    before = {k: v.clone() for k, v in mixer.state_dict().items()}
    first, second = (mixer(rollout, {"b": noise(rollout)}) for _ in range(2))
    assert all(torch.equal(v, before[k]) for k, v in mixer.state_dict().items())
    assert torch.equal(first.reward, second.reward)
    assert first.reward.dtype == first.weight.dtype == torch.float32
    assert first.reward.shape[-1] == len(first.weight) == len(first.streams) == mixer.num_streams
