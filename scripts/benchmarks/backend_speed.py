"""Measure the speed of a MiniGrid task's backends under random actions, in turn.

``python -m firstlight.scripts.benchmarks.backend_speed TASK [native envpool python]``

Half of the actions are `forward`; resets are included, training is not. Each figure is the median
of five turns of a second each, on one thread (EnvPool's is one more).
"""

from __future__ import annotations

import sys
import time
from statistics import median

import torch

from firstlight.envs import minigrid
from firstlight.envs.minigrid.tasks import backends_of
from firstlight.envs.seeding import generator
from firstlight.envs.vec import VecEnv

NUM_ENVS, TURNS, SECONDS = 64, 5, 1.0


def speed(vec: VecEnv, actions: torch.Tensor) -> float:
    """Measure environment steps per second for `SECONDS` seconds; `actions` [T, N] are repeated."""
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for action in actions:
            steps += int(vec.step(action).valid.sum())
    return steps / (time.perf_counter() - began)


def main() -> None:
    """Measure and print one line for each backend."""
    torch.set_num_threads(1)
    task = sys.argv[1]
    names = sys.argv[2:] or backends_of(task)
    vecs = {n: minigrid.make(task, num_envs=NUM_ENVS, backend=n, num_threads=1) for n in names}  # type: ignore[arg-type]
    draws = generator(0, "worlds")
    actions = torch.randint(0, 7, (16, NUM_ENVS), generator=draws)
    actions[torch.rand((16, NUM_ENVS), generator=draws) < 0.5] = 2
    for vec in vecs.values():
        vec.reset(0)
        vec.step(actions[0])
    turns = [{name: speed(vec, actions) for name, vec in vecs.items()} for _ in range(TURNS)]
    for name, vec in vecs.items():
        print(f"{task} {name}: {median(turn[name] for turn in turns):,.0f} steps/s")
        vec.close()


if __name__ == "__main__":
    main()
