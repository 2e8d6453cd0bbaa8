"""`Teacher`, what plans subgoals for a level; the oracle, and a noisy one in place of an LLM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from firstlight.intrinsic.subgoals.planner_kernels import corrupt_levels, plan_levels
from firstlight.intrinsic.subgoals.plans import Levels, Plans

Kind = Literal["relative", "representation", "language"]
"""What a policy sees of a subgoal."""


class Teacher(ABC):
    """Plans the subgoals of levels. One object serves training and evaluation.

    The same level always has the same plan, apart from `UNKNOWN` ones that arrive later.
    """

    @abstractmethod
    def plan(self, levels: Levels) -> Plans:
        """Plan M levels, without waiting. A plan of length `UNKNOWN` is asked for again."""

    def open(self, run_dir: Path | None) -> None:  # noqa: B027
        """Start background services, such as a language model. Default: nothing."""

    def close(self) -> None:  # noqa: B027
        """End what `open` started."""

    def metrics(self) -> dict[str, float]:
        """Return scalars to log."""
        return {}


class Oracle(Teacher):
    """Plans from the whole level: doors, keys, boxes and objects on the cheapest way to its end.

    It sees what the agent cannot, so a comparison with bonuses that use the agent's view should say
    so.

    Args:
        all_doors: list closed doors too where an object is to be taken. The paper lists only locked
            ones there: key, door and ball in KeyCorridor.
        nearest_door: plan only the nearest door, the paper's task for pre-training.
    """

    def __init__(self, *, all_doors: bool = True, nearest_door: bool = False):
        self.all_doors, self.nearest_door = all_doors, nearest_door

    def plan(self, levels: Levels) -> Plans:
        """Plan M levels by compiled loops."""
        plans = Plans.empty(len(levels))
        given = levels.grid, levels.agent, levels.target
        outputs = plans.cells, plans.codes, plans.length
        plan_levels(*given, self.all_doors, self.nearest_door, *outputs)
        return plans


@dataclass(frozen=True, slots=True)
class Noise:
    """How often a language model's subgoals were right in one task.

    Args:
        position_accuracy: share of right positions.
        mean: of the Manhattan distance of wrong positions, in cells.
        std: its standard deviation.
        object_accuracy: share of right objects.
    """

    position_accuracy: float
    mean: float
    std: float
    object_accuracy: float


MEASURED = {
    "KeyCorridorS3R3": {
        "llama": Noise(0.974, 0.18, 1.20, 0.985),
        "qwen": Noise(0.981, 0.07, 0.63, 0.996),
        "deepseek": Noise(0.334, 2.57, 2.54, 0.906),
    },
    "KeyCorridorS6R3": {
        "llama": Noise(0.914, 1.47, 5.02, 0.932),
        "qwen": Noise(0.881, 1.34, 4.25, 0.959),
        "deepseek": Noise(0.365, 7.24, 7.47, 0.762),
    },
    "ObstructedMaze-1Dlh": {
        "llama": Noise(0.988, 0.08, 0.82, 0.989),
        "qwen": Noise(0.669, 2.18, 3.53, 0.742),
        "deepseek": Noise(0.430, 2.98, 3.41, 0.739),
    },
    "ObstructedMaze-1Dlhb": {
        "llama": Noise(0.449, 4.33, 4.21, 0.486),
        "qwen": Noise(0.405, 3.85, 3.71, 0.482),
        "deepseek": Noise(0.229, 4.49, 3.39, 0.518),
    },
    "MultiRoom-N2-S4": {
        "llama": Noise(0.921, 0.26, 1.01, 0.930),
        "qwen": Noise(0.714, 1.12, 2.05, 0.559),
        "deepseek": Noise(0.352, 2.91, 2.54, 0.273),
    },
    "MultiRoom-N4-S5": {
        "llama": Noise(0.540, 3.69, 4.65, 0.548),
        "qwen": Noise(0.360, 5.23, 4.94, 0.352),
        "deepseek": Noise(0.129, 7.92, 4.64, 0.175),
    },
}
"""Accuracies of three language models (Words as Beacons, 2410.08632, measured files of RQ3)."""


class Noisy(Teacher):
    """Corrupts another teacher's plans as a language model would, so that no model is needed.

    Each subgoal is wrong with probability ``1 - accuracy``: a position off by a Manhattan distance
    from N(mean, std), rounded and at least 1, or another object of the level. Equal levels are
    corrupted equally.

    Args:
        teacher: whose plans are corrupted.
        accuracy: share of right subgoals.
        mean, std: of the distance of wrong positions, in cells.
        by_position: corrupt positions; otherwise objects.
        doors_only: other objects are doors, as the paper has it in KeyCorridor and MultiRoom.
        extra: random subgoals added to each plan.
        seed: of the corruption.

    Raises:
        ValueError: for an accuracy that is no probability, or a negative number.
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        accuracy: float = 1.0,
        mean: float = 1.0,
        std: float = 0.0,
        by_position: bool = True,
        doors_only: bool = False,
        extra: int = 0,
        seed: int = 0,
    ):
        if not 0 <= accuracy <= 1 or min(std, extra) < 0:
            raise ValueError(
                f"accuracy {accuracy}, std {std}, extra {extra}: expected a probability and "
                "numbers of at least 0"
            )
        self.teacher, self.accuracy, self.mean, self.std = teacher, accuracy, mean, std
        self.by_position, self.doors_only = by_position, doors_only
        self.extra, self.seed = extra, seed

    def plan(self, levels: Levels) -> Plans:
        """Plan M levels and corrupt the plans, in place."""
        plans = self.teacher.plan(levels)
        corrupt_levels(
            levels.grid,
            levels.agent,
            levels.target,
            np.uint64(self.seed),
            float(self.accuracy),
            float(self.mean),
            float(self.std),
            self.by_position,
            self.doors_only,
            self.extra,
            plans.cells,
            plans.codes,
            plans.length,
        )
        return plans

    def open(self, run_dir: Path | None) -> None:
        """Open the teacher inside."""
        self.teacher.open(run_dir)

    def close(self) -> None:
        """Close the teacher inside."""
        self.teacher.close()

    def metrics(self) -> dict[str, float]:
        """Return those of the teacher inside."""
        return self.teacher.metrics()


def noise_of(row: str, kind: Kind) -> dict[str, float | bool]:
    """Arguments of `Noisy` for a row of `MEASURED`, such as "KeyCorridorS3R3/llama".

    Raises:
        ValueError: for an unknown row.
    """
    task, _, name = row.partition("/")
    found = MEASURED.get(task, {}).get(name)
    if found is None:
        known = ", ".join(f"{task}/{name}" for task, rows in MEASURED.items() for name in rows)
        raise ValueError(f"there is no row {row!r} of measured accuracies: choose from {known}")
    by_position = kind == "relative"
    return {
        "accuracy": found.position_accuracy if by_position else found.object_accuracy,
        "mean": found.mean,
        "std": found.std,
        "by_position": by_position,
        "doors_only": task.startswith(("KeyCorridor", "MultiRoom")),
    }
