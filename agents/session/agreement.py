"""What the processes of a run tell each other between iterations, so that all do the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from firstlight.agents.session.iteration_data import Metrics
from firstlight.envs.finite import NonFiniteError
from firstlight.networks import collective


@contextmanager
def raised_together() -> Iterator[None]:
    """Raise a NonFiniteError of one process in all of them, after a block that exchanges nothing.

    Raises:
        NonFiniteError: from the block, here or in another process.
    """
    error = None
    try:
        yield
    except NonFiniteError as caught:
        error = caught
    if collective.any_true(error is not None):
        raise error or NonFiniteError("something is not finite in another process")


def agree_on_end(stopping: bool, signum: int | None) -> tuple[bool, int | None]:
    """Agree on whether to stop.

    Args:
        stopping: whether a callback asked for the end.
        signum: number of the signal that this process received, or None.

    Returns:
        Whether any process stops, and the signal that the first of them received.
    """
    if collective.size() == 1:
        return stopping, signum
    told = collective.gather_json([stopping, signum])
    received = [number for _, number in told if number is not None]
    return any(stop for stop, _ in told), received[0] if received else None


def mean_metrics(metrics: Metrics) -> Metrics:
    """Compute the mean of each scalar over the processes that know it."""
    if collective.size() == 1:
        return metrics
    told = collective.gather_json({name: float(value) for name, value in metrics.items()})
    known: dict[str, list[float]] = {name: [] for each in told for name in each}
    for each in told:
        for name, value in each.items():
            known[name] += [] if math.isnan(value) else [value]
    return {n: sum(values) / len(values) if values else math.nan for n, values in known.items()}
