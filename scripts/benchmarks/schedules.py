"""Measure training speed of synchronous and asynchronous training, alternating."""

from __future__ import annotations

import os
import statistics
import time

import torch

from firstlight.agents import RunSession, Trainer
from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_training_vec

ENVIRONMENTS = ("minigrid/doorkey_8x8", "nethack/score")
SCHEDULES = {
    "ppo": [],
    "ppo, rollouts of 32 steps": ["trainer.num_steps=32"],
    "appo": ["learner=appo"],
    "appo, threads in turn": ["learner=appo", "trainer.queue_size=0"],
    "appo, environments in halves": ["learner=appo", "alternate=true"],
}
"""Row to overrides of ``firstlight-train``; the first is what the others are compared with."""
SETTLED = 2
"""Iterations that are not counted, because they compile kernels."""


def make(env: str, overrides: list[str]) -> Trainer:
    """Make the trainer of ``firstlight-train env=ENV`` with `overrides`, without a directory."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("firstlight.conf", version_base="1.3"):
        cfg = compose("train", overrides=[f"env={env}", *overrides, "device=cpu"])
    return build(cfg, make_training_vec(cfg))


def speed(trainer: Trainer, iterations: int) -> tuple[float, float]:
    """Train for so many iterations more; return steps per second of wall clock and of processor.

    One iteration before them is not counted: in it an asynchronous trainer has nothing to learn
    from yet. Processor time is that of this process: its threads count, processes of a pool do not.
    """
    ticks: list[tuple[float, float, int]] = []

    def tick(session: RunSession, metrics: dict[str, float]) -> None:
        ticks.append((time.perf_counter(), time.process_time(), session.steps))

    rows = trainer.num_steps * trainer.vec.num_envs
    trainer.run(trainer.session.steps + (1 + iterations) * rows, [tick])
    clock, processor, steps = (end - begin for begin, end in zip(ticks[0], ticks[-1], strict=True))
    return steps / clock, steps / processor


def measure(*, rounds: int, steps: int) -> None:
    """Train with each schedule in turn in each round, and append a line for each to the results.

    Args:
        rounds: how often.
        steps: environment steps of training, for each schedule, environment and round.
    """
    torch.set_num_threads(1)
    for env in ENVIRONMENTS:
        trainers = {name: make(env, overrides) for name, overrides in SCHEDULES.items()}
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
        for trainer in trainers.values():
            speed(trainer, SETTLED)
        for _ in range(rounds):
            for name, trainer in trainers.items():
                iterations = max(1, round(steps / trainer.num_steps / trainer.vec.num_envs))
                rates[name].append(speed(trainer, iterations))
                print(f"{env:22s} {name:18s} {rates[name][-1][0]:10,.0f} steps/s", flush=True)
        first = [clock for clock, _ in rates[next(iter(SCHEDULES))]]
        for name, pairs in rates.items():
            clock, processor = (list(map(round, part)) for part in zip(*pairs, strict=True))
            ratios = [own / other for (own, _), other in zip(pairs, first, strict=True)]
            line = {
                "row": name,
                "env": env,
                "steps_per_second": clock,
                "per_processor_second": processor,
                "ratio": [round(ratio, 2) for ratio in ratios],
                "ratio_median": round(statistics.median(ratios), 2),
                "load_average": round(os.getloadavg()[0], 1),
                "command": f"firstlight-bench schedules rounds={rounds} steps={steps}",
            }
            append("schedules", {**line, "commit": commit(), "hardware": hardware()})
        for trainer in trainers.values():
            trainer.vec.close()
