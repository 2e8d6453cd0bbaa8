"""Transforms against plain loops, and the properties claimed by their papers."""

import copy
import dataclasses
import math

import hand_made
import numpy as np
import pytest
import torch

from firstlight import envs
from firstlight.intrinsic import Heads, ReturnScale, RewardMixer, RewardScale, Sum, Term
from firstlight.intrinsic.mixer import (
    Chained,
    Clip,
    Delta,
    LogSigmoid,
    MinMax,
    ParSigmoid,
    Potential,
    ZScore,
)
from firstlight.intrinsic.mixer.terms import Transform

EVERY = {
    "z-score": lambda: ZScore(decay=0.5),
    "scale only": lambda: ZScore(decay=0.5, center=False),
    "min-max": MinMax,
    "log-sigmoid": lambda: LogSigmoid(decay=0.5),
    "par": lambda: ParSigmoid(num_references=4, decay=0.5),
    "clip": lambda: Clip(threshold=0.4),
    "delta": Delta,
    "potential": lambda: Potential(gamma=0.9),
    "continuing potential": lambda: Potential(gamma=0.9, episodic=False),
    "chained": lambda: Chained([RewardScale(), Clip(threshold=1.0), Delta()]),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
AUTORESET = ("same_step", "next_step")


def collected(autoreset="next_step", count=3, steps=25):
    """Rollouts that follow each other, with both kinds of ends; and ratings of their rows."""
    vec = envs.Chain(5, length=3, horizon=7, autoreset=autoreset)
    runner, actor = envs.Runner(vec), envs.RandomActor(vec.act_space)
    numbers = torch.Generator().manual_seed(0)
    out = []
    for _ in range(count):
        rollout = runner.collect(actor, steps)
        out.append((torch.randn(rollout.reward.shape, generator=numbers), rollout))
    assert any(rollout.terminated.any() for _, rollout in out)
    assert any(rollout.truncated.any() for _, rollout in out)
    return out


def blank(raw, valid=None):
    return hand_made.rollout({"obs": torch.zeros(len(raw) + 1, raw.shape[1])}, valid=valid)


def rated(transform, pairs):
    """Everything that a transform gives over an episode of rollouts, stored in between."""
    out = []
    for raw, rollout in pairs:
        out.append(transform(raw, rollout))
        transform.update(raw, rollout)
    return torch.cat(out)


def cut(raw, rollout, at):
    T = rollout.num_steps
    return [(raw[:at], rollout.slice(0, at)), (raw[at:], rollout.slice(at, T))]


def steps_of(pairs):
    """(env, [(row, rating, terminated, truncated, opens)]) of valid rows, over all rollouts."""
    raws = torch.cat([raw for raw, _ in pairs])

    def joined(field):
        return torch.cat([getattr(r, field)[: r.num_steps] for _, r in pairs]).tolist()

    valid, terminated, truncated = map(joined, ("valid", "terminated", "truncated"))
    first = joined("is_first")
    for n in range(raws.shape[1]):
        rows = [t for t in range(len(raws)) if valid[t][n]]
        yield (
            n,
            [(t, raws[t, n].item(), terminated[t][n], truncated[t][n], first[t][n]) for t in rows],
        )


# what holds for all of them


@every
def test_transforms_satisfy_the_interface_and_give_0_on_invalid_rows(make):
    transform = make()
    assert isinstance(transform, Transform)
    for raw, rollout in collected():
        assert not rollout.valid.all()
        scaled = transform(raw, rollout)
        assert scaled.dtype == torch.float32
        assert not scaled[~rollout.valid].any()
        scrambled = torch.where(rollout.valid, raw, 1e9)
        assert torch.equal(transform(scrambled, rollout), scaled)
        other = copy.deepcopy(transform)
        transform.update(raw, rollout)
        other.update(scrambled, rollout)
        assert all(
            torch.equal(a, b) for a, b in zip(transform.buffers(), other.buffers(), strict=True)
        )


@every
def test_forward_stores_nothing(make):
    transform = make()
    for raw, rollout in collected():
        before = {k: v.clone() for k, v in transform.state_dict().items()}
        first = transform(raw, rollout)
        assert all(torch.equal(v, before[k]) for k, v in transform.state_dict().items())
        assert torch.equal(first, transform(raw, rollout))
        transform.update(raw, rollout)


@every
def test_permuting_environments_permutes_ratings(make):
    here, there, order = make(), make(), torch.tensor([3, 0, 4, 1, 2])
    for raw, rollout in collected(autoreset="same_step"):
        names = ("valid", "terminated", "truncated", "is_first", "reward")
        fields = {name: getattr(rollout, name)[:, order] for name in names}
        permuted = dataclasses.replace(rollout, **fields, env_ids=rollout.env_ids[order])
        torch.testing.assert_close(here(raw, rollout)[:, order], there(raw[:, order], permuted))
        here.update(raw, rollout)
        there.update(raw[:, order], permuted)


@every
def test_restored_transforms_continue_identically(make):
    pairs = collected()
    transform, loaded = make(), make()
    rated(transform, pairs[:2])
    loaded.load_state_dict(transform.state_dict())
    raw, rollout = pairs[2]
    assert torch.equal(transform(raw, rollout), loaded(raw, rollout))
    fresh = make()(raw, rollout)
    if len(list(transform.buffers())):
        assert not torch.equal(fresh, loaded(raw, rollout))


@every
def test_a_rollout_without_valid_rows_changes_no_statistics(make):
    transform, raw = make(), torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    (first, rollout), (later, last) = collected(count=2)
    transform.update(first, rollout)
    before = transform(later, last)
    nothing = blank(raw, valid=torch.zeros(3, 5, dtype=torch.bool))
    nothing = dataclasses.replace(nothing, is_first=torch.zeros_like(nothing.is_first))
    assert not transform(raw, nothing).any()
    transform.update(raw, nothing)
    assert torch.equal(transform(later, last), before)


# each against its formula


@pytest.mark.parametrize("center", [True, False])
def test_z_score_statistics_decay_as_in_a_plain_loop(center):
    transform, decay, pairs = ZScore(decay=0.8, center=center), 0.8, collected()
    weight = mean = square = 0.0  # weighted sums of 1, r and r^2, iteration by iteration
    for raw, rollout in pairs:
        rows = raw[rollout.valid].double().numpy() * 3 + 50
        weight = decay * weight + 0.2
        mean = decay * mean + 0.2 * rows.mean()
        square = decay * square + 0.2 * (rows**2).mean()
        m = mean / weight
        deviation = math.sqrt(square / weight - m**2)
        expected = (rows - m * center) / deviation
        scaled = transform(raw * 3 + 50, rollout)
        np.testing.assert_allclose(scaled[rollout.valid], expected, rtol=1e-4, atol=1e-4)
        transform.update(raw * 3 + 50, rollout)


def test_z_score_is_accurate_for_large_ratings_far_from_0():
    raw, rollout = collected(count=1)[0]
    scaled = ZScore()(raw.round(decimals=1) + 4096, rollout)
    expected = ZScore()(raw.round(decimals=1), rollout)
    torch.testing.assert_close(scaled, expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("make", [ZScore, MinMax], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("scale", "shift"), [(7.0, 0.0), (1e-3, 0.0), (1.0, 5.0), (1e6, -2.0)])
def test_scaling_and_shifting_the_source_changes_nothing(make, scale, shift):
    plain, other = make(), make()
    for raw, rollout in collected():
        moved = raw * scale + shift
        torch.testing.assert_close(plain(raw, rollout), other(moved, rollout), atol=2e-3, rtol=1e-3)
        plain.update(raw, rollout)
        other.update(moved, rollout)


@pytest.mark.parametrize("make", [ZScore, MinMax], ids=lambda make: make.__name__)
def test_a_constant_source_gives_0(make):
    raw = torch.full((4, 2), 3.7)
    assert not make()(raw, blank(raw)).any()


def test_min_max_spans_all_ratings_so_far():
    transform, seen = MinMax(), []
    for raw, rollout in collected():
        seen += raw[rollout.valid].tolist()
        expected = (raw - min(seen)) / (max(seen) - min(seen))
        scaled = transform(raw, rollout)
        torch.testing.assert_close(scaled[rollout.valid], expected[rollout.valid])
        assert scaled.min() >= 0
        assert scaled.max() <= 1
        transform.update(raw, rollout)


def moved_quantiles(pairs, levels, decay):
    """The reference before each rollout, that rollout counted in."""
    value = None
    for raw, rollout in pairs:
        now = np.quantile(raw[rollout.valid].numpy(), levels)
        value = now if value is None else decay * value + (1 - decay) * now
        yield value


@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_log_sigmoid_equals_its_formula_at_the_reference_quantile(decay):
    transform, pairs = LogSigmoid(quantile=0.85, decay=decay, scale=2.0), collected()
    for (raw, rollout), reference in zip(pairs, moved_quantiles(pairs, [0.85], decay), strict=True):
        expected = [
            -math.log1p(math.exp(-(r - reference[0]) / 2.0)) for r in raw[rollout.valid].tolist()
        ]
        np.testing.assert_allclose(transform(raw, rollout)[rollout.valid], expected, rtol=1e-4)
        transform.update(raw, rollout)


def test_log_sigmoid_has_slope_1_below_and_0_above_and_sums_prefer_balance():
    raw = torch.linspace(-60, 60, 241)[:, None]
    transform = LogSigmoid(quantile=0.5, shift=math.log(2))
    scaled = transform(raw, blank(raw))[:, 0]
    slope = scaled.diff() / raw[:, 0].diff()
    assert (slope >= 0).all()
    assert slope[0] == pytest.approx(1, abs=1e-3)
    assert slope[-1] == pytest.approx(0, abs=1e-3)
    assert scaled[120] == pytest.approx(0, abs=1e-5)  # the reference
    assert scaled.max() <= math.log(2)
    plain = LogSigmoid(quantile=0.5)
    value = dict(zip(raw[:, 0].tolist(), plain(raw, blank(raw))[:, 0].tolist(), strict=True))
    assert value[4.0] + value[4.0] > value[30.0] + value[-5.0]  # no buying off
    good = 1 / (1 + math.exp(-4.0))
    assert math.exp(value[4.0] + value[4.0]) == pytest.approx(good**2)


def test_with_decay_1_the_reference_is_that_of_the_first_rollout():
    for transform in (LogSigmoid(), ParSigmoid()):
        raw, rollout = collected()[0]
        transform.update(raw, rollout)
        before = transform(raw, rollout)
        transform.update(raw + 100, rollout)
        assert torch.equal(transform(raw, rollout), before)


def test_par_is_a_mean_of_sigmoids_within_its_bounds():
    transform = ParSigmoid(num_references=4, k=2.0, decay=0.7)
    pairs, levels = collected(), [0.125, 0.375, 0.625, 0.875]
    for (raw, rollout), references in zip(pairs, moved_quantiles(pairs, levels, 0.7), strict=True):
        rows = raw[rollout.valid].double().numpy()
        expected = np.mean([1 / (1 + np.exp(-2.0 * (rows - m))) for m in references], 0)
        np.testing.assert_allclose(transform(raw, rollout)[rollout.valid], expected, rtol=1e-4)
        transform.update(raw, rollout)
    raw = torch.linspace(-100, 100, 401)[:, None]
    scaled = ParSigmoid()(raw, blank(raw))[:, 0]
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert (scaled.diff() >= -1e-6).all()
    assert abs(ParSigmoid(center=True)(raw, blank(raw)).mean()) < 1e-5
    assert len(ParSigmoid().reference.values) == 10


@pytest.mark.parametrize(
    "make",
    [ZScore, MinMax, LogSigmoid, ParSigmoid, lambda: Clip(threshold=0.2)],
    ids=["z", "min-max", "log-sigmoid", "par", "clip"],
)
def test_sigmoid_transforms_are_monotone(make):
    raw, rollout = collected(count=1)[0]
    order = raw[rollout.valid].argsort()
    scaled = make()(raw, rollout)[rollout.valid][order]
    assert (scaled.diff() >= 0).all()
    assert scaled[-1] > scaled[0]


def test_clip_only_penalises_ratings_below_the_threshold():
    raw, rollout = collected(count=1)[0]
    expected = [min(r - 0.4, 0.0) for r in raw[rollout.valid].tolist()]
    np.testing.assert_allclose(
        Clip(threshold=0.4)(raw, rollout)[rollout.valid], expected, rtol=1e-6
    )


def test_chained_applies_and_updates_in_sequence():
    chained = Chained([RewardScale(), ParSigmoid(decay=0.5), Potential(gamma=0.9)])
    apart = RewardScale(), ParSigmoid(decay=0.5), Potential(gamma=0.9)
    for raw, rollout in collected():
        values = [raw]
        for each in apart:
            values.append(each(values[-1], rollout))
        assert torch.equal(chained(raw, rollout), values[-1])
        chained.update(raw, rollout)
        for each, value in zip(apart, values, strict=False):
            each.update(value, rollout)


# along an episode


def naive_delta(pairs):
    """r_t - r_{t+1} by episodes; r_t at a termination, 0 at a truncation."""
    out = torch.zeros_like(torch.cat([raw for raw, _ in pairs]))
    for n, rows in steps_of(pairs):
        for (t, r, terminated, truncated, _), after in zip(rows, [*rows[1:], None], strict=True):
            if terminated:
                out[t, n] = r
            elif not truncated and after is not None:
                out[t, n] = r - after[1]
    return out


@pytest.mark.parametrize("autoreset", AUTORESET)
def test_delta_is_the_difference_to_the_next_rating_of_the_episode(autoreset):
    pairs = collected(autoreset, count=1, steps=60)
    scaled = Delta()(*pairs[0])
    torch.testing.assert_close(scaled, naive_delta(pairs) * pairs[0][1].valid)


@pytest.mark.parametrize("autoreset", AUTORESET)
def test_delta_over_rollouts_adds_up_over_each_episode_to_its_first_rating(autoreset):
    pairs = collected(autoreset, count=6, steps=5)
    scaled, ends = rated(Delta(), pairs), 0
    for n, rows in steps_of(pairs):
        total = first = last = 0.0
        for t, r, terminated, truncated, opens in rows:
            if opens:
                total, first = 0.0, r
            total, last = total + scaled[t, n].item(), r
            if terminated or truncated:
                assert total == pytest.approx(first if terminated else first - last, abs=1e-5)
                ends += 1
    assert ends > 20


def test_cycling_among_good_steps_has_a_high_sum_but_no_delta():
    raw = torch.full((50, 1), 0.9)
    rollout = blank(raw)
    rollout.terminated[-1] = True
    assert raw.sum() > 40
    assert Delta()(raw, rollout).sum() == pytest.approx(0.9, abs=1e-5)
    assert Chained([Clip(threshold=0.5), Delta()])(raw, rollout).sum() == 0


def naive_potential(pairs, gamma, episodic=True):
    out = torch.zeros_like(torch.cat([raw for raw, _ in pairs]))
    for n, rows in steps_of(pairs):
        before = 0.0
        for t, r, terminated, truncated, opens in rows:
            over = terminated or (truncated and not episodic)
            out[t, n] = (0.0 if over else gamma * r) - (0.0 if opens else before)
            before = r
    return out


@pytest.mark.parametrize("episodic", [True, False])
@pytest.mark.parametrize("autoreset", AUTORESET)
def test_a_potential_is_the_discounted_difference_to_the_rating_before(autoreset, episodic):
    pairs = collected(autoreset, count=5, steps=9)
    scaled = rated(Potential(gamma=0.9, episodic=episodic), pairs)
    torch.testing.assert_close(scaled, naive_potential(pairs, 0.9, episodic))


@pytest.mark.parametrize("autoreset", AUTORESET)
def test_two_half_rollouts_equal_the_whole(autoreset):
    for raw, rollout in collected(autoreset):
        for at in (1, 7, 24):
            halves = rated(Potential(gamma=0.9), cut(raw, rollout, at))
            assert torch.equal(halves, Potential(gamma=0.9)(raw, rollout))


@pytest.mark.parametrize("autoreset", AUTORESET)
def test_a_potential_telescopes_over_every_episode(autoreset):
    """To 0 if it terminates, to gamma^L Phi(last) if it is cut: nothing on the way matters."""
    gamma, pairs, ends = 0.9, collected(autoreset, count=6, steps=7), 0
    scaled = rated(Chained([ReturnScale(0.9), Potential(gamma=gamma)]), pairs)
    potentials = rated(ReturnScale(0.9), pairs)
    for n, rows in steps_of(pairs):
        total, length = 0.0, 0
        for t, _, terminated, truncated, opens in rows:
            total, length = (0.0, 0) if opens else (total, length)
            total, length = total + gamma**length * scaled[t, n].item(), length + 1
            if terminated or truncated:
                left = 0.0 if terminated else gamma**length * potentials[t, n].item()
                assert total == pytest.approx(left, abs=1e-5)
                ends += 1
    assert ends > 20


def test_last_ratings_are_kept_by_environment_id():
    transform, raw = Potential(gamma=1.0), torch.tensor([[1.0, 2.0]])
    for env_ids, expected in (([0, 5], [1, 2]), ([5, 9], [1 - 2, 2]), ([0, 9], [1 - 1, 2 - 2])):
        rollout = dataclasses.replace(blank(raw), env_ids=torch.tensor(env_ids))
        rollout.is_first.fill_(False)
        assert transform(raw, rollout).tolist() == [expected]
        transform.update(raw, rollout)


def test_a_potential_with_another_discount_than_its_stream_is_rejected():
    wrong = {"a": Term(transform=Chained([RewardScale(), Potential(gamma=0.9)]), gamma=0.99)}
    with pytest.raises(ValueError, match=r"Potential of 'a' has gamma=0\.9"):
        RewardMixer(wrong, Heads())
    with pytest.raises(ValueError, match="Potential"):
        RewardMixer({"a": Term(transform=Potential(gamma=0.99), episodic=False)}, Heads())
    RewardMixer({"a": Term(transform=Potential(gamma=0.99), gamma=0.5)}, Sum())


# a tabular environment: six cells in a row, the last has reward 1 and ends the episode

CELLS, GAMMA = 6, 0.95
PHI = torch.tensor([0.0, 0.6, 0.9, 0.1, 0.3, -4.0])  # cells 1 and 2 please, the end does not


def table():
    """Every cell and action, where it leads, and whether that ends: [S*2] each; cell 5 ends."""
    cell = torch.arange(CELLS - 1).repeat_interleave(2)
    step = torch.tensor([-1, 1]).repeat(CELLS - 1)
    after = (cell + step).clamp(min=0)
    return cell, after, after == CELLS - 1


def best_actions(shaped):
    """Value iteration on the task's reward plus `shaped` [S*2]: the best action in each cell."""
    _, after, ends = table()
    value = torch.zeros(CELLS, dtype=torch.float64)
    for _ in range(2000):
        q = (ends + shaped.double() + GAMMA * value[after] * ~ends).view(-1, 2)
        value[:-1] = q.max(1).values
    ahead = q[:, 1] - q[:, 0]
    return [None if abs(gap) < 1e-6 else int(gap > 0) for gap in ahead.tolist()]  # None is a tie


def test_a_potential_keeps_the_best_policy_and_the_plain_bonus_does_not():
    cell, after, ends = table()
    # two rows for each (cell, action): arrive in the cell, then take the action
    raw = torch.stack([PHI[cell], PHI[after]])
    rollout = blank(raw)
    rollout.terminated[1] = ends
    shaped = Potential(gamma=GAMMA)(raw, rollout)[1]
    right = [1] * (CELLS - 1)
    assert best_actions(torch.zeros(len(cell))) == right
    assert best_actions(shaped) == right
    assert best_actions(3.0 * shaped) == right
    assert best_actions(raw[1]) != right  # it stays where it is interesting
    undiscounted = Potential(gamma=1.0)(raw, rollout)[1]
    assert best_actions(3.0 * undiscounted) != right  # not the stream's discount
    rollout.terminated[1] = False
    kept = best_actions(Potential(gamma=GAMMA)(raw, rollout)[1])
    assert kept[-1] == 0  # with the end's own rating, it shuns the end
