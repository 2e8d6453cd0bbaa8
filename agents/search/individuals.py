"""Genomes that were evaluated, and what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.agents.search.evaluators.base import Evaluations


@dataclass(frozen=True, slots=True)
class Individuals:
    """Rows of `B` evaluated genomes; nothing is changed in place.

    Args:
        genome: [B, G] float64.
        position: [B, S, D] float64, see `Evaluations`.
        scene: [B, S, ...], see `Evaluations`.
        ret: [B] float64, the reward.
        area: [B] int64, of the reward, or 0.
        id: [B] int64, the number of the evaluation: unique in a run.
        parent: [B] int64, id of the parent, or -1.
        descriptor: [B, d] float64, of the behaviour.
        novelty: [B] float64, when it was last computed.
        surprise: [B] float64, of a learned descriptor, else 0.
    """

    genome: np.ndarray
    position: np.ndarray
    scene: np.ndarray
    ret: np.ndarray
    area: np.ndarray
    id: np.ndarray
    parent: np.ndarray
    descriptor: np.ndarray
    novelty: np.ndarray
    surprise: np.ndarray

    def __len__(self) -> int:
        return len(self.genome)

    @classmethod
    def of(cls, evaluations: Evaluations, first_id: int, parent: np.ndarray) -> Individuals:
        """Make individuals of evaluations, numbered from `first_id`, without a descriptor."""
        count = len(evaluations.genome)
        return cls(
            genome=evaluations.genome,
            position=evaluations.position,
            scene=evaluations.scene,
            ret=evaluations.ret,
            area=evaluations.area,
            id=np.arange(first_id, first_id + count),
            parent=np.asarray(parent, np.int64),
            descriptor=np.zeros((count, 0)),
            novelty=np.zeros(count),
            surprise=np.zeros(count),
        )

    def take(self, rows: Any) -> Individuals:
        """Select rows: indices [*] int64, or a mask [B] bool."""
        rows = np.asarray(rows)
        rows = rows.astype(np.int64) if rows.dtype != bool else rows
        return Individuals(**{name: field[rows] for name, field in self.state_dict().items()})

    def with_values(self, **fields: np.ndarray) -> Individuals:
        """Return a copy with other fields."""
        return dataclasses.replace(self, **fields)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in FIELDS}


FIELDS = tuple(field.name for field in dataclasses.fields(Individuals))


def join(parts: Sequence[Individuals]) -> Individuals:
    """Put individuals one after another."""
    states = [part.state_dict() for part in parts]
    return Individuals(**{name: np.concatenate([s[name] for s in states]) for name in FIELDS})


def load_individuals(state: dict[str, np.ndarray] | None) -> Individuals | None:
    """Restore what `Individuals.state_dict` returned, or None."""
    return None if state is None else Individuals(**state)


def save_individuals(individuals: Individuals | None) -> dict[str, np.ndarray] | None:
    """Return the state of individuals, or None."""
    return None if individuals is None else individuals.state_dict()
