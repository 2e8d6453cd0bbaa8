"""Statistics over seeds: values of rliable, exact enumeration, slow loops; the drawn figures."""

import itertools
import statistics

import numpy as np
import pytest
from matplotlib.figure import Figure

from firstlight.scripts.report import curves
from firstlight.scripts.report.learning_report import improvement, middle
from firstlight.scripts.report.seed_statistics import (
    bootstrap_interval,
    curve_band,
    interquartile_mean,
    probability_of_improvement,
)

X = np.array([[0.9, 0.1], [0.4, 0.8], [0.7, 0.3], [0.2, 0.6], [0.95, 0.55]])
Y = np.array([[0.5, 0.2], [0.4, 0.9], [0.6, 0.1]])

RLIABLE = {  # of rliable 1.2.0's aggregate_iqm, for RandomState(n).rand(n, 1)
    1: 0.417022004702574,
    2: 0.23096056698494755,
    3: 0.5166168213685416,
    5: 0.5270455553539817,
    7: 0.5962819071164642,
    8: 0.5582176025248435,
    13: 0.6111145257889218,
}


def test_the_interquartile_mean_is_that_of_rliable():
    assert interquartile_mean(X) == pytest.approx(0.5583333333333332)
    assert interquartile_mean(Y) == pytest.approx(0.42500000000000004)
    for n, expected in RLIABLE.items():
        values = np.random.RandomState(n).rand(n, 1)  # the numbers that it was given
        assert interquartile_mean(values) == pytest.approx(expected, abs=1e-15)


def test_the_probability_of_improvement_is_that_of_rliable_and_of_a_slow_loop():
    """Rliable averages tasks; it gives 0.6 for X over Y."""
    each = [probability_of_improvement(X[:, m], Y[:, m]) for m in range(2)]
    assert np.mean(each) == pytest.approx(0.6)
    for m, found in enumerate(each):
        wins = sum((x > y) + (x == y) / 2 for x in X[:, m] for y in Y[:, m])
        assert found == pytest.approx(wins / 15)
        assert probability_of_improvement(Y[:, m], X[:, m]) == pytest.approx(1 - found)


def test_the_interval_is_that_of_all_resamples():
    """Of four seeds there are 256 resamples, whose quantiles are exact."""
    values = np.array([0.1, 0.35, 0.4, 0.95])
    exact = [interquartile_mean(values[[*rows]]) for rows in itertools.product(range(4), repeat=4)]
    for confidence in (0.5, 0.8):
        tail = (1 - confidence) / 2
        expected = np.quantile(exact, [tail, 1 - tail])
        found = bootstrap_interval(values, confidence=confidence, resamples=4_000)
        np.testing.assert_allclose(found, expected, atol=0.03)
    low, high = bootstrap_interval(values)
    assert values.min() <= low < interquartile_mean(values) < high <= values.max()
    assert bootstrap_interval(np.full(3, 0.5)) == (0.5, 0.5)


def test_the_mean_of_many_seeds_has_the_interval_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values, lambda x: float(x.mean()))
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_seeds_are_drawn_for_each_task_by_itself():
    """If whole rows were drawn, the sum of opposite columns would never vary."""
    values = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    low, high = bootstrap_interval(values, lambda x: float(x.sum()))
    assert low < 4 < high


def test_a_band_is_median_and_range_of_interpolated_curves():
    lines = [[[0, 0.0], [10, 1.0]], [[2, 0.5], [4, 0.5], [8, 0.9]], [[1, 0.2], [10, 0.2]]]
    steps, median, low, high = curve_band(lines, num_points=9)
    assert steps.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    for i, step in enumerate(steps):
        second = 0.5 if step <= 4 else 0.5 + 0.1 * min(step - 4, 4)
        values = [step / 10, second, 0.2]
        assert median[i] == pytest.approx(statistics.median(values))
        assert (low[i], high[i]) == pytest.approx((min(values), max(values)))


def line(curve, threshold=0.5):
    return {"curve": curve, "threshold": threshold}


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """Figures that were saved."""
    saved = []
    monkeypatch.setattr(curves, "RESULTS", tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: saved.append(self))
    return saved


def test_nine_tasks_are_three_rows_with_one_legend(figures):
    groups = {
        (f"task{i}", method, 100): [line([[0, 0.0], [10**6, 0.1 * i]])] * 3
        for i in range(9)
        for method in ("ppo", "count")
    }
    assert curves.draw_learning_curves("many", groups) == "results/many.png"
    (figure,) = figures
    drawn = [axis for axis in figure.axes if axis.axison]
    assert len(drawn) == 9
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (3, 4)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ppo", "count", "threshold"]
    assert all(axis.get_legend() is None for axis in figure.axes)
    assert figure.get_size_inches()[0] * curves._DPI <= 1_500


def test_published_results_are_lines_if_they_lie_in_the_panel(figures):
    runs = [line([[0, 0.0], [10**6, 0.2]])]
    groups = {("one", "ppo", 100): runs, ("two", "ppo", 100): runs}
    published = {
        "one": [{"name": "A", "value": 0.75}, {"name": "B", "steps": 500_000}],
        "two": [{"name": "C", "steps": 5_000_000}],
    }
    curves.draw_learning_curves("published", groups, published)
    (figure,) = figures
    dashed = [[k for k in axis.get_lines() if k.get_linestyle() == "--"] for axis in figure.axes]
    horizontal, vertical = dashed[0]
    assert {*horizontal.get_ydata()} == {0.75}
    assert {*vertical.get_xdata()} == {0.5}
    assert dashed[1] == []
    assert [text.get_text() for text in figure.axes[0].texts] == ["A", "B"]


def test_of_two_caps_the_one_with_most_seeds_is_drawn(figures):
    few, many = [line([[0, 0.9], [9, 0.9]])], [line([[0, 0.1], [9, 0.1]])] * 3
    groups = {("task", "ppo", 10**7): few, ("task", "ppo", 10**6): many}
    curves.draw_learning_curves("caps", groups)
    (curve,) = [k for k in figures[0].axes[0].get_lines() if k.get_linestyle() == "-"]
    assert {*curve.get_ydata()} == {0.1}


def test_a_method_is_compared_with_ppo_at_its_cap_or_the_largest():
    def runs(*returns):
        return [{"eval_return": value} for value in returns]

    groups = {
        ("task", "ppo", 1): runs(0.0, 0.2),
        ("task", "ppo", 3): runs(0.5, 0.5),
        ("task", "count", 1): runs(0.1, 0.5),
        ("task", "rnd", 2): runs(0.1, 0.5),
        ("other", "rnd", 2): runs(1.0),
    }
    assert improvement(groups, "task", "count", 1) == "75%"
    assert improvement(groups, "task", "rnd", 2) == "25%"
    assert improvement(groups, "other", "rnd", 2) == ""
    assert improvement(groups, "task", "ppo", 1) == ""


def test_one_seed_has_no_interval():
    assert middle([0.25]) == "0.250"
    assert middle([0.25, 0.25]) == "0.250 (0.250 to 0.250)"
