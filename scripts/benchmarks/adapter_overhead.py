"""Measure the overhead of our EnvPool adapter, and training speed with each MiniGrid view."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import envpool
import numpy as np
import torch

from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.benchmarks.stages import SETTLED, TASK, IterationClock, Setup, configured

SIZES = (64, 256)
TURNS = 5  # of EnvPool alone and ours in a round
COMMON = ("env=minigrid/doorkey_8x8", "env.backend=envpool", "mixer=heads")
VIEWS = {
    "view=partial": ("intrinsic=[]",),
    "view=map, the map kept but not shown": ("env.view=map", "+env.show=false", "intrinsic=[]"),
    "view=map": ("env.view=map", "intrinsic=[]"),
    "view=map and map_change": ("env.view=map", "intrinsic=[map_change]"),
    "own world": ("env.backend=native", "intrinsic=[]"),
    "own world, the full grid beside it": (
        *("env.backend=native", "env.full_grid=true", "intrinsic=[]"),
    ),
    "own world, text beside it": ("env.backend=native", "env.text=true", "intrinsic=[]"),
}


def relative_speed(num_envs: int, steps: int) -> float:
    """Speed of EnvPool through our adapter relative to EnvPool alone; same threads and actions."""
    options: dict[str, Any] = {"num_threads": 1}
    pool: Any = envpool.make_gymnasium(TASK, num_envs=num_envs, seed=0, **options)
    vec = EnvPoolVec(TASK, num_envs=num_envs, success_threshold=0.0, **options)
    pool.reset()
    vec.reset(0)
    count = max(1, steps // num_envs // TURNS)
    actions = np.random.default_rng(0).integers(0, 7, (count, num_envs))
    theirs, ours = actions.astype(np.int32), torch.from_numpy(actions)
    seconds = [0.0, 0.0]
    for _ in range(TURNS):
        began = time.perf_counter()
        for action in theirs:
            pool.step(action)
        between = time.perf_counter()
        for action in ours:
            vec.step(action)
        seconds[0] += between - began
        seconds[1] += time.perf_counter() - between
    pool.close()
    vec.close()
    return seconds[0] / seconds[1]


def training_speed(setup: Setup, steps: int) -> float:
    """Environment steps per second of training, without the first iterations."""
    clock = IterationClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = setup.make(f"{folder}/run")
        iteration = trainer.vec.num_envs * trainer.num_steps
        trainer.run(SETTLED * iteration + steps, [clock])
        text = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        trainer.vec.close()
    lines = [json.loads(line) for line in text.splitlines()]
    done = lines[-1]["step"] - lines[SETTLED - 1]["step"]
    return done / (clock.ticks[-1] - clock.ticks[SETTLED - 1])


def measure(*, rounds: int, steps: int) -> None:
    """Alternate all rows in each round, and append a line for each to the results.

    Args:
        rounds: how often.
        steps: environment steps of each measurement.
    """
    torch.set_num_threads(1)
    setups = {name: configured(TASK, *COMMON, *words) for name, words in VIEWS.items()}
    adapters = {f"EnvPool through our adapter, {N} environments": N for N in SIZES}
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, num_envs in adapters.items():
            found.setdefault(name, []).append(relative_speed(num_envs, steps))
        for name, setup in setups.items():
            found.setdefault(name, []).append(training_speed(setup, steps))
    first = next(iter(setups))
    for name, values in found.items():
        line: dict[str, Any] = {"row": name}
        if name in adapters:
            line |= {"about": "steps per second as a share of EnvPool's own", "ratio": values}
        else:
            ratio = [a / b for a, b in zip(values, found[first], strict=True)]
            line |= {"about": setups[name].about, "steps_per_second": values, "ratio": ratio}
        print(f"{name:50s} {statistics.median(values):11,.2f}", flush=True)
        command = f"firstlight-bench views rounds={rounds} steps={steps}"
        append("views", {**line, "command": command, "commit": commit(), "hardware": hardware()})
