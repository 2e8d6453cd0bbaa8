"""Measure what a reward program costs: python -m firstlight.scripts.benchmarks.program_cost."""

from __future__ import annotations

import statistics
import time

import torch

from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic import ProgramReward

ENVS, STEPS, ROUNDS = 64, 128, 15
PROGRAM = """
import numpy as np

RANGES = {"key": (0, 1), "door": (0, 1)}
FEATURES = {"had_key": (1, 0, 1, 0)}


def reward(obs, action, next_obs, info, memory):
    view = next_obs["image"]
    carried = view[:, 3, 6, 0] == 5
    opened = ((view[..., 0] == 4) & (view[..., 2] == 0)).any((1, 2))
    had_key = memory.get("key", np.zeros(len(action), bool))
    had_door = memory.get("door", np.zeros(len(action), bool))
    memory["key"], memory["door"] = had_key | carried, had_door | opened
    return {"key": carried & ~had_key, "door": opened & ~had_door}


def features(obs, info, memory):
    carried = obs["image"][:, 3, 6, 0] == 5
    memory["had"] = memory.get("had", carried) | carried
    return {"had_key": memory["had"]}
"""


def seconds_of_steps(vec: VecEnv, actions: torch.Tensor) -> float:
    """Seconds for stepping with actions [T, N]."""
    began = time.perf_counter()
    for action in actions:
        vec.step(action)
    return time.perf_counter() - began


def main() -> None:
    """Alternate all forms in each round; print medians."""
    torch.set_num_threads(1)
    modules = {
        form: ProgramReward(source=PROGRAM, trusted=form == "trusted")
        for form in ("trusted", "sandbox")
    }
    vecs = {"no features": make("MiniGrid-DoorKey-8x8-v0", num_envs=ENVS)}
    vecs |= {
        form: module.wrap(make("MiniGrid-DoorKey-8x8-v0", num_envs=ENVS))
        for form, module in modules.items()
    }
    rollout = Runner(vecs["trusted"]).collect(RandomActor(vecs["trusted"].act_space), STEPS)
    rows: dict[str, list[float]] = {}
    for _ in range(ROUNDS + 1):
        for form, module in modules.items():
            began = time.perf_counter()
            module.compute(rollout)
            rows.setdefault(f"reward of {ENVS * STEPS:,} steps, {form}", []).append(
                time.perf_counter() - began
            )
        for form, vec in vecs.items():
            vec.reset(0)
            seconds = seconds_of_steps(vec, rollout.action)
            rows.setdefault(f"{STEPS} steps of {ENVS} environments, {form}", []).append(seconds)
    for name, values in rows.items():  # the first round starts processes
        print(f"{name}: {1000 * statistics.median(values[1:]):.2f} ms")
    for module in modules.values():
        module.close()
    for vec in vecs.values():
        vec.close()


if __name__ == "__main__":
    main()
