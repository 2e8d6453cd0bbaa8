"""`Lagrangian`: multipliers against a closed form and plain loops, and thresholds that are met."""

import dataclasses
import math

import hand_made
import pytest
import torch
from hand_made import noise

from firstlight import envs
from firstlight.intrinsic import RewardMixer, Term
from firstlight.intrinsic.mixer import Lagrangian, ThresholdSearch


def bandit(mixer, pays, iterations=600, entropy=0.1, N=256):
    """Train a softmax policy over two arms on the mixer's streams.

    `pays` maps source names to the reward of each arm, or to a function of the probability of the
    second arm. Returns this probability at each iteration.
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


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_a_multiplier_converges_to_where_its_threshold_is_met(threshold):
    """The task rewards one arm, the source the other; the threshold is reached exactly."""
    mixer = RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": threshold}))
    chances = bandit(mixer, {"reward": [1.0, 0.0], "b": [0.0, 1.0]})
    late = chances[-200:]
    assert sum(late) / len(late) == pytest.approx(threshold, abs=0.03)
    assert max(late) - min(late) < 0.15
    # where the softmax policy rests: 2 lambda - 1 = entropy * logit(threshold)
    rest = (1 + 0.1 * math.log(threshold / (1 - threshold))) / 2
    assert mixer.combine.multipliers().item() == pytest.approx(rest, abs=0.05)


def test_a_source_above_its_threshold_loses_weight_and_one_below_gains_it():
    weights = {}
    for threshold in (0.1, 5.0):  # always exceeded, never reached
        mixer = RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": threshold}))
        bandit(mixer, {"reward": [1.0, 0.0], "b": [0.4, 0.6]}, iterations=300)
        weights[threshold] = mixer.combine.multipliers().item()
        assert 0 < weights[threshold] < 1
    assert weights[0.1] < 0.2
    assert weights[5.0] > 0.8


def test_equality_pushes_a_source_down_to_its_threshold_by_a_negative_multiplier():
    """Task and source both reward the second arm, so exactly 0.3 needs a negative weight."""
    pays = {"reward": [0.0, 0.2], "b": [0.0, 1.0]}
    ends = {}
    for equality in (False, True):
        mixer = RewardMixer({"b": Term()}, Lagrangian(thresholds={"b": 0.3}, equality=equality))
        late = bandit(mixer, pays, iterations=400)[-150:]
        ends[equality] = sum(late) / len(late), mixer.combine.multipliers().item()
    assert ends[False][0] > 0.7
    assert ends[True][0] == pytest.approx(0.3, abs=0.05)
    assert -1 < ends[True][1] < 0 < ends[False][1]


def test_advantage_weights_are_lambda_and_the_rest_for_the_objective(rollout):
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
def test_returns_are_those_of_the_episodes_that_ended_across_rollouts(autoreset):
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


def test_multipliers_and_running_episodes_are_restored_from_a_state_dict(rollout):
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


def test_unknown_sources_and_settings_are_rejected():
    with pytest.raises(ValueError, match="names"):
        RewardMixer({"b": Term()}, Lagrangian(thresholds={"c": 1.0}))
    with pytest.raises(ValueError, match="cannot have a threshold"):
        Lagrangian(thresholds={"reward": 1.0})
    with pytest.raises(ValueError, match="per is"):
        Lagrangian(thresholds={}, per="rollout")


def late_means(scale, threshold, *, normalize, iterations=500, entropy=0.1, N=512):
    """Train a softmax policy over two arms: the task rewards one, the source the other by `scale`.

    Returns the mean probability of the second arm and the mean multiplier, late in training.
    """
    numbers, logit, late = torch.Generator().manual_seed(0), torch.zeros(()), []
    combine = Lagrangian(thresholds={"b": threshold * scale}, normalize=normalize)
    mixer = RewardMixer({"b": Term()}, combine)
    rollout = hand_made.rollout({"obs": torch.zeros(2, N)})
    rollout.terminated[:] = True
    for i in range(iterations):
        p = torch.sigmoid(logit)
        arm = (torch.rand(1, N, generator=numbers) < p).float()
        now = dataclasses.replace(rollout, reward=1 - arm)
        rewards = mixer(now, {"b": scale * arm})
        advantage = rewards.advantage(rewards.reward, now.valid)
        slope = (advantage * (arm - p)).mean() - entropy * p * (1 - p) * logit
        logit = logit + 0.5 * slope
        mixer.update(now, rewards)
        if i >= iterations - 300:
            late.append((p.item(), combine.multipliers().item()))
    return [sum(values) / len(late) for values in zip(*late, strict=True)]


@pytest.mark.parametrize(("scale", "threshold"), [(0.1, 0.3), (10.0, 0.3), (10.0, 0.7)])
def test_a_normalised_multiplier_does_not_depend_on_the_units_of_its_source(scale, threshold):
    """At rest 2 lambda - 1 = entropy * sqrt(p (1 - p)) * logit(p), where p is theta."""
    chance, multiplier = late_means(scale, threshold, normalize=True)
    assert chance == pytest.approx(threshold, abs=0.05)
    spread = math.sqrt(threshold * (1 - threshold))
    rest = (1 + 0.1 * spread * math.log(threshold / (1 - threshold))) / 2
    assert multiplier == pytest.approx(rest, abs=0.05)


def test_without_normalising_the_multiplier_compensates_the_units():
    _, multiplier = late_means(10.0, 0.7, normalize=False)
    assert multiplier < 0.2  # near 1 / 11, where the two streams have equal scale


def test_a_threshold_search_ends_at_the_proxy_point():
    """The task rewards both arms alike, the more the closer the policy is to 0.4 of the second."""
    search = ThresholdSearch(every=150, near=0.0)  # long enough for the policy to follow
    combine = Lagrangian(thresholds={"b": 0.7}, equality=True, search=search)
    pays = {"reward": lambda chance: [1 - (chance - 0.4) ** 2] * 2, "b": [0.0, 1.0]}
    chances = bandit(RewardMixer({"b": Term()}, combine), pays, iterations=1650, entropy=0.3)
    assert sum(chances[100:150]) / 50 == pytest.approx(0.7, abs=0.05)
    assert sum(chances[-100:]) / 100 == pytest.approx(0.4, abs=0.05)
    assert combine.thresholds() == pytest.approx([0.4], abs=0.05)
    assert len(search.scores) == 10
