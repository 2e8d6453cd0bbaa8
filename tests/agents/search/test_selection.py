"""Fronts and crowding equal plain code."""

import numpy as np
import pytest

from firstlight.agents.search.selection import (
    crowding_distance,
    pareto_fronts,
    select_by_fronts,
    select_largest,
)


def dominates(a, b):
    return all(x >= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


@pytest.mark.parametrize("decimals", [1, 8])
def test_fronts_equal_their_definition(decimals):
    objectives = np.random.default_rng(decimals).random((50, 2)).round(decimals)
    fronts = pareto_fronts(objectives)
    assert sorted(np.concatenate(fronts).tolist()) == list(range(50))
    left = set(range(50))
    for front in fronts:
        best = {i for i in left if not any(dominates(objectives[j], objectives[i]) for j in left)}
        assert set(front.tolist()) == best
        left -= best


def test_crowding_belongs_to_the_member_and_not_to_its_place_in_the_order():
    """Published code writes the distances in sorted order over members that are not sorted."""
    objectives = np.array([[2.0, 2.0], [0.0, 10.0], [10.0, 0.0], [1.0, 9.0]])
    found = crowding_distance(objectives)
    assert np.isinf(found[[1, 2]]).all()
    assert found[0] == pytest.approx((10 - 1) / 10 + (9 - 0) / 10)
    assert found[3] == pytest.approx((2 - 0) / 10 + (10 - 2) / 10)


def test_selection_takes_whole_fronts_and_the_least_crowded_of_the_last():
    objectives = np.array([[0, 3], [3, 0], [1, 2.1], [1.1, 2], [2, 1], [0, 0], [0.5, 0.5]])
    assert set(select_by_fronts(objectives, 5)) == {0, 1, 2, 3, 4}
    assert set(select_by_fronts(objectives, 3)) == {0, 1, 4}  # 2 and 3 are close together
    assert select_by_fronts(objectives, 6).tolist()[-1] == 6
    assert select_largest(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist() == [1, 3, 2]
