"""Measure steps per second of the worlds of our own under random actions."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import get_args

import numpy as np
import torch

from firstlight.envs import (
    Chain,
    CollectBall,
    Curling,
    DeepSea,
    HardMaze,
    Race,
    RedundantArm,
    VecEnv,
    Warehouse,
)
from firstlight.envs.worlds.warehouse import Scene
from firstlight.scripts.benchmarks.results import append, commit, hardware

NUM_ENVS, SECONDS = 64, 2.0
WORLDS: dict[str, Callable[[int], VecEnv]] = {
    "chain": Chain,
    "deepsea": DeepSea,
    "maze/hard": HardMaze,
    "maze/collectball": CollectBall,
    "maze/arm": RedundantArm,
    "maze/curling": Curling,
    "race": Race,
    **{
        f"warehouse/{scene}": functools.partial(Warehouse, scene=scene) for scene in get_args(Scene)
    },
}
"""Value of ``env=`` to a function that makes this number of environments."""


def speed(vec: VecEnv, actions: list[torch.Tensor]) -> tuple[float, float]:
    """Measure environment steps per second of wall clock and of processor time, for `SECONDS`."""
    steps, began, used = 0, time.perf_counter(), time.process_time()
    while not steps or time.perf_counter() - began < SECONDS:
        for action in actions:
            vec.step(action)
        steps += vec.num_envs * len(actions)
    return steps / (time.perf_counter() - began), steps / (time.process_time() - used)


def measure(*, rounds: int) -> None:
    """Measure all worlds in turn in each round, and append a line for each to the results."""
    torch.set_num_threads(1)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in WORLDS}
    for i in range(rounds):
        for name, make in WORLDS.items():
            vec = make(NUM_ENVS)
            vec.reset(i)
            vec.act_space.seed(i)
            actions = [
                torch.from_numpy(np.stack([vec.act_space.sample() for _ in range(NUM_ENVS)]))
                for _ in range(64)
            ]
            vec.step(actions[0])  # compiles the kernels
            rates[name].append(speed(vec, actions))
            print(f"{name:28s} {rates[name][-1][0]:11,.0f} steps/s", flush=True)
    for name, pairs in rates.items():
        by_clock, by_processor = (list(map(round, part)) for part in zip(*pairs, strict=True))
        line = {
            "row": name,
            "num_envs": NUM_ENVS,
            "steps_per_second": by_clock,
            "per_processor_second": by_processor,
            "load_average": round(os.getloadavg()[0], 1),
            "command": f"firstlight-bench worlds rounds={rounds}",
        }
        append("worlds", {**line, "commit": commit(), "hardware": hardware()})
