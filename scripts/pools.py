"""Steps per second of the process pool against Gymnasium's AsyncVectorEnv, by turns in one run.

``python -m firstlight.scripts.pools [NUM_ENVS [NUM_WORKERS]]``

The game is NetHackScore-v0 with glyphs, blstats and message, under the same random actions;
resets are included, training is not. Gymnasium has a process for each environment and its shared
memory; the pool, which also records actions to resume from, copies observations there ("pool") or
has NetHack write them ("pool, lent"). Each figure is the median of five turns of two seconds each,
each ratio the median of the five turns' ratios.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv

from firstlight.envs import PoolVec
from firstlight.envs.seeding import generator

TURNS, SECONDS, PEER = 5, 2.0, "AsyncVectorEnv"


def nethack() -> gymnasium.Env:
    """The game as NLE gives it."""
    keys = ("glyphs", "blstats", "message")
    return gymnasium.make("nle:NetHackScore-v0", observation_keys=keys, save_ttyrec_every=0)


class Lent(gymnasium.Wrapper):
    """The game with NLE's observations written into arrays that it is lent."""

    def __init__(self) -> None:
        super().__init__(nethack())

    def set_buffers(self, views: dict[str, np.ndarray]) -> None:
        """Have NetHack write into `views`."""
        game = self.unwrapped.nethack  # type: ignore[attr-defined]
        game._obs_buffers |= views
        game._pynethack.set_buffers(**game._obs_buffers)
        game._obs = tuple(game._obs_buffers.values())


def speed(step: Callable[[Any], Any], actions: list[Any]) -> float:
    """Environment steps per second over a turn of `actions`, repeated."""
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for action in actions:
            step(action)
            steps += len(action)
    return steps / (time.perf_counter() - began)


def main() -> None:
    """Print one line for each."""
    torch.set_num_threads(1)
    num_envs = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    num_workers = int(sys.argv[2]) if len(sys.argv) > 2 else None
    pools = {
        "pool": PoolVec(nethack, num_envs=num_envs, num_workers=num_workers),
        "pool, lent": PoolVec(Lent, num_envs=num_envs, num_workers=num_workers),
    }
    peer = AsyncVectorEnv([nethack] * num_envs)
    count = int(pools["pool"].act_space.n)
    actions = [*torch.randint(0, count, (16, num_envs), generator=generator(0, "pools"))]
    arrays = [action.numpy() for action in actions]
    peer.reset(seed=0)
    for pool in pools.values():
        pool.reset(0)
    turns = []
    for _ in range(TURNS):
        turn = {name: speed(pool.step, actions) for name, pool in pools.items()}
        turns.append(turn | {PEER: speed(peer.step, arrays)})
    for name in turns[0]:
        ratio = median(turn[name] / turn[PEER] for turn in turns)
        print(
            f"{name}, {num_envs} environments: "
            f"{median(turn[name] for turn in turns):,.0f} steps/s, {ratio:.2f}"
        )
    for pool in pools.values():
        pool.close()
    peer.close()


if __name__ == "__main__":
    main()
