"""`EpisodeCap` and `ShareCap`: never above the limit, and no change below it."""

import dataclasses

import hand_made
import pytest
import torch

from firstlight import envs
from firstlight.intrinsic import Heads, RewardMixer, Streams, Sum, Term
from firstlight.intrinsic.mixer import Budget, EpisodeCap, Krc, Lagrangian, Product, ShareCap

AUTORESET = ("same_step", "next_step")


def collected(autoreset="next_step", count=5, steps=9, num_envs=5, length=3):
    """Rollouts that follow each other, and bonuses of both signs."""
    vec = envs.Chain(num_envs, length=length, horizon=7, autoreset=autoreset)
    runner, actor = envs.Runner(vec), envs.RandomActor(vec.act_space)
    numbers = torch.Generator().manual_seed(0)
    out = []
    for _ in range(count):
        rollout = runner.collect(actor, steps)
        bonus = torch.randn(rollout.reward.shape, generator=numbers)
        out.append((torch.where(rollout.valid, bonus, 0.0), rollout))
    return out


def paid(budget, pairs):
    out = []
    for bonus, rollout in pairs:
        out.append(budget(bonus, rollout, None))
        budget.update(bonus, rollout, None)
    return out


def naive(pairs, cap):
    """Bonus of each row after the cap, by plain loops over environments and time."""
    spent, out = {}, []
    for bonus, rollout in pairs:
        given = torch.zeros_like(bonus)
        for t in range(rollout.num_steps):
            for n, env in enumerate(rollout.env_ids.tolist()):
                if rollout.is_first[t, n]:
                    spent[env] = 0.0
                if rollout.valid[t, n]:
                    asked = bonus[t, n].item()
                    size = min(abs(asked), cap - spent.get(env, 0.0))
                    spent[env] = spent.get(env, 0.0) + size
                    given[t, n] = size if asked > 0 else -size
        out.append(given)
    return out


# a cap on each episode


@pytest.mark.parametrize("autoreset", AUTORESET)
@pytest.mark.parametrize("cap", [0.0, 0.5, 2.0, 1e9])
def test_an_episode_gets_the_cap_and_no_more_across_rollouts(cap, autoreset):
    pairs, budget = collected(autoreset), EpisodeCap(cap=cap)
    assert isinstance(budget, Budget)
    for given, expected in zip(paid(budget, pairs), naive(pairs, cap), strict=True):
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


def test_below_the_cap_nothing_changes():
    pairs = collected()
    for given, (bonus, _) in zip(paid(EpisodeCap(cap=1e6), pairs), pairs, strict=True):
        assert torch.equal(given, bonus)


@pytest.mark.parametrize("autoreset", AUTORESET)
def test_two_half_rollouts_are_capped_like_the_whole(autoreset):
    for bonus, rollout in collected(autoreset, steps=20):
        whole = EpisodeCap(cap=1.3)(bonus, rollout)
        for at in (1, 6, 19):
            halves = [
                (bonus[:at], rollout.slice(0, at)),
                (bonus[at:], rollout.slice(at, rollout.num_steps)),
            ]
            given = torch.cat(paid(EpisodeCap(cap=1.3), halves))
            torch.testing.assert_close(given, whole, atol=1e-6, rtol=0)


def test_sums_are_kept_by_environment_id():
    budget, ones = EpisodeCap(cap=2.5), torch.ones(2, 2)
    rollout = hand_made.rollout({"obs": torch.zeros(3, 2)})
    goes_on = dataclasses.replace(rollout, is_first=torch.zeros_like(rollout.is_first))
    budget.update(ones, rollout)
    other = dataclasses.replace(goes_on, env_ids=torch.tensor([1, 7]))
    assert budget(ones, other).tolist() == [[0.5, 1.0], [0.0, 1.0]]
    loaded = EpisodeCap(cap=2.5)
    loaded.load_state_dict(budget.state_dict())
    assert torch.equal(loaded(ones, other), budget(ones, other))


def test_collecting_the_bonus_never_exceeds_the_cap_and_success_does():
    """A bonus of 1 per step over 300 steps beats a reward of 1 at the end; capped, it does not."""
    T = 300
    rollout = hand_made.rollout({"obs": torch.zeros(T + 1, 2)})
    rollout.reward[9, 1] = 1.0  # the second environment solves the task, then is over
    rollout.terminated[9, 1] = True
    rollout.valid[10:, 1] = False
    bonus = {"b": torch.ones(T, 2)}
    free = RewardMixer({"b": Term()}, Sum())(rollout, bonus).reward.sum(0)
    capped = RewardMixer({"b": Term(budget=EpisodeCap(cap=0.5))}, Sum())(rollout, bonus)
    assert free[0] > free[1]
    assert capped.reward.sum(0).flatten().tolist() == [0.5, 1.5]


def test_a_negative_cap_is_rejected():
    with pytest.raises(ValueError, match="cap is -1"):
        EpisodeCap(cap=-1)


# a share of the whole


def loud(rollout, scale):
    numbers = torch.Generator().manual_seed(1)
    return scale * torch.rand(rollout.reward.shape, generator=numbers)


def paying(count=1):
    """Rollouts with some reward from the environment."""
    pairs = collected(count=count, steps=40, length=2)
    assert all(rollout.reward.any() for _, rollout in pairs)
    return [rollout for _, rollout in pairs]


COMBINES = {
    "sum": Sum,
    "heads": Heads,
    "streams": lambda: Streams({"all": ["reward", "b"]}),
    "product": Product,
    "krc": Krc,
    "lagrangian": lambda: Lagrangian(thresholds={"b": 1.0}, normalize=False),
}


@pytest.mark.parametrize("make", COMBINES.values(), ids=COMBINES)
@pytest.mark.parametrize("weight", [1.0, 0.02, -3.0])
def test_an_exploding_bonus_is_limited_to_its_share_in_the_same_iteration(make, weight):
    mixer = RewardMixer({"b": Term(weight=weight, budget=ShareCap(share=0.3))}, make())
    free = RewardMixer({"b": Term(weight=weight)}, make())
    for i, rollout in enumerate(paying(4)):
        bonus = {"b": loud(rollout, 1e6 if i == 2 else 1.0)}
        metrics = mixer.update(rollout, mixer(rollout, bonus))
        assert metrics["reward/b/share"] <= 0.3 + 1e-5
        if i == 2:
            assert metrics["reward/b/share"] == pytest.approx(0.3, abs=1e-4)
            unheld = free.update(rollout, free(rollout, bonus))
            assert unheld["reward/b/share"] > 0.99


def test_a_share_cap_scales_the_whole_rollout_by_one_factor():
    rollout = paying()[0]
    bonus = loud(rollout, 50.0)
    mixer = RewardMixer({"b": Term(budget=ShareCap(share=0.5))})
    part = mixer(rollout, {"b": bonus}).components["b"]
    ratio = (part.scaled / bonus)[rollout.valid]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert ratio[0] < 1


def test_a_bonus_below_its_share_does_not_change():
    rollout = paying()[0]
    part = RewardMixer({"b": Term(weight=1e-3, budget=ShareCap(share=0.5))})(
        rollout, {"b": loud(rollout, 1.0)}
    ).components["b"]
    assert torch.equal(part.scaled, part.before_budget)


def test_before_the_first_task_reward_nothing_is_limited_without_a_floor():
    rollout = dataclasses.replace(paying()[0], reward=torch.zeros(40, 5))
    bonus = {"b": loud(rollout, 1e6)}
    for floor, held in ((0.0, False), (0.1, True)):
        mixer = RewardMixer({"b": Term(budget=ShareCap(share=0.5, floor=floor))})
        part = mixer(rollout, bonus).components["b"]
        assert torch.equal(part.scaled, part.before_budget) != held
        if held:
            mean = part.scaled.sum() / rollout.valid.sum()
            assert mean.item() == pytest.approx(0.1, rel=1e-4)


def test_without_task_reward_the_mean_of_earlier_iterations_is_the_reference():
    mixer = RewardMixer({"b": Term(budget=ShareCap(share=0.5))})
    rollouts = paying(3)
    sizes = []
    for rollout in rollouts[:2]:
        mixer.update(rollout, mixer(rollout, {"b": loud(rollout, 1.0)}))
        sizes.append(rollout.reward.sum().item() / rollout.valid.sum().item())
    silent = dataclasses.replace(rollouts[2], reward=torch.zeros(40, 5))
    mixer.update(silent, mixer(silent, {"b": loud(silent, 1.0)}))  # does not dilute the mean
    part = mixer(silent, {"b": loud(silent, 1e6)}).components["b"]
    mean = part.scaled.sum().item() / silent.valid.sum().item()
    assert mean == pytest.approx(sum(sizes) / 2, rel=1e-4)


def test_two_large_sources_do_not_justify_each_other_in_any_order():
    rollout = paying()[0]
    terms = {
        "a": Term(weight=2.0, budget=ShareCap(share=0.3)),
        "b": Term(budget=ShareCap(share=0.4)),
        "c": Term(weight=0.5),
    }
    bonus = {"a": loud(rollout, 1e6), "b": loud(rollout, 1e5), "c": loud(rollout, 0.1)}
    rewards = []
    for names in ("abc", "cba", "bca"):
        mixer = RewardMixer({name: terms[name] for name in names}, Heads())
        rewards.append(mixer(rollout, bonus))
        metrics = mixer.update(rollout, rewards[-1])
        assert metrics["reward/a/share"] <= 0.3
        assert metrics["reward/b/share"] <= 0.4
    for name in "abc":
        first, *others = [r.components[name].scaled for r in rewards]
        assert all(torch.allclose(first, other) for other in others)


def test_relative_budgets_are_applied_last_in_any_order():
    rollout = paying()[0]
    bonus = {"b": loud(rollout, 1.0)}

    def given(*budgets):
        return RewardMixer({"b": Term(budget=budgets)})(rollout, bonus).components["b"].scaled

    both = given(ShareCap(share=0.1), EpisodeCap(cap=1.0))
    assert torch.equal(both, given(EpisodeCap(cap=1.0), ShareCap(share=0.1)))
    assert (both <= given(EpisodeCap(cap=1.0)) + 1e-6).all()
    assert both.sum() < given(EpisodeCap(cap=1.0)).sum()
    assert not torch.equal(both, given(ShareCap(share=0.1)))


def test_the_environments_reward_has_no_budget_by_default():
    rollout = paying()[0]
    terms = {"b": Term(budget=[EpisodeCap(cap=0.1), ShareCap(share=0.1)])}
    rewards = RewardMixer(terms)(rollout, {"b": loud(rollout, 1.0)})
    assert torch.equal(rewards.reward[..., 0], torch.where(rollout.valid, rollout.reward, 0.0))
    told = RewardMixer({"reward": Term(budget=EpisodeCap(cap=0.5))})(rollout, {})
    assert told.reward.max() == 0.5


def test_forward_stores_nothing_and_state_is_restored():
    def fresh():
        budgets = [EpisodeCap(cap=1.0), ShareCap(share=0.2), EpisodeCap(cap=2.0)]
        return RewardMixer({"b": Term(budget=budgets)})

    mixer, (first, second) = fresh(), paying(2)
    before = {k: v.clone() for k, v in mixer.state_dict().items()}
    assert sum(name.startswith("statistics") for name in before) == 4
    rewards = mixer(first, {"b": loud(first, 1.0)})
    assert all(torch.equal(v, before[k]) for k, v in mixer.state_dict().items())
    mixer.update(first, rewards)
    assert not all(torch.equal(v, before[k]) for k, v in mixer.state_dict().items())
    loaded, bonus = fresh(), {"b": loud(second, 1.0)}
    loaded.load_state_dict(mixer.state_dict())
    assert torch.equal(loaded(second, bonus).reward, mixer(second, bonus).reward)
    assert not torch.equal(fresh()(second, bonus).reward, mixer(second, bonus).reward)


@pytest.mark.parametrize("share", [0.0, 1.0, 30])
def test_shares_outside_0_to_1_are_rejected(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ShareCap(share=share)
