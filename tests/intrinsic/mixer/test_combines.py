"""Combines: product, geometric AND, Lagrangian; and the laws of weight and rows under them all."""

import copy
import dataclasses
import math

import hand_made
import pytest
import torch

from firstlight import envs
from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.intrinsic import HashCount, Heads, Linear, RewardMixer, Streams, Sum, Term
from firstlight.intrinsic.mixer import (
    Krc,
    Lagrangian,
    ParSigmoid,
    Product,
    ThresholdSearch,
)
from firstlight.intrinsic.mixer.thresholds import nelder_mead

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


@pytest.fixture
def rollout():
    vec = envs.Chain(6, length=3, autoreset="next_step")
    return envs.Runner(vec).collect(envs.RandomActor(vec.act_space), 40)


def noise(rollout, seed=0, low=0.0):
    numbers = torch.Generator().manual_seed(seed)
    return low + (1 - low) * torch.rand(rollout.reward.shape, generator=numbers)


# the laws, under every combine


def make_policy(vec, num_streams=1, seed=0):
    torch.manual_seed(seed)
    encoder = MLP(vec.obs_space, hidden=(32,))
    return ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=num_streams)


@every
def test_a_source_of_weight_zero_leaves_no_trace_in_an_update(make):
    """The reward's head and the policy move as if there were no other stream."""
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.0)}, make())
    vec, K = envs.Chain(8, length=3), mixer.num_streams
    policy = make_policy(vec, K)
    rollout = envs.Runner(vec).collect(policy, 32)
    alone = make_policy(vec)
    first = {k: v[:1] if k.startswith("value_head") else v for k, v in policy.state_dict().items()}
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
def test_rows_that_are_not_valid_change_neither_the_update_nor_what_is_stored(make):
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
def test_the_environments_reward_is_not_scaled_or_clipped_unless_told(rollout, make):
    loud = dataclasses.replace(rollout, reward=rollout.reward * 1e6)
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.0)}, make())
    for _ in range(3):
        rewards = mixer(loud, {})
        mixer.update(loud, rewards)
    assert torch.equal(rewards.reward[..., 0], torch.where(loud.valid, loud.reward, 0.0))
    assert rewards.weight[0] == 1


@every
def test_calling_stores_nothing_and_devices_and_types_fit(rollout, make):
    mixer = RewardMixer({"reward": Term(), "b": Term(weight=0.5)}, make())
    before = {k: v.clone() for k, v in mixer.state_dict().items()}
    first, second = (mixer(rollout, {"b": noise(rollout)}) for _ in range(2))
    assert all(torch.equal(v, before[k]) for k, v in mixer.state_dict().items())
    assert torch.equal(first.reward, second.reward)
    assert first.reward.dtype == first.weight.dtype == torch.float32
    assert first.reward.shape[-1] == len(first.weight) == len(first.streams) == mixer.num_streams


# product and geometric AND


@pytest.mark.parametrize("heads", [True, False])
def test_a_product_multiplies_weighted_bonuses_and_leaves_the_reward_beside_it(rollout, heads):
    a, b = noise(rollout, 0), noise(rollout, 1)
    terms = {"reward": Term(weight=2.0), "a": Term(weight=0.5), "b": Term()}
    mixer = RewardMixer(terms, Product(heads=heads, gamma=0.9, episodic=False))
    rewards = mixer(rollout, {"a": a, "b": b})
    joined = 0.5 * a * b * rollout.valid
    if heads:
        assert rewards.streams == ("reward", "bonus")
        assert rewards.weight.tolist() == [2.0, 1.0]
        torch.testing.assert_close(rewards.reward[..., 1], joined)
        assert torch.equal(rewards.reward[..., 0], rollout.reward)
        assert (rewards.discount[..., 1] == torch.tensor(0.9)).all()
        assert (rewards.carry[..., 1] == 1).all()
    else:
        torch.testing.assert_close(rewards.reward[..., 0], 2 * rollout.reward + joined)
        assert mixer.num_streams == 1


def test_a_product_with_one_live_source_is_that_source(rollout):
    a, b = noise(rollout, 0), noise(rollout, 1)
    for combine in (Product(), Krc()):
        mixer = RewardMixer({"a": Term(), "b": Term(weight=Linear(1.0, 0.0, finish=0.5))}, combine)
        both = mixer(rollout, {"a": a, "b": b}).reward[..., 1]
        rest = mixer(rollout, {"a": a}, progress=1.0).reward[..., 1]
        assert torch.equal(rest, a * rollout.valid)
        assert not torch.equal(rest, both)


def test_without_bonuses_there_is_the_reward_alone(rollout):
    for combine in (Product(), Krc()):
        assert RewardMixer({}, combine)(rollout, {}).streams == ("reward",)


def naive_krc(values):
    size = math.prod(abs(v) for v in values) ** (1 / len(values))
    return size if all(v >= 0 for v in values) else -size


def test_krc_is_a_geometric_mean_with_a_sign_that_all_must_agree_to(rollout):
    bonus = {name: noise(rollout, i, low=-0.4) for i, name in enumerate("abc")}
    rewards = RewardMixer({name: Term() for name in bonus}, Krc())(rollout, bonus)
    for t, n in rollout.valid.nonzero().tolist():
        expected = naive_krc([bonus[name][t, n].item() for name in bonus])
        assert rewards.reward[t, n, 1].item() == pytest.approx(expected, abs=1e-5)
    both = rewards.reward[..., 1]
    assert both.abs().max() <= 1
    signs = torch.stack([values < 0 for values in bonus.values()]).sum(0)
    assert (both[rollout.valid & (signs == 2)] < 0).all()  # two negatives do not cancel
    assert (both[rollout.valid & (signs == 0)] > 0).all()


def test_krc_asks_for_all_where_a_sum_can_be_bought_by_one(rollout):
    balanced, lopsided = (0.5, 0.5), (1.0, 0.1)

    def value(combine, pair):
        bonus = {n: torch.full_like(rollout.reward, v) for n, v in zip("ab", pair, strict=True)}
        terms = {"reward": Term(weight=0.0), "a": Term(), "b": Term()}
        return RewardMixer(terms, combine)(rollout, bonus).reward[rollout.valid][0, -1].item()

    assert value(Sum(), lopsided) > value(Sum(), balanced)
    assert value(Krc(), lopsided) < value(Krc(), balanced)
    assert value(Krc(), (0.0, 1.0)) == 0


# Lagrangian multipliers


def bandit(mixer, pays, iterations=600, entropy=0.1, N=256):
    """A softmax policy over two arms that learns from the mixer's streams.

    `pays` is source name to what each arm pays; a function is told the chance of the second arm.
    Returns those chances, iteration by iteration.
    """
    numbers, logit, chances = torch.Generator().manual_seed(0), torch.zeros(()), []
    rollout = hand_made.rollout({"obs": torch.zeros(2, N)})
    rollout.terminated[:] = True
    for _ in range(iterations):
        p = torch.sigmoid(logit)
        arm = (torch.rand(1, N, generator=numbers) < p).long()
        task = pays["reward"](p.item()) if callable(pays["reward"]) else pays["reward"]
        now = dataclasses.replace(rollout, reward=torch.tensor(task)[arm])
        bonus = {n: torch.tensor(values)[arm] for n, values in pays.items() if n != "reward"}
        rewards = mixer(now, bonus)
        advantage = ((rewards.reward - rewards.reward.mean((0, 1))) * rewards.weight).sum(-1)
        slope = (advantage * (arm - p)).mean() - entropy * p * (1 - p) * logit
        logit = logit + 0.5 * slope
        mixer.update(now, rewards)
        chances.append(p.item())
    return chances


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8])
def test_a_multiplier_converges_to_where_its_threshold_is_met(threshold):
    """One arm pays the task, the other the source: exactly so much of it as was asked for."""
    mixer = RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": threshold}))
    chances = bandit(mixer, {"reward": [1.0, 0.0], "b": [0.0, 1.0]})
    late = chances[-200:]
    assert sum(late) / len(late) == pytest.approx(threshold, abs=0.03)
    assert max(late) - min(late) < 0.15
    # where the softmax policy rests: 2 lambda - 1 = entropy * logit(threshold)
    rest = (1 + 0.1 * math.log(threshold / (1 - threshold))) / 2
    assert mixer.combine.multipliers().item() == pytest.approx(rest, abs=0.05)


def test_a_source_that_has_enough_loses_its_weight_and_one_in_want_gains_it():
    weights = {}
    for threshold in (0.1, 5.0):  # always exceeded, never reached
        mixer = RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": threshold}))
        bandit(mixer, {"reward": [1.0, 0.0], "b": [0.4, 0.6]}, iterations=300)
        weights[threshold] = mixer.combine.multipliers().item()
        assert 0 < weights[threshold] < 1
    assert weights[0.1] < 0.2
    assert weights[5.0] > 0.8


def test_equality_pushes_a_source_down_that_the_task_drives_up():
    """Both like the second arm. At least 0.3 is met by all; exactly 0.3 takes a negative weight."""
    pays = {"reward": [0.0, 0.2], "b": [0.0, 1.0]}
    ends = {}
    for equality in (False, True):
        mixer = RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": 0.3}, equality=equality))
        late = bandit(mixer, pays)[-200:]
        ends[equality] = sum(late) / len(late), mixer.combine.multipliers().item()
    assert ends[False][0] > 0.7
    assert ends[True][0] == pytest.approx(0.3, abs=0.05)
    assert -1 < ends[True][1] < 0 < ends[False][1]


def test_advantages_weigh_lambda_and_the_objective_what_is_left(rollout):
    terms = {"reward": Term(), "a": Term(weight=0.5), "b": Term(), "c": Term(weight=0.25)}
    combine = Lagrangian(thresholds={"b": 1.0, "a": 2.0})
    combine.nu = torch.tensor([1.0, -1.0], dtype=torch.float64)
    bonus = {name: noise(rollout, i) for i, name in enumerate("abc")}
    rewards = RewardMixer(terms, combine)(rollout, bonus)
    b, a = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(1.0))
    expected = torch.tensor([2 - a - b, 0.5 * a, b, 0.25])
    torch.testing.assert_close(rewards.weight, expected)
    assert torch.equal(rewards.reward[..., 0], rollout.reward)


def naive_multiplier(returns, threshold, lr=0.1, momentum=0.1, bound=0.5):
    nu = velocity = 0.0
    for value in returns:
        if value is not None:
            squashed = 1 / (1 + math.exp(-nu))
            slope = squashed * (1 - squashed) * (value - threshold)
            velocity = momentum * velocity + max(-bound, min(bound, slope))
            nu = max(-5.0, min(5.0, nu - lr * velocity))
    return 1 / (1 + math.exp(-nu))


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_returns_are_those_of_episodes_that_ended_across_rollouts(autoreset):
    vec = envs.Chain(3, length=3, horizon=7, autoreset=autoreset)
    runner, actor = envs.Runner(vec), envs.RandomActor(vec.act_space)
    mixer = RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": 2.0}))
    sums, returns = [0.0] * 3, []
    for i in range(12):
        rollout = runner.collect(actor, 3)
        bonus, over = noise(rollout, i, low=-1.0), []
        for t in range(3):
            for n in range(3):
                if rollout.valid[t, n]:
                    sums[n] += bonus[t, n].item()
                    if rollout.terminated[t, n] or rollout.truncated[t, n]:
                        over.append(sums[n])
                        sums[n] = 0.0
        returns.append(sum(over) / len(over) if over else None)
        metrics = mixer.update(rollout, mixer(rollout, {"b": bonus}))
        if over:
            assert metrics["reward/b/reached"] == pytest.approx(returns[-1], abs=1e-4)
        else:
            assert "reward/b/reached" not in metrics
        expected = naive_multiplier(returns, 2.0)
        assert metrics["reward/b/multiplier"] == pytest.approx(expected, abs=1e-5)
    assert None in returns


def test_multipliers_and_open_episodes_travel_by_state_dict(rollout):
    def fresh():
        search = ThresholdSearch(every=1)
        return RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": 3.0}, search=search))

    mixer, bonus = fresh(), {"b": noise(rollout)}
    for _ in range(3):
        mixer.update(rollout, mixer(rollout, bonus))
    loaded = fresh()
    loaded.load_state_dict(mixer.state_dict())
    assert torch.equal(loaded(rollout, bonus).weight, mixer(rollout, bonus).weight)
    assert not torch.equal(fresh()(rollout, bonus).weight, mixer(rollout, bonus).weight)
    one, two = (m.update(rollout, m(rollout, bonus)) for m in (mixer, loaded))
    assert one == two


def test_names_that_are_no_sources_are_refused():
    with pytest.raises(ValueError, match="names"):
        RewardMixer({"b": Term()}, Lagrangian(thresholds={"c": 1.0}))
    with pytest.raises(ValueError, match="cannot have a threshold"):
        Lagrangian(thresholds={"reward": 1.0})
    with pytest.raises(ValueError, match="per is"):
        Lagrangian(thresholds={}, per="rollout")


# search for thresholds


def minimum(cost, start, tells=200):
    search = nelder_mead(start, step=0.3, tolerance=1e-5)
    point = next(search)
    for _ in range(tells):
        try:
            point = search.send(cost(point))
        except StopIteration as end:
            return end.value
    return point


@pytest.mark.parametrize("start", [[3.0], [0.0], [2.0, -1.0], [5.0, 0.0, 1.0]])
def test_nelder_mead_finds_a_minimum(start):
    goal = [1.0, 2.0, -1.0][: len(start)]
    found = minimum(lambda p: sum((x - g) ** 2 for x, g in zip(p, goal, strict=True)), start)
    assert found == pytest.approx(goal, abs=1e-2)


def objective(point):
    """Falls off past a proxy point at (0.6, 1.5)."""
    return 1 - (point[0] - 0.6) ** 2 - (point[1] - 1.5) ** 2


def searched(search, iterations, *, near=False):
    """The proposals after each iteration, of sources that come near them or not."""
    out = []
    for _ in range(iterations):
        point = search.proposal([1.0, 1.0])
        reached = point if near else [0.0, 0.0]
        search.update([1.0, 1.0], reached, objective(point))
        out.append(search.proposal([1.0, 1.0]))
    return out


def test_the_search_ends_nearer_to_the_proxy_point_than_it_began():
    proposals = searched(ThresholdSearch(every=4), 60)
    assert objective(proposals[-1]) > objective([1.0, 1.0]) + 0.2
    changes = [a != b for a, b in zip([[1.0, 1.0], *proposals], proposals, strict=False)]
    assert [i for i, changed in enumerate(changes, 1) if changed][:3] == [4, 8, 12]
    assert not any(changes[41:])  # ten evaluations of four iterations, then the best stays


def test_a_run_with_a_search_ends_at_the_proxy_point():
    """The task pays both arms alike, and less the farther the policy is from 0.4 of the second."""
    search = ThresholdSearch(every=150, near=0.0)  # long enough for the policy to follow
    combine = Lagrangian(thresholds={"b": 0.7}, equality=True, search=search)
    pays = {"reward": lambda chance: [1 - (chance - 0.4) ** 2] * 2, "b": [0.0, 1.0]}
    chances = bandit(RewardMixer({"b": Term()}, combine), pays, iterations=1650, entropy=0.3)
    assert sum(chances[100:150]) / 50 == pytest.approx(0.7, abs=0.05)
    assert sum(chances[-100:]) / 100 == pytest.approx(0.4, abs=0.05)
    assert combine.thresholds() == pytest.approx([0.4], abs=0.05)
    assert len(search.scores) == 10


def test_reached_thresholds_are_scored_at_once_and_unmeasured_ones_wait():
    assert len({tuple(p) for p in searched(ThresholdSearch(every=100), 5, near=True)}) == 5
    search = ThresholdSearch(every=2)
    for _ in range(10):
        search.update([1.0], [math.nan], math.nan)
    assert len(search.scores) == 0
    assert search.proposal([1.0]) == [1.0]


def test_a_search_saved_in_the_middle_goes_on_alike():
    whole, first, second = (ThresholdSearch(every=3) for _ in range(3))
    expected = searched(whole, 30)
    got = searched(first, 13)
    second.load_state_dict(first.state_dict())
    assert got + searched(second, 17) == expected
