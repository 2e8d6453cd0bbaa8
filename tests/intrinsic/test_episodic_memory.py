"""Episodic memories against one loop per environment, compiled and as plain Python."""

import copy

import hand_made
import numpy as np
import pytest
import python_kernels
import torch

from firstlight.intrinsic import episodic_kernels
from firstlight.intrinsic.episodic_memory import EllipticalMemory, NearestMemory

E = 6


@pytest.fixture(params=["compiled", "python"])
def kernels(request, monkeypatch):
    """Kernels compiled or as plain Python."""
    if request.param == "python":
        from firstlight.intrinsic import episodic_memory

        python_kernels.use_python_kernels(monkeypatch, episodic_kernels)
        for name in ("elliptical_bonus", "nearest_distances"):
            monkeypatch.setattr(episodic_memory, name, getattr(episodic_kernels, name))


def random_rollout(numbers, T=20, N=5, *, opens=0.2):
    """A rollout with ends, resets and invalid rows; embeddings [T+1, N, E] and [T, N, E]."""
    rollout = hand_made.random_rollout(numbers, T, N, 12, opens=opens)
    table = torch.randn(12, E, generator=torch.Generator().manual_seed(7))
    return rollout, table[rollout.obs["obs"]], table[rollout.next_obs()["obs"]]


def next_step_rollout(numbers, T=20, N=5, *, length=6):
    """Next-step autoreset: after an episode of `length` steps a row that is not valid."""
    phase = (torch.arange(T + 1)[:, None] + torch.arange(N)) % (length + 1)
    obs = {"obs": torch.randint(12, (T + 1, N), generator=numbers)}
    rollout = hand_made.rollout(obs, is_first=phase == 0, valid=phase[:-1] != length)
    table = torch.randn(12, E, generator=torch.Generator().manual_seed(7))
    return rollout, table[rollout.obs["obs"]], table[rollout.next_obs()["obs"]]


def plain_elliptical(runs, ridge):
    """Bonuses by exact inverses of the sums, in float64, environment by environment."""
    sums = {}
    for rollout, here, after in runs:
        out = torch.zeros(rollout.valid.shape, dtype=torch.float64)
        for n, env in enumerate(rollout.env_ids.tolist()):
            for t in range(rollout.num_steps):
                if rollout.is_first[t, n]:
                    x = here[t, n].double()
                    sums[env] = ridge * torch.eye(E).double() + torch.outer(x, x)
                if rollout.valid[t, n]:
                    x = after[t, n].double()
                    total = sums.get(env, ridge * torch.eye(E).double())
                    out[t, n] = x @ torch.linalg.inv(total) @ x
                    sums[env] = total + torch.outer(x, x)
        yield out.float()


def plain_distance(metric, cut, m, x):
    away = m.double() - x.double()
    if metric == "squared":
        return away.square().sum()
    first, second = away[:cut], away[cut:].square().sum().sqrt()
    if metric == "conditional":
        return first.square().sum() / (second + 1e-6)
    return first.clamp(min=0).max() + second


def plain_nearest(runs, metric, cut, k, capacity, quantile=None):
    """Distances by a list of vectors per environment."""
    held = {}
    for rollout, here, after in runs:
        out = torch.zeros(*rollout.valid.shape, k)
        for n, env in enumerate(rollout.env_ids.tolist()):
            for t in range(rollout.num_steps):
                if rollout.is_first[t, n]:
                    held[env] = [here[t, n]]
                if rollout.valid[t, n]:
                    memory = held.setdefault(env, [])
                    found = [plain_distance(metric, cut, m, after[t, n]) for m in memory]
                    found = torch.tensor(found, dtype=torch.float64)
                    if quantile is None:
                        padded = torch.cat([found, torch.full((k,), torch.inf)])
                        out[t, n] = padded.sort().values[:k]
                    else:
                        out[t, n] = torch.quantile(found, quantile) if memory else torch.inf
                    held[env] = [*memory, after[t, n]][-capacity:]
        yield out


def make_runs(kind, rollouts=4, **kwargs):
    numbers = torch.Generator().manual_seed(0)
    make = {"same_step": random_rollout, "next_step": next_step_rollout}[kind]
    return [make(numbers, **kwargs) for _ in range(rollouts)]


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("ridge", [0.1, 2.0])
def test_the_elliptical_bonus_equals_exact_inverses(kernels, autoreset, ridge):
    runs, memory = make_runs(autoreset), EllipticalMemory(E, ridge=ridge)
    for (rollout, here, after), expected in zip(runs, plain_elliptical(runs, ridge), strict=True):
        bonus = memory.bonus(here, after, rollout)
        torch.testing.assert_close(bonus, expected, rtol=2e-4, atol=1e-4)
        assert not bonus[~rollout.valid].any()


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize(
    ("metric", "cut", "k", "capacity", "quantile"),
    [
        ("squared", 3, 4, 100, None),
        ("squared", 3, 3, 5, None),
        ("conditional", 4, 1, 100, None),
        ("quasimetric", 3, 1, 100, None),
        ("quasimetric", 2, 1, 7, 0.1),
    ],
)
def test_nearest_distances_equal_those_to_a_list(
    kernels, autoreset, metric, cut, k, capacity, quantile
):
    runs = make_runs(autoreset)
    memory = NearestMemory(E, metric=metric, cut=cut, k=k, capacity=capacity, quantile=quantile)
    slow = plain_nearest(runs, metric, cut, k, capacity, quantile)
    for (rollout, here, after), expected in zip(runs, slow, strict=True):
        found = memory.distances(here, after, rollout)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_quasimetric_is_one():
    """It obeys the triangle inequality, is 0 for equal vectors, and is not symmetric."""
    numbers = torch.Generator().manual_seed(0)
    x, y, z = torch.randn(3, 1, 50, E, generator=numbers)

    def distance(m, x):
        rollout = hand_made.rollout({"obs": torch.zeros(2, 50)})
        return NearestMemory(E, metric="quasimetric").distances(m, x, rollout)[0, :, 0]

    assert (distance(x, z) <= distance(x, y) + distance(y, z) + 1e-5).all()
    assert not distance(x, x).any()
    assert not torch.allclose(distance(x, y), distance(y, x))


def test_vectors_added_may_differ_from_those_compared():
    rollout = hand_made.rollout({"obs": torch.zeros(3, 1)})
    here, query = torch.zeros(2, 1, E), torch.full((2, 1, E), 2.0)
    added = torch.full((2, 1, E), 5.0)
    found = NearestMemory(E).distances(here, query, rollout, added)
    assert found.flatten().tolist() == [E * 4, E * 4]
    found = NearestMemory(E).distances(here, query, rollout)
    assert found.flatten().tolist() == [E * 4, 0]


def both(memory, rollout, here, after):
    if isinstance(memory, EllipticalMemory):
        return memory.bonus(here, after, rollout)
    return memory.distances(here, after, rollout)


MEMORIES = [lambda: EllipticalMemory(E), lambda: NearestMemory(E, k=2, capacity=9)]


@pytest.mark.parametrize("make", MEMORIES)
def test_columns_may_be_permuted_between_rollouts(make):
    runs, numbers = make_runs("same_step", N=4), torch.Generator().manual_seed(3)
    straight, permuted = make(), make()
    for rollout, here, after in runs:
        order = torch.randperm(4, generator=numbers)
        moved = hand_made.rollout(
            {"obs": rollout.obs["obs"][:, order]},
            is_first=rollout.is_first[:, order],
            valid=rollout.valid[:, order],
            env_ids=rollout.env_ids[order],
        )
        expected = both(straight, rollout, here, after)[:, order]
        assert torch.equal(both(permuted, moved, here[:, order], after[:, order]), expected)


@pytest.mark.parametrize("make", MEMORIES)
def test_the_number_of_threads_does_not_matter(make):
    runs = make_runs("same_step")
    one = make()
    expected = [both(one, *run) for run in runs]
    torch.set_num_threads(3)
    try:
        three = make()
        assert all(torch.equal(both(three, *run), x) for run, x in zip(runs, expected, strict=True))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("make", MEMORIES)
def test_a_state_dict_continues_identically(make):
    runs = make_runs("same_step", opens=0.05)
    kept, loaded = make(), make()
    for run in runs[:2]:
        both(kept, *run)
    loaded.load_state_dict(copy.deepcopy(kept.state_dict()))
    for run in runs[2:]:
        assert torch.equal(both(kept, *run), both(loaded, *run))


@pytest.mark.parametrize("make", MEMORIES)
def test_reset_clears_only_the_given_environments(make):
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, E, generator=numbers)
    obs = {"obs": torch.zeros(3, 2)}
    going_on = torch.zeros(3, 2, dtype=torch.bool)
    before, later = hand_made.rollout(obs), hand_made.rollout(obs, is_first=going_on)

    def second(*, reset):
        memory = make()
        both(memory, before, x, x[1:])
        memory.reset(*reset)
        return both(memory, later, x, x[1:])

    untouched, one, every = (
        second(reset=[torch.tensor([], dtype=torch.int64)]),
        *(second(reset=r) for r in ([torch.tensor([1])], [])),
    )
    empty = both(make(), later, x, x[1:])
    assert torch.equal(one[:, 0], untouched[:, 0])
    assert torch.equal(one[:, 1], empty[:, 1])
    assert torch.equal(every, empty)
    assert not torch.equal(untouched, empty)


def test_the_inverse_does_not_drift_in_a_long_episode():
    """20,000 steps of one episode, with states that differ in frequency and size."""
    numbers = torch.Generator().manual_seed(0)
    table = torch.randn(16, E, generator=numbers) * torch.logspace(-1, 1, 16)[:, None]
    states = torch.randint(16, (20_001, 1), generator=numbers)
    rollout = hand_made.rollout({"obs": states})
    memory = EllipticalMemory(E)
    x = table[states]
    memory.bonus(x, x[1:], rollout)
    sums = 0.1 * torch.eye(E).double() + x[:, 0].double().T @ x[:, 0].double()
    exact = torch.linalg.inv(sums)
    close = (table.double() @ exact * table).sum(1)
    ours = (table.double() @ memory.inverses[0].double() * table).sum(1)
    torch.testing.assert_close(ours, close, rtol=0.02, atol=1e-6)
    assert torch.equal(
        memory.diagonal(torch.tensor([0, 3])),
        torch.stack([memory.inverses[0].diagonal(), torch.full((E,), 10.0)]),
    )


def test_a_repeated_state_is_worth_less_as_one_over_its_visits():
    """``x' (λ I + n x x')^-1 x = |x|² / (λ + n |x|²)``."""
    x = torch.zeros(1, 1, E)
    x[..., 0] = 3.0
    rollout = hand_made.rollout({"obs": torch.zeros(11, 1)})
    bonus = EllipticalMemory(E).bonus(x.expand(10, 1, E), x.expand(10, 1, E), rollout)
    visits = torch.arange(1, 11)  # the first observation is one
    torch.testing.assert_close(bonus[:, 0], 9 / (0.1 + visits * 9), rtol=1e-4, atol=0)


def test_room_grows_up_to_the_capacity():
    memory = NearestMemory(E, capacity=150)
    rollout = hand_made.rollout({"obs": torch.zeros(101, 1)})
    x = torch.zeros(101, 1, E)
    sizes = []
    for _ in range(3):
        memory.distances(x, x[1:], rollout)
        rollout = hand_made.rollout(rollout.obs, is_first=torch.zeros(101, 1, dtype=torch.bool))
        sizes.append(memory.vectors.shape[2] - episodic_kernels.PADDING)
    assert sizes == [128, 150, 150]
    assert memory.counts.tolist() == [301]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EllipticalMemory(E, ridge=0), "ridge is 0"),
        (lambda: NearestMemory(E, metric="euclid"), "metric is 'euclid', expected one of squared"),
        (lambda: NearestMemory(E, k=0), "k is 0"),
        (lambda: NearestMemory(E, capacity=0), "capacity is 0"),
        (lambda: NearestMemory(E, k=2, quantile=0.1), "k=1"),
        (lambda: NearestMemory(E, quantile=1.1), "quantile is 1.1"),
    ],
)
def test_invalid_settings_are_rejected(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_memories_stay_on_the_cpu():
    for make in MEMORIES:
        assert {buffer.device.type for buffer in make().to("meta").buffers()} == {"cpu"}


def test_an_empty_memory_has_no_neighbours():
    going_on = torch.zeros(2, 1, dtype=torch.bool)
    rollout = hand_made.rollout({"obs": torch.zeros(2, 1)}, is_first=going_on)
    x = torch.ones(1, 1, E)
    assert np.isinf(NearestMemory(E).distances(x, x, rollout).item())
    assert np.isinf(NearestMemory(E, quantile=0.5).distances(x, x, rollout).item())
