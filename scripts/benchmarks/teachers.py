"""Measure a language model as a teacher of subgoals against the oracle, as Words as Beacons does.

``python -m firstlight.scripts.benchmarks.teachers llm=local levels=100`` prints a row for a task:
the share of the oracle's subgoals at whose place in the order the model lists the right cell, the
mean and deviation of the Manhattan distance, and the share of right objects. ``llm=NAME url=URL``
asks another model, ``tasks=KeyCorridorS3R3,MultiRoom-N2-S4`` chooses tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.intrinsic.subgoals.llm_teacher import TOKENS, LevelPrompt, LLMTeacher
from firstlight.intrinsic.subgoals.plans import Levels, Plans, phrase_of
from firstlight.intrinsic.subgoals.teachers import MEASURED, Oracle


def levels_of(task: str, number: int, seed: int = 0) -> Levels:
    """First levels of a task: MultiRoom-N4-S5 is the one with four rooms."""
    version = "v1" if task == "MultiRoom-N4-S5" else "v0"
    world = GridWorld(f"MiniGrid-{task}-{version}", num_envs=number, level=True)
    _, info = world.reset(seed)
    return Levels(*(info[name].numpy() for name in ("level", "agent_pos", "target")))


def compare(plans: Plans, truth: Plans) -> dict[str, float]:
    """Compare plans subgoal by subgoal; one that is missing is wrong and has no distance.

    Returns:
        position and object accuracy, mean and std of the distance where there is a subgoal, and the
        number of subgoals that are missing.
    """
    same, named, away, missing = [], [], [], 0
    for row in range(len(truth.length)):
        for p in range(int(truth.length[row])):
            if p >= plans.length[row]:
                same.append(False)
                named.append(False)
                missing += 1
                continue
            distance = int(np.abs(plans.cells[row, p].astype(int) - truth.cells[row, p]).sum())
            same.append(distance == 0)
            right = phrase_of(int(truth.codes[row, p]))
            named.append(phrase_of(int(plans.codes[row, p])) == right)
            away.append(distance)
    return {
        "position": float(np.mean(same)),
        "distance_mean": float(np.mean(away)) if away else float("nan"),
        "distance_std": float(np.std(away)) if away else float("nan"),
        "object": float(np.mean(named)),
        "missing": float(missing),
    }


def main(words: Sequence[str]) -> None:
    """Print a row for each task."""
    from firstlight.intrinsic.subgoals.json_judge import JsonJudge

    options = dict(word.split("=", 1) for word in words)
    model = options.get("llm", "local")
    number = int(options.get("levels", 100))
    tasks = options["tasks"].split(",") if "tasks" in options else [*MEASURED]
    teacher = LLMTeacher(
        lambda: JsonJudge(
            model=None if model == "local" else model,
            url=options.get("url"),
            prompt=LevelPrompt(),
            max_tokens=TOKENS,
        ),
        request_size=1,
    )
    teacher.open(None)
    assert teacher.service is not None
    for task in tasks:
        levels = levels_of(task, number)
        teacher.plan(levels)
        teacher.service.wait()
        found = compare(teacher.plan(levels), Oracle(all_doors=False).plan(levels))
        print(task, "  ".join(f"{name} {value:.3g}" for name, value in found.items()), flush=True)
    teacher.close()


if __name__ == "__main__":
    main(sys.argv[1:])
