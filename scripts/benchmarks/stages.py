"""Measure training time by stage: steps per second and share of time."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envpool
import numpy as np
import torch

from firstlight.agents import Trainer
from firstlight.envs.vec import VecEnv
from firstlight.scripts.benchmarks.peers import ours_ppo
from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec

STAGES = ("collect", "intrinsic", "learn", "module_update")
SETTLED = 3
"""Iterations that are not counted, because they compile kernels."""

Rows = dict[str, tuple[float, float]]
"""Row to steps per second, and its share of the time of training."""


@dataclass(frozen=True)
class Setup:
    """A training run that is timed.

    Args:
        about: description for the table.
        task: EnvPool's name of the task.
        make: makes a trainer for a run directory.
    """

    about: str
    task: str
    make: Callable[[str], Trainer]


def configured(task: str, *overrides: str, device: str = "cpu") -> Setup:
    """Setup of ``firstlight-train`` with `overrides`, without its evaluations."""

    def make(run_dir: str) -> Trainer:
        from hydra import compose, initialize_config_module

        with initialize_config_module("firstlight.conf", version_base="1.3"):
            cfg = compose("train", overrides=[*overrides, f"device={device}"])
        cfg.run_dir = run_dir
        return build(cfg, make_vec(cfg.env))

    return Setup(f"`firstlight-train {' '.join(overrides)}`", task, make)


TASK = "MiniGrid-DoorKey-8x8-v0"
SETUPS: dict[str, Setup] = {
    "ppo": Setup(
        "PPO alone as in the comparison with Stable-Baselines3 (`peers/ours_ppo.py`)",
        TASK,
        lambda run_dir: ours_ppo.make(TASK, run_dir=run_dir),
    ),
    "default": configured(TASK, "env=minigrid/doorkey_8x8", "intrinsic=[count]"),
    "default_on_envpool": configured(
        TASK, "env=minigrid/doorkey_8x8", "intrinsic=[count]", "env.backend=envpool"
    ),
    "count_rnd": configured(TASK, "env=minigrid/doorkey_8x8", "intrinsic=[count,rnd]"),
}


class IterationClock:
    """Callback that records the time at the end of each iteration."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def __call__(self, run: Any, metrics: dict[str, float]) -> None:
        """Record the time."""
        self.ticks.append(time.perf_counter())


def train(setup: Setup, steps: int) -> tuple[Trainer, dict[str, float]]:
    """Train for about `steps` steps after the first iterations.

    Returns:
        The trainer, and seconds per step by stage. Stages are those that every run logs as
        ``perf/<stage>_seconds``; the remaining time, such as statistics and logging, is "rest", and
        their sum "all". The last checkpoint of the run is not counted.
    """
    clock = IterationClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = setup.make(f"{folder}/run")
        iteration = trainer.vec.num_envs * trainer.num_steps
        warm = max((m.warmup_steps for m in trainer.modules.values()), default=0)
        trainer.run(warm * trainer.vec.num_envs + SETTLED * iteration + steps, [clock])
        text = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    settled = SETTLED + sum("perf/warmup_seconds" in line for line in lines) - 1
    done = lines[-1]["step"] - lines[settled]["step"]
    seconds = clock.ticks[-1] - clock.ticks[settled]
    parts = {
        name: sum(line.get(f"perf/{name}_seconds", 0.0) for line in lines[settled + 1 :])
        for name in STAGES
    }
    parts |= {"rest": seconds - sum(parts.values()), "all": seconds}
    return trainer, {name: spent / done for name, spent in parts.items()}


def one_round(setup: Setup, steps: int) -> Rows:
    """Train for about `steps` steps, and step the environments alone."""
    trainer, each = train(setup, steps)
    alone = {
        "environments alone, EnvPool": time_envpool(setup.task, trainer.vec.num_envs, steps),
        "environments alone, ours": time_vec(trainer.vec, steps),
    }
    trainer.vec.close()
    return {name: (1 / spent, spent / each["all"]) for name, spent in (alone | each).items()}


def time_envpool(task: str, num_envs: int, steps: int) -> float:
    """Seconds per step of EnvPool alone, with random actions."""
    pool = envpool.make_gymnasium(task, num_envs=num_envs, seed=0)
    pool.reset()
    count, dice = max(1, steps // num_envs), np.random.default_rng(0)
    actions = dice.integers(0, pool.action_space.n, (count, num_envs), dtype=np.int32)
    began = time.perf_counter()
    for action in actions:
        pool.step(action)
    seconds = time.perf_counter() - began
    pool.close()
    return seconds / (count * num_envs)


def time_vec(vec: VecEnv, steps: int) -> float:
    """Seconds per step of the same environments as a `VecEnv`, with random actions."""
    vec.reset(0)
    count, dice = max(1, steps // vec.num_envs), torch.Generator().manual_seed(0)
    high = int(vec.act_space.n)  # type: ignore[attr-defined]
    actions = torch.randint(0, high, (count, vec.num_envs), generator=dice)
    began = time.perf_counter()
    for action in actions:
        vec.step(action)
    return (time.perf_counter() - began) / (count * vec.num_envs)


def measure(*, rounds: int, steps: int) -> None:
    """Time every setup in each round, and append a line for each of its rows.

    Args:
        rounds: how often.
        steps: environment steps of training that are counted, for each setup and round.
    """
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, setup in SETUPS.items():
            for row, measured in one_round(setup, steps).items():
                found.setdefault((name, row), []).append(measured)
    for (name, row), values in found.items():
        rates, shares = (list(column) for column in zip(*values, strict=True))
        print(
            f"{name:10s} {row:28s} {statistics.median(rates):11,.0f} steps/s "
            f"{statistics.median(shares):6.1%}"
        )
        line: dict[str, Any] = {"setup": name, "about": SETUPS[name].about, "row": row}
        line |= {"steps_per_second": rates, "share": shares}
        command = f"firstlight-bench stages rounds={rounds} steps={steps}"
        append("stages", {**line, "command": command, "commit": commit(), "hardware": hardware()})
