"""Our PPO, timed like `sb3_ppo`: same task, network and settings."""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces

from firstlight.agents import PPO, ActorCritic, Trainer, TwinMLP
from firstlight.envs.joined import JoinedVec
from firstlight.envs.vector.envpool import EnvPoolVec

PINNED = {"num_threads": 1, "thread_affinity_offset": 1}  # EnvPool on a core of its own


def make(
    task: str, *, pinned: bool = False, halves: bool = False, run_dir: str | Path | None = None
) -> Trainer:
    """Make the trainer that is timed; with `halves` it acts in one while the other steps."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"obs_keys": ["image"], "info_keys": [], "success_threshold": 0.0}
    if pinned or halves:
        options |= PINNED if pinned else {"num_threads": 1}
    number = 2 if halves else 1
    pools = [EnvPoolVec(task, num_envs=64 // number, **options) for _ in range(number)]
    vec = JoinedVec(pools) if halves else pools[0]
    image = spaces.Dict({"image": vec.obs_space["image"]})
    policy = ActorCritic(image, vec.act_space, encoder=TwinMLP(image))
    # value_coef: our value loss has a factor one half, Stable-Baselines3's has none
    learner = PPO(policy, minibatch_size=2048, num_epochs=4, value_coef=1.0)
    return Trainer(vec, learner, run_dir=run_dir)


def main(task: str, steps: int, threads: int, pinned: bool, profiled: bool) -> None:
    """Train and print one JSON object with steps and seconds after the first three rollouts.

    With `profiled` it prints a profile by function instead.
    """
    torch.set_num_threads(threads)
    trainer = make(task, pinned=pinned, halves=True)
    for _ in range(3):
        trainer.iterate(steps)
    rows, began = 0, time.perf_counter()
    profiler = cProfile.Profile()
    if profiled:
        profiler.enable()
    while rows < steps:
        trainer.iterate(steps)
        rows += 64 * 128
    if profiled:
        profiler.disable()
        pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(14)
        return
    print(json.dumps({"steps": rows, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    words = sys.argv[4:]
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "pinned" in words, "profile" in words)
