"""Descriptors of behaviour: what novelty is measured in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import numpy as np

from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.individuals import Individuals

PathDescriptor = Literal[
    "position", "signature", "log_signature", "timed_signature", "timed_log_signature"
]


class Descriptor(ABC):
    """Base class of descriptors; a descriptor that learns overrides `train` and the state."""

    @abstractmethod
    def describe(self, individuals: Individuals) -> Individuals:
        """Return the individuals with `descriptor` and `surprise`."""

    def train(self, individuals: Individuals) -> dict[str, float]:
        """Learn from individuals; afterwards every stored descriptor is computed again.

        Returns:
            Scalars to log; nothing for a descriptor that does not learn.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State of a descriptor that learns."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


class PathOfPositions(Descriptor):
    """Describes an episode by its positions, which are known to the environment.

    Positions are scaled so that the widest axis spans 1.

    Args:
        evaluator: gives the bounds of positions.
        kind: "position", all sampled positions, by default the last one alone; or the signature of
            order 2 of their path, or its logarithm, also with the time, which spans 1, as a further
            axis (Lyons 1998; thesis of Paolo, arXiv 2203.01027).

    Raises:
        ValueError: for another kind.
    """

    def __init__(self, evaluator: Evaluator, kind: PathDescriptor = "position"):
        if kind not in get_args(PathDescriptor):
            raise ValueError(
                f"descriptor is {kind!r}, expected one of {', '.join(get_args(PathDescriptor))}"
            )
        self.kind, self._low = kind, evaluator.low
        self._span = float((evaluator.high - evaluator.low).max()) or 1.0

    def describe(self, individuals: Individuals) -> Individuals:
        """Describe by positions, without surprise."""
        path = (individuals.position - self._low) / self._span  # [B, S, D]
        if self.kind == "position":
            return individuals.with_values(descriptor=path.reshape(len(path), -1))
        if self.kind.startswith("timed"):
            time = np.linspace(0, 1, path.shape[1])
            path = np.concatenate(
                [np.broadcast_to(time[:, None], (*path.shape[:2], 1)), path], axis=2
            )
        found = signature(path, logarithm="log" in self.kind)
        return individuals.with_values(descriptor=found)


def signature(path: np.ndarray, *, logarithm: bool = False) -> np.ndarray:
    """Compute the signature of order 2 of piecewise linear paths.

    Args:
        path: [B, S, D].
        logarithm: compute the log-signature: the increment, and the signed area of each two axes.

    Returns:
        [B, D + D²] float64, or [B, D + D (D - 1) / 2].
    """
    moved = np.diff(path, axis=1)
    before = np.cumsum(moved, 1) - moved
    first = moved.sum(1)
    second = np.einsum("bsi,bsj->bij", before + moved / 2, moved)
    if not logarithm:
        return np.concatenate([first, second.reshape(len(path), -1)], 1)
    row, column = np.triu_indices(path.shape[2], 1)
    area = (second[:, row, column] - second[:, column, row]) / 2
    return np.concatenate([first, area], 1)
