"""Measure training steps per second against the number of environments and the encoder's width."""

from __future__ import annotations

import itertools
import statistics

import torch

from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.benchmarks.stages import TASK, configured, train

NUM_ENVS, WIDTHS = (16, 64, 256, 1024), (64, 256)


def measure(*, rounds: int, steps: int) -> None:
    """Train with each size in each round, and append a line for each.

    Args:
        rounds: how often.
        steps: environment steps of training that are counted, for each size and round.
    """
    torch.set_num_threads(1)
    found: dict[tuple[int, int], list[float]] = {}
    for _, size in itertools.product(range(rounds), itertools.product(NUM_ENVS, WIDTHS)):
        num_envs, width = size
        options = f"env.num_envs={num_envs}", "encoder=grid", f"encoder.hidden={width}"
        setup = configured(TASK, "env=minigrid/doorkey_8x8", "intrinsic=[count]", *options)
        trainer, seconds = train(setup, steps)
        trainer.vec.close()
        found.setdefault(size, []).append(1 / seconds["all"])
    for (num_envs, width), rates in found.items():
        print(f"{num_envs:5d} environments, width {width:4d}: {statistics.median(rates):9,.0f}")
        line = {"num_envs": num_envs, "width": width, "steps_per_second": rates}
        command = f"firstlight-bench sizes rounds={rounds} steps={steps}"
        append("sizes", {**line, "command": command, "commit": commit(), "hardware": hardware()})
