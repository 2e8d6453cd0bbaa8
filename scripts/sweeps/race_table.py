"""A race: the table of its cells, its steps from a budget of time, and its ranking."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLAIN = "ppo"
"""Name of the method without a bonus."""
BONUSES = ("rnd", "count", "e3b", "noveld", "deir", "etd")
"""The bonuses that `docs/bonuses.md` measures on six tasks, with their defaults."""
METHODS = (PLAIN, *BONUSES)
TASK = "task"
"""Name of the one task of a race."""
TRIAL_STEPS, MIN_STEPS = 10_000, 10_000
"""Steps of the training that measures the speed, and the fewest of a cell."""
COST = 1.5
"""Time of a training with a bonus as a multiple of plain PPO's, for the choice of the steps."""


@dataclass(frozen=True)
class Standing:
    """What a method reached.

    Args:
        method: its name.
        seeds: number of finished trainings.
        evaluation: interquartile mean over seeds of the return of the last evaluation.
        area: mean over training and seeds of the return; of equals the one that learns sooner is
            better.
        success: mean success rate of the last evaluation; None where it is not known.
        seconds: mean time of a training.
    """

    method: str
    seeds: int
    evaluation: float
    area: float
    success: float | None
    seconds: float


def method_override(method: str) -> str:
    """Return the override that chooses a method.

    >>> method_override("ppo"), method_override("rnd")
    ('intrinsic=[]', 'intrinsic=[rnd]')
    """
    return f"intrinsic=[{'' if method == PLAIN else method}]"


def race_table(
    overrides: Sequence[str], methods: Sequence[str], seeds: int, steps: int
) -> dict[str, Any]:
    """Make the table of a race, seed after seed, so that all methods have run as often.

    Args:
        overrides: of every training.
        methods: names from `METHODS`.
        seeds: number of trainings of each.
        steps: environment steps of a training.
    """
    return {
        "common": list(overrides),
        "tasks": {TASK: {}},
        "methods": {name: {"overrides": [method_override(name)]} for name in methods},
        "seeds": list(range(seeds)),
        "cap": steps,
    }


def choose_steps(
    budget: float, trainings: float, steps_per_second: float, overhead_seconds: float
) -> int:
    """Choose the environment steps of each training, of two digits.

    Args:
        budget: seconds for all.
        trainings: number of trainings, one after another.
        steps_per_second: of plain PPO.
        overhead_seconds: of a training, for its start and its evaluation.

    >>> choose_steps(1800, 14, 4_000, 8)
    320000
    >>> choose_steps(60, 14, 4_000, 8)
    10000
    """
    each = budget / trainings - overhead_seconds
    steps = max(int(each * steps_per_second / COST), MIN_STEPS)
    digits = 10 ** (len(str(steps)) - 2)
    return steps // digits * digits


def standings(lines: Iterable[Mapping[str, Any]]) -> list[Standing]:
    """Rank methods by their results, the best first.

    Args:
        lines: result lines of finished cells.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(str(line["method"]), []).append(line)
    found = [_standing(method, runs) for method, runs in groups.items()]
    return sorted(found, key=lambda one: (one.evaluation, one.area), reverse=True)


def verdict(ranked: Sequence[Standing]) -> str:
    """Summarise a ranking in a sentence."""
    first = ranked[0]
    if len(ranked) == 1:
        return f"{first.method} alone was trained: there is nothing to compare it with"
    if len({(one.evaluation, one.area) for one in ranked}) == 1:
        return (
            "no method stands out: every one has the same return. If that is the return of an "
            "agent that never finds a reward, give more steps=N"
        )
    if first.method == PLAIN:
        return "plain PPO is the best: this environment needs no bonus, as far as this race can see"
    return f"{first.method} is the best so far"


def train_command(overrides: Sequence[str], method: str, steps: int) -> str:
    """Return the command that trains with a method for ten times as long.

    >>> train_command(["env=chain"], "rnd", 20_000)
    "firstlight-train env=chain 'intrinsic=[rnd]' total_steps=200000 seed=0"
    """
    words = [*overrides, method_override(method), f"total_steps={10 * steps}", "seed=0"]
    return shlex.join(["firstlight-train", *words])


def _standing(method: str, runs: Sequence[Mapping[str, Any]]) -> Standing:
    import numpy as np

    from firstlight.scripts.report.seed_statistics import interquartile_mean

    success = [run["eval_success"] for run in runs if run["eval_success"] is not None]
    areas = [np.mean([value for _, value in run["curve"]]) for run in runs if run["curve"]]
    return Standing(
        method,
        len(runs),
        interquartile_mean(np.array([run["eval_return"] for run in runs])),
        float(np.mean(areas)) if areas else float("-inf"),
        float(np.mean(success)) if success else None,
        float(np.mean([run["seconds"] for run in runs])),
    )
