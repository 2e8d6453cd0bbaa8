"""Statistics over seeds: interquartile mean, bootstrap interval, probability of improvement, bands.

They are those of Agarwal et al. 2021 (arXiv 2108.13264) and of its library, rliable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at each end.

    Args:
        values: of any shape, such as [S] seeds or [S, M] seeds and tasks; at least one.

    >>> interquartile_mean(np.array([0.0, 1.0, 2.0, 30.0]))
    1.5
    """
    ordered = np.sort(np.asarray(values, float), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic over resampled seeds.

    Seeds are drawn with replacement, for each task by itself (stratified). With three seeds the
    interval can hardly be narrower than their range.

    Args:
        values: [S] seeds, or [S, M] seeds and tasks.
        statistic: of such an array.
        confidence: probability of the interval.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        Lower and upper end.
    """
    table = np.asarray(values, float)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = generator.integers(0, len(table), table.shape)
        drawn.append(statistic(np.take_along_axis(table, rows, 0)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Probability that a seed of ours is better than one of theirs; ties count half.

    This is the statistic of Mann and Whitney divided by the number of pairs.

    Args:
        ours: [S] results, higher is better.
        theirs: [R].

    >>> probability_of_improvement([1.0, 2.0], [0.0, 2.0])
    0.625
    """
    one, other = np.asarray(ours, float)[:, None], np.asarray(theirs, float)[None, :]
    return float(((one > other) + 0.5 * (one == other)).mean())


def curve_band(
    curves: Sequence[Sequence[Sequence[float]]], num_points: int = 200
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Median and range over seeds of curves with different steps.

    Values between two steps are interpolated; after its last step a curve keeps its last value,
    since training may stop where the threshold is reached. The band begins where all curves have
    begun.

    Args:
        curves: of each seed [P, 2], steps, which ascend, and values.
        num_points: P' of the result.

    Returns:
        Steps, median, lowest and highest value, each [P'].
    """
    arrays = [np.asarray(curve, float) for curve in curves]
    begin = max(array[0, 0] for array in arrays)
    end = max(array[-1, 0] for array in arrays)
    steps = np.linspace(begin, end, num_points)
    values = np.stack([np.interp(steps, array[:, 0], array[:, 1]) for array in arrays])
    return steps, np.median(values, 0), values.min(0), values.max(0)
