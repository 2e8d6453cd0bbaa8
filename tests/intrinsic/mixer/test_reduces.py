"""Ensemble reductions: their formulas, their limits, and when they help."""

import functools
import itertools
import math

import hand_made
import pytest
import torch

from firstlight.intrinsic import RewardMixer, Sum, Term
from firstlight.intrinsic.mixer import Blend, Pessimism, Reduce, SoftMin

EVERY = {
    f"{name}, {level}": make(level)
    for level in ("sample", "batch")
    for name, make in {
        "mean": lambda level: SoftMin(beta=0.0, level=level),
        "soft minimum": lambda level: SoftMin(beta=2.0, level=level),
        "worst case": lambda level: SoftMin(level=level),
        "std": lambda level: Pessimism(coef=0.7, level=level),
        "var": lambda level: Pessimism(coef=0.1, spread="var", level=level),
        "blend": lambda level: Blend(robust=SoftMin(level=level)),
    }.items()
}
every = pytest.mark.parametrize("reduce", EVERY.values(), ids=EVERY)


def rows(T=6, N=4, M=5, seed=0):
    """Members [T, N, M], large on invalid rows, and a rollout with invalid rows."""
    numbers = torch.Generator().manual_seed(seed)
    valid = torch.rand(T, N, generator=numbers) < 0.8
    members = torch.randn(T, N, M, generator=numbers) + torch.arange(M) / 3
    members = torch.where(valid[..., None], members, 1e6)
    return members, hand_made.rollout({"obs": torch.zeros(T + 1, N)}, valid=valid)


def naive(reduce, values):
    """One number out of a list of ratings."""
    mean = sum(values) / len(values)
    if isinstance(reduce, Blend):
        return reduce.alpha * mean + (1 - reduce.alpha) * naive(reduce.robust, values)
    if isinstance(reduce, Pessimism):
        var = sum((v - mean) ** 2 for v in values) / len(values)
        return mean - reduce.coef * (var if reduce.spread == "var" else math.sqrt(var))
    if reduce.beta == 0:
        return mean
    if reduce.beta == math.inf:
        return min(values)
    exponentials = [math.exp(-reduce.beta * v) for v in values]
    return -math.log(sum(exponentials) / len(values)) / reduce.beta


@every
def test_reductions_satisfy_the_protocol_and_give_0_on_invalid_rows(reduce):
    members, rollout = rows()
    reduced = reduce(members, rollout)
    assert isinstance(reduce, Reduce)
    assert reduced.shape == rollout.reward.shape
    assert not reduced[~rollout.valid].any()
    assert reduced.abs().max() < 100
    with pytest.raises(AttributeError):
        reduce.alpha = reduce.beta = reduce.coef = 1.0


@pytest.mark.parametrize("reduce", [EVERY[n] for n in EVERY if n.endswith("sample")], ids=repr)
def test_a_sample_is_reduced_by_the_formula(reduce):
    members, rollout = rows()
    for t, n in rollout.valid.nonzero().tolist():
        expected = naive(reduce, members[t, n].tolist())
        assert reduce(members, rollout)[t, n].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("reduce", [EVERY[n] for n in EVERY if n.endswith("batch")], ids=repr)
def test_at_batch_level_members_are_weighted_by_the_derivative_of_the_reduced_mean(reduce):
    """The gradient of the result is that of the reduced mean, by finite differences."""
    members, rollout = rows()
    means = [members[..., m][rollout.valid].mean().item() for m in range(5)]
    slopes = []
    for m in range(5):
        up, down = ([v + e * (i == m) for i, v in enumerate(means)] for e in (1e-4, -1e-4))
        slopes.append((naive(reduce, up) - naive(reduce, down)) / 2e-4)
    assert sum(slopes) == pytest.approx(1, abs=1e-4)
    expected = (members * torch.tensor(slopes)).sum(-1)[rollout.valid]
    torch.testing.assert_close(
        reduce(members, rollout)[rollout.valid], expected, atol=1e-3, rtol=1e-3
    )


@every
def test_the_order_of_the_members_does_not_matter(reduce):
    members, rollout = rows()
    swapped = reduce(members[..., [3, 0, 4, 1, 2]], rollout)
    torch.testing.assert_close(reduce(members, rollout), swapped)


@every
def test_equal_members_reduce_to_their_value(reduce):
    members, rollout = rows()
    agreed = members[..., :1].expand_as(members)
    reduced = reduce(agreed, rollout)[rollout.valid]
    torch.testing.assert_close(reduced, agreed[..., 0][rollout.valid])


@every
def test_shifting_all_members_shifts_the_result(reduce):
    members, rollout = rows()
    moved = reduce(members + 3, rollout)[rollout.valid]
    torch.testing.assert_close(moved, reduce(members, rollout)[rollout.valid] + 3)


@pytest.mark.parametrize("beta", [1e-4, 1e-2, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_the_soft_minimum_is_between_worst_case_and_mean_at_every_scale(beta, size):
    members, rollout = rows()
    members = members * size
    soft = SoftMin(beta=beta)(members, rollout)[rollout.valid]
    inside = members[rollout.valid]
    slack = 1e-5 * inside.abs().max()
    assert (soft >= inside.min(-1).values - slack).all()
    assert (soft <= inside.mean(-1) + slack).all()
    if beta * size <= 1e-4:
        torch.testing.assert_close(soft, inside.mean(-1), rtol=1e-3, atol=1e-3 * size)


def test_more_beta_and_more_coefficient_are_more_pessimistic():
    members, rollout = rows()
    soft = [SoftMin(beta=b)(members, rollout) for b in (0.0, 0.1, 1.0, 10.0, math.inf)]
    wary = [Pessimism(coef=c)(members, rollout) for c in (0.0, 0.5, 2.0)]
    for line in (soft, wary):
        for a, b in itertools.pairwise(line):
            assert (b <= a + 1e-6).all()
            assert b.sum() < a.sum()


def test_deviation_scales_with_the_members_and_variance_does_not():
    members, rollout = rows()
    std, var = Pessimism(coef=0.5), Pessimism(coef=0.5, spread="var")
    valid = rollout.valid
    torch.testing.assert_close(std(10 * members, rollout)[valid], 10 * std(members, rollout)[valid])
    assert not torch.allclose(var(10 * members, rollout)[valid], 10 * var(members, rollout)[valid])


def test_a_blend_weights_its_nominal_member():
    members, rollout = rows()
    blend = Blend(alpha=0.3, nominal=2)
    worst = SoftMin(level="batch")(members, rollout)
    expected = 0.3 * members[..., 2] + 0.7 * worst
    torch.testing.assert_close(blend(members, rollout)[rollout.valid], expected[rollout.valid])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SoftMin(beta=-1.0),
        lambda: SoftMin(level="row"),
        lambda: Pessimism(spread="range"),
        lambda: Pessimism(level="row"),
    ],
)
def test_invalid_settings_are_rejected(make):
    with pytest.raises(ValueError, match=r"expected 'sample' or|expected 'std' or|beta is -1"):
        make()


# 40 % of the labels are wrong: 50 arms, of which one is good, nine are fair and forty bad

ARMS, MEMBERS, KNOWN = 50, 5, 400
QUALITY = torch.cat([torch.tensor([1.0]), torch.full((9,), 0.6), torch.zeros(40)])
ROBUST = {
    "worst case": SoftMin(),
    "soft minimum": SoftMin(beta=4.0),
    "two deviations": Pessimism(coef=2.0),
}


@functools.cache
def reward_models(seed, flips, rare=2):
    """[A, M] estimates by five models, each from labels of its own of which `flips` are wrong.

    Many labels for each arm that pays, but `rare` for each of the worthless, as behaviour that was
    sensible leaves them. Estimates are means of labels, corrected for the known rate of wrong ones.
    """
    numbers = torch.Generator().manual_seed(seed)
    labels = torch.rand(MEMBERS, ARMS, KNOWN, generator=numbers) < QUALITY[:, None]
    labels = labels ^ (torch.rand(labels.shape, generator=numbers) < flips)
    many, few = labels.float().mean(-1), labels[..., :rare].float().mean(-1)
    mean = torch.where(QUALITY > 0, many, few)
    return ((mean - flips) / (1 - 2 * flips)).T


def learnt(estimates, reduce, seed):
    """True reward of a softmax policy after 200 policy gradients on the mixed estimates."""
    numbers, N = torch.Generator().manual_seed(seed), 256
    mixer = RewardMixer({"reward": Term(weight=0.0), "model": Term(reduce=reduce)}, Sum())
    rollout, logits = hand_made.rollout({"obs": torch.zeros(2, N)}), torch.zeros(ARMS)
    for _ in range(200):
        chances = logits.softmax(0)
        arms = torch.multinomial(chances, N, replacement=True, generator=numbers)
        reward = mixer(rollout, {"model": estimates[arms][None]}).reward[0, :, 0]
        advantage = (reward - reward.mean()) / (reward.std() + 1e-8)
        step = torch.zeros(ARMS).index_add_(0, arms, advantage) / N
        logits = logits + 3 * (step - chances * advantage.mean())
    return (logits.softmax(0) * QUALITY).sum().item()


def found(reduce, *, flips=0.4, rare=2, seeds=150):
    """In which part of the seeds the good arm is rated best."""
    rollout = hand_made.rollout({"obs": torch.zeros(2, ARMS)})
    best = [reduce(reward_models(s, flips, rare)[None], rollout).argmax() for s in range(seeds)]
    return sum(int(arm) == 0 for arm in best) / seeds


MEAN = SoftMin(beta=0.0)


@pytest.mark.parametrize("reduce", ROBUST.values(), ids=ROBUST)
def test_with_40_percent_wrong_labels_pessimism_finds_the_good_arm_and_the_mean_does_not(reduce):
    assert found(MEAN) < 0.15  # it likes what little is known of
    assert found(reduce) > 0.95


def test_a_blend_is_as_robust_as_its_robust_part():
    """A worst case over the batch cannot help: one model is the worst on average of all arms."""
    published = Blend(alpha=0.2), SoftMin(level="batch")
    assert all(found(reduce) < 0.15 for reduce in published)
    by_sample = [found(Blend(alpha=alpha, robust=SoftMin())) for alpha in (1.0, 0.4, 0.2)]
    assert by_sample[0] < 0.15
    assert by_sample[0] + 0.2 < by_sample[1] < by_sample[2] - 0.2
    assert by_sample[2] > 0.8


def test_policies_trained_on_the_reduced_ratings_choose_accordingly():
    seeds = range(5)
    for reduce, low, high in ((None, 0.0, 0.3), (SoftMin(), 0.9, 1.0)):
        rewards = [learnt(reward_models(s, 0.4), reduce, s) for s in seeds]
        assert low <= sum(rewards) / len(rewards) <= high + 1e-6


def test_with_correct_labels_or_many_of_them_the_mean_is_as_good():
    assert found(MEAN, flips=0.0) == 1
    assert found(MEAN, rare=KNOWN) == 1
    assert found(SoftMin(), flips=0.0) == 1


def test_with_independent_noise_the_worst_case_is_worse_than_the_mean():
    """A fresh error in every rating: the mean averages it out, the minimum seeks it."""
    numbers = torch.Generator().manual_seed(0)
    good = torch.rand(4000, generator=numbers) < 0.5
    flipped = torch.rand(4000, MEMBERS, generator=numbers) < 0.4
    members = (good[:, None] ^ flipped).float()[None]
    rollout = hand_made.rollout({"obs": torch.zeros(2, 4000)})

    def right(reduced):
        """Correlation of the rating with the true quality."""
        return torch.corrcoef(torch.stack([reduced[0], good.float()]))[0, 1].item()

    assert right(members.mean(-1)) > right(SoftMin()(members, rollout)) + 0.05
