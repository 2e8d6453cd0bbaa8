"""Measure training on a GPU by stage, and how busy the GPU is; on the CPU where there is none."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from firstlight.scripts.benchmarks.results import append, commit, hardware
from firstlight.scripts.benchmarks.stages import TASK, configured, train

MINIGRID = "env=minigrid/doorkey_8x8"
SETUPS = {
    "count": [MINIGRID, "intrinsic=[count]", "env.num_envs=1024"],
    "count, 4096 environments": [MINIGRID, "intrinsic=[count]", "env.num_envs=4096"],
    "count, bfloat16": [MINIGRID, "intrinsic=[count]", "env.num_envs=1024", "policy.bfloat16=true"],
    "count and RND": [MINIGRID, "intrinsic=[count,rnd]", "env.num_envs=1024"],
    "count, APPO": [MINIGRID, "intrinsic=[count]", "env.num_envs=1024", "learner=appo"],
    "NetHack": ["env=nethack/score", "intrinsic=[]", "env.num_envs=128"],
    "NetHack, APPO": ["env=nethack/score", "intrinsic=[]", "env.num_envs=128", "learner=appo"],
}
"""Row to overrides of ``firstlight-train``."""
_QUERY = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]


@contextmanager
def gpu_load() -> Iterator[list[float]]:
    """Yield a list that holds the GPU's utilisation in percent, every 0.2 s, at the end."""
    loads: list[float] = []
    if not torch.cuda.is_available():
        yield loads
        return
    with subprocess.Popen([*_QUERY, "-lms", "200"], stdout=subprocess.PIPE, text=True) as sampler:
        try:
            yield loads
        finally:
            sampler.terminate()
            assert sampler.stdout is not None
            loads += [float(line) for line in sampler.stdout if line.strip().isdigit()]


def measure(*, rounds: int, steps: int) -> None:
    """Train with each setup in each round; where there is a GPU, append a line for each stage.

    Args:
        rounds: how often.
        steps: environment steps of training that are counted, for each setup and round.
    """
    gpu = torch.cuda.is_available()
    found: dict[tuple[str, str], list[float]] = {}
    busy: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, overrides in SETUPS.items():
            setup = configured(TASK, *overrides, device="cuda" if gpu else "cpu")
            with gpu_load() as loads:
                trainer, seconds = train(setup, steps)
            trainer.vec.close()
            busy.setdefault(name, []).extend(loads)
            for stage, spent in seconds.items():
                if spent > 0:
                    found.setdefault((name, stage), []).append(1 / spent)
            print(f"{name:26s} {1 / seconds['all']:11,.0f} steps/s", flush=True)
    if not gpu:
        print("no CUDA device: nothing is recorded")
        return
    for (name, stage), rates in found.items():
        line: dict[str, Any] = {
            "row": name,
            "stage": stage,
            "steps_per_second": rates,
            "device": torch.cuda.get_device_name(),
        }
        if busy[name]:
            line["gpu_percent"] = round(statistics.mean(busy[name]), 1)
        line["about"] = f"firstlight-train {' '.join(SETUPS[name])}"
        command = f"firstlight-bench gpu rounds={rounds} steps={steps}"
        append("gpu", {**line, "command": command, "commit": commit(), "hardware": hardware()})
