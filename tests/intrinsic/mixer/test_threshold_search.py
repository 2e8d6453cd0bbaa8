"""`ThresholdSearch`: Nelder-Mead over thresholds during training."""

import math

import pytest

from firstlight.intrinsic.mixer import ThresholdSearch
from firstlight.intrinsic.mixer.thresholds import nelder_mead


def minimum(cost, start, evaluations=200):
    search = nelder_mead(start, step=0.3, tolerance=1e-5)
    point = next(search)
    for _ in range(evaluations):
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
    """An objective with its maximum, the proxy point, at (0.6, 1.5)."""
    return 1 - (point[0] - 0.6) ** 2 - (point[1] - 1.5) ** 2


def searched(search, iterations, *, near=False):
    """Proposals after each iteration, for sources that do or do not come near them."""
    out = []
    for _ in range(iterations):
        point = search.proposal([1.0, 1.0])
        reached = point if near else [0.0, 0.0]
        search.update([1.0, 1.0], reached, objective(point))
        out.append(search.proposal([1.0, 1.0]))
    return out


def test_the_search_moves_towards_the_proxy_point_and_keeps_the_best():
    proposals = searched(ThresholdSearch(every=4), 60)
    assert objective(proposals[-1]) > objective([1.0, 1.0]) + 0.2
    changes = [a != b for a, b in zip([[1.0, 1.0], *proposals], proposals, strict=False)]
    assert [i for i, changed in enumerate(changes, 1) if changed][:3] == [4, 8, 12]
    assert not any(changes[41:])  # ten evaluations of four iterations, then the best is kept


def test_reached_thresholds_are_scored_at_once_and_unmeasured_ones_are_not_scored():
    assert len({tuple(p) for p in searched(ThresholdSearch(every=100), 5, near=True)}) == 5
    search = ThresholdSearch(every=2)
    for _ in range(10):
        search.update([1.0], [math.nan], math.nan)
    assert len(search.scores) == 0
    assert search.proposal([1.0]) == [1.0]


def test_a_restored_search_continues_identically():
    whole, first, second = (ThresholdSearch(every=3) for _ in range(3))
    expected = searched(whole, 30)
    got = searched(first, 13)
    second.load_state_dict(first.state_dict())
    assert got + searched(second, 17) == expected
