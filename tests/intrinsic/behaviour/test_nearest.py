"""Novelty and nearest neighbours equal plain code."""

import numpy as np
import pytest
from python_kernels import use_python_kernels

from firstlight.intrinsic.behaviour import nearest_kernels
from firstlight.intrinsic.behaviour.nearest import neighbors_of, novelty_of


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
        "firstlight.intrinsic.behaviour.nearest.find_nearest", nearest_kernels.find_nearest.py_func
    )
    use_python_kernels(monkeypatch, nearest_kernels)
    plain = neighbors_of(queries, references, 8)
    assert np.array_equal(compiled[0], plain[0])
    assert np.array_equal(compiled[1], plain[1])
