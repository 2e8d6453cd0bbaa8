"""Coverage, uniformity, and the reward of each area."""

import math

import numpy as np
import pytest
from toy_search import Toy

from firstlight.agents.search.coverage import PositionCoverage
from firstlight.agents.search.evaluators.base import Evaluations


def ended(*places, ret=None, area=None):
    """Evaluations that ended at these places."""
    count = len(places)
    position = np.array(places, np.float64).reshape(count, 1, 2)
    return Evaluations(
        genome=np.zeros((count, 1)),
        position=position,
        scene=position,
        ret=np.zeros(count) if ret is None else np.array(ret),
        area=np.zeros(count, np.int64) if area is None else np.array(area),
        steps=np.ones(count, np.int64),
        success=np.zeros(count, np.int8),
    )


def test_coverage_counts_cells_of_the_last_position():
    coverage = PositionCoverage(Toy())
    coverage.add(ended((-1, -1), (-0.97, -1), (1, 1), (7, 7), (0.0, 0.0)))
    assert coverage.counts.shape == (50, 50)
    assert coverage.counts[0, 0] == 2
    assert coverage.counts[49, 49] == 2  # outside counts as the edge
    assert coverage.counts[25, 25] == 1
    assert coverage.share == 3 / 2500
    coverage.add(ended((0.0, 0.0), (0.5, -1)))
    assert coverage.first_seen[25, 25] == 4
    assert coverage.first_seen[37, 0] == 6
    assert coverage.first_seen[1, 1] == -1


def test_uniformity_is_one_for_equal_counts_and_the_closed_form_for_one_cell():
    coverage = PositionCoverage(Toy())
    assert coverage.uniformity == 0
    coverage.add(ended(*[(0.1, 0.1)] * 5))
    n = 2500
    m = (1 + 1 / n) / 2
    one = math.log2(1 / m)
    other = (1 / n) * math.log2((1 / n) / m) + (n - 1) / n * 1
    assert coverage.uniformity == pytest.approx(1 - (one + other) / 2)
    coverage.counts[:] = 3
    assert coverage.uniformity == pytest.approx(1)


def test_rewards_are_counted_for_each_area_and_the_first_is_numbered():
    coverage = PositionCoverage(Toy())
    coverage.add(ended((0, 0), (0, 0)))
    assert "search/first_reward" not in coverage.metrics()
    coverage.add(ended((0, 0), (0, 0), (0, 0), ret=[0, 0.2, 0.6], area=[0, 2, 2]))
    found = coverage.metrics()
    assert found["search/first_reward"] == found["search/area_2/first"] == 4
    assert found["search/area_2/best"] == 0.6
    assert found["search/area_2/evaluations"] == 2
    assert found["search/area_1/best"] == found["search/area_1/evaluations"] == 0
    assert "search/area_1/first" not in found
    assert found["search/evaluations"] == 5
