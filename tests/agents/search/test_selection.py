"""Novelty, fronts and crowding equal plain code."""

import numpy as np
import pytest
from python_kernels import use_python_kernels

from firstlight.agents.search import selection_kernels
from firstlight.agents.search.selection import (
    crowding_distance,
    neighbors_of,
    novelty_of,
    pareto_fronts,
    select_by_fronts,
    select_largest,
)


def plain_novelty(queries, references, count, first_row=None):
    found = []
    for q, query in enumerate(queries):
        far = [
            float(np.linalg.norm(query - reference))
            for r, reference in enumerate(references)
            if first_row is None or r != first_row + q
        ]
        found.append(np.mean(sorted(far)[:count]))
    return np.array(found)


@pytest.mark.parametrize("first_row", [None, 0, 7])
@pytest.mark.parametrize("dims", [1, 2, 11])
def test_novelty_is_the_mean_distance_to_the_nearest(first_row, dims):
    random = np.random.default_rng(dims)
    references = random.normal(size=(60, dims))
    start = first_row or 0
    queries = references[start : start + 20]
    if first_row is None:
        queries = queries + 0.1
    for count in (1, 15, 59):
        found = novelty_of(queries, references, count, first_row)
        np.testing.assert_allclose(found, plain_novelty(queries, references, count, first_row))


def test_no_query_is_its_own_neighbor_among_equals():
    """Published code drops the nearest reference, whichever it is."""
    same = np.zeros((40, 2))
    rows, distances = neighbors_of(same, same, 5, first_row=0)
    assert rows.shape == (40, 5)
    assert (distances == 0).all()
    references = np.array([[0.0], [1.0], [3.0]])
    assert novelty_of(np.array([[0.9]]), references, 1).tolist() == pytest.approx([0.1])
    assert novelty_of(references[1:2], references, 1, first_row=1).tolist() == [1.0]


def test_fewer_references_than_neighbors():
    known = np.array([[0.0], [2.0]])
    assert novelty_of(known, known, 15, first_row=0).tolist() == [2, 2]
    assert novelty_of(known[:1], known[:1], 15, first_row=0).tolist() == [np.inf]


def test_the_kernel_equals_its_python(monkeypatch):
    random = np.random.default_rng(0)
    queries, references = random.normal(size=(9, 3)), random.normal(size=(30, 3)).round(1)
    compiled = neighbors_of(queries, references, 8)
    monkeypatch.setattr(
        "firstlight.agents.search.selection.find_nearest", selection_kernels.find_nearest.py_func
    )
    use_python_kernels(monkeypatch, selection_kernels)
    plain = neighbors_of(queries, references, 8)
    assert np.array_equal(compiled[0], plain[0])
    assert np.array_equal(compiled[1], plain[1])


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
