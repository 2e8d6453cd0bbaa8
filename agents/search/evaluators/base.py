"""What an evaluation of genomes returns, and the base class of evaluators."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.agents.search.controller import GenomePolicy

PICTURE = 64
"""Height and width of the pictures of a scene, in pixels."""

CELLS = 50
"""Cells of a coverage grid along each axis."""


@dataclass(frozen=True, slots=True)
class Evaluations:
    """An episode of each of `B` genomes.

    Args:
        genome: [B, G] float64.
        position: [B, S, D] float64, at `S` moments of the episode; the last one is its end.
        scene: [B, S, ...] what `Evaluator.draw` needs to draw these moments.
        ret: [B] float64, sum of the environment's rewards.
        area: [B] int64, 1 + the number of the area that the reward is for, 0 without a reward or
            where the environment names no areas.
        steps: [B] int64, environment steps.
        success: [B] int8, 1 yes, 0 no, -1 not known.
    """

    genome: np.ndarray
    position: np.ndarray
    scene: np.ndarray
    ret: np.ndarray
    area: np.ndarray
    steps: np.ndarray
    success: np.ndarray


class Evaluator(ABC):
    """Base class of evaluators.

    Attributes:
        policy: the network whose genomes are evaluated.
        low: [D] float64, lower bounds of the positions.
        high: [D] float64, upper bounds.
        num_areas: number of reward areas; 0 if the environment names none.
        draws: whether `draw` can be called.
        cells: of a coverage grid along each axis of the position.
    """

    policy: GenomePolicy
    low: np.ndarray
    high: np.ndarray
    num_areas: int = 0
    draws: bool = False

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells of a coverage grid along each axis of the position."""
        return (CELLS,) * len(self.low)

    @abstractmethod
    def evaluate(self, genomes: np.ndarray, samples: int = 1) -> Evaluations:
        """Run an episode with each genome.

        Args:
            genomes: [B, G] float64.
            samples: `S`; moments are equally spaced over the longest possible episode, without its
                beginning. An episode that ends earlier stays in its last one.
        """

    def split(self, genomes: np.ndarray, count: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Split genomes into parts that evaluators of the same kind can evaluate anywhere.

        A part is evaluated after `load_state_dict` of its state; all parts, joined, are what
        `evaluate` of all genomes would return here. The state advances as by that call.

        Args:
            genomes: [B, G] float64.
            count: about how many parts.

        Returns:
            Genomes and state of each part.
        """
        return [(part, self.state_dict()) for part in in_parts(genomes, -(-len(genomes) // count))]

    def close(self) -> None:  # noqa: B027
        """Free resources, such as processes. May be called more than once; default: nothing."""

    def draw(self, scenes: np.ndarray) -> np.ndarray:
        """Draw scenes [B, S, ...], as [B, S, 64, 64, 3] uint8.

        Raises:
            ValueError: if the evaluator draws nothing.
        """
        raise ValueError(f"{type(self).__name__} has no pictures of its environment")

    def state_dict(self) -> dict[str, Any]:
        """State that later evaluations depend on; by default there is none."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Load what `state_dict` returned."""


def concatenate_evaluations(parts: Sequence[Evaluations]) -> Evaluations:
    """Concatenate the evaluations of parts, genome after genome."""
    names = [field.name for field in dataclasses.fields(Evaluations)]
    return Evaluations(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})


def in_parts(genomes: np.ndarray, size: int) -> list[np.ndarray]:
    """Split genomes [B, G] into parts of at most `size`."""
    size = max(size, 1)
    return [genomes[i : i + size] for i in range(0, len(genomes), size)]


def moments(steps: int, samples: int) -> np.ndarray:
    """Steps [S] int64 after which positions are recorded, the last one at the end.

    Raises:
        ValueError: for more samples than steps.

    >>> moments(500, 1).tolist(), moments(100, 4).tolist()
    ([500], [25, 50, 75, 100])
    """
    if samples > steps:
        raise ValueError(f"{samples} moments of an episode of {steps} steps: expected at most that")
    return np.rint(np.arange(1, samples + 1) * steps / samples).astype(np.int64)
