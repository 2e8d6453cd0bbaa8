"""Measure NetHack steps per second: `PoolVec` against Gymnasium's `AsyncVectorEnv`."""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv

from firstlight.envs.nethack.nethack_env import NetHackEnv
from firstlight.envs.seeding import generator
from firstlight.envs.vector.pool import PoolVec
from firstlight.scripts.benchmarks.results import append, commit, hardware

TASK, KEYS = "NetHackScore-v0", ("glyphs", "blstats", "message")
SIZES = (4, 8, 16, 32, 64)
SECONDS = 2.0  # of a turn
ACTIONS = 23
ABOUT = {
    "pool": "`PoolVec`, with our side channels and the records for resuming",
    "pool, whoever is ready": "the same, half of the environments received at a time",
    "workers alone": "the same environments in as many processes, without synchronisation",
    "AsyncVectorEnv": "Gymnasium's, with NLE's own environment and shared memory",
    "AsyncVectorEnv, our environment": "Gymnasium's, with the environment that the pool steps",
}
Stepper = Callable[[np.ndarray], int]
"""Steps environments with actions [16, N] int64; returns the number of steps."""


def make_nle() -> gymnasium.Env:
    """Make NLE's own environment."""
    return gymnasium.make(f"nle:{TASK}", observation_keys=KEYS, save_ttyrec_every=0)


make_ours = functools.partial(NetHackEnv, TASK, keys=KEYS)


def lockstep(step: Callable[[Any], Any], convert: Callable[[np.ndarray], Any]) -> Stepper:
    """Stepper that steps all environments together."""

    def take(actions: np.ndarray) -> int:
        for row in actions:
            step(convert(row))
        return actions.size

    return take


def as_ready(pool: PoolVec) -> Stepper:
    """Stepper that sends the next action to each half of the environments as it answers."""
    all_ids, half = torch.arange(pool.num_envs), max(1, pool.num_envs // 2)

    def take(actions: np.ndarray) -> int:
        rows = torch.from_numpy(actions)
        pool.send_to(all_ids, rows[0])
        taken, total = pool.num_envs, actions.size
        while taken < total:
            ids, _ = pool.recv_ready(half)
            pool.send_to(ids, rows[taken // pool.num_envs, ids])
            taken += len(ids)
        pool.recv_ready(len(all_ids))
        return taken

    return take


def step_alone(rates: Any, start: Any, num_envs: int, seed: int) -> None:
    """Step some environments one after the other, and put the steps per second into `rates`."""
    envs, draws, steps = [make_ours() for _ in range(num_envs)], np.random.default_rng(seed), 0
    for i, env in enumerate(envs):
        env.reset(seed=seed + i)
    start.wait()
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for env in envs:
            *_, terminated, truncated, _ = env.step(int(draws.integers(ACTIONS)))
            if terminated or truncated:
                env.reset()
        steps += num_envs
    rates.put(steps / (time.perf_counter() - began))


def workers_alone(num_envs: int, num_workers: int) -> float:
    """Steps per second of processes that do not wait for each other."""
    context = multiprocessing.get_context("forkserver")
    rates, start = context.Queue(), context.Barrier(num_workers)
    shares = [len(share) for share in np.array_split(np.arange(num_envs), num_workers)]
    processes = [
        context.Process(target=step_alone, args=(rates, start, share, 1000 * w))
        for w, share in enumerate(shares)
    ]
    for process in processes:
        process.start()
    total = sum(rates.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return total


def speed(take: Stepper, num_envs: int, seed: int) -> float:
    """Environment steps per second over a turn of random actions."""
    draws, steps, began = generator(seed, "pools"), 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        steps += take(torch.randint(0, ACTIONS, (16, num_envs), generator=draws).numpy())
    return steps / (time.perf_counter() - began)


def one_round(num_envs: int, seed: int) -> dict[str, float]:
    """Measure every row once, with one number of environments."""
    rates = {}
    with ExitStack() as stack:
        pool = PoolVec(make_ours, num_envs=num_envs)
        stack.callback(pool.close)
        pool.reset(seed)
        rates["pool"] = speed(lockstep(pool.step, torch.from_numpy), num_envs, seed)
        rates["pool, whoever is ready"] = speed(as_ready(pool), num_envs, seed)
    rates["workers alone"] = workers_alone(num_envs, min(num_envs, os.cpu_count() or 1))
    peers: dict[str, Callable[[], gymnasium.Env]] = {
        "AsyncVectorEnv": make_nle,
        "AsyncVectorEnv, our environment": make_ours,
    }
    for name, make in peers.items():
        with ExitStack() as stack:
            peer = AsyncVectorEnv([make] * num_envs)
            stack.callback(peer.close)
            peer.reset(seed=seed)
            rates[name] = speed(lockstep(peer.step, np.asarray), num_envs, seed)
    return rates


def measure(*, rounds: int) -> None:
    """Alternate all rows in each round, and append a line for each to the results."""
    torch.set_num_threads(1)
    found: dict[tuple[str, int], list[float]] = {}
    for i in range(rounds):
        for num_envs in SIZES:
            for name, rate in one_round(num_envs, i).items():
                found.setdefault((name, num_envs), []).append(rate)
                print(f"{name:32s} {num_envs:4d} {rate:9,.0f} steps/s", flush=True)
    for (name, num_envs), rates in found.items():
        line = {"row": name, "num_envs": num_envs, "about": ABOUT[name], "steps_per_second": rates}
        command = f"firstlight-bench pools rounds={rounds}"
        append("pools", {**line, "command": command, "commit": commit(), "hardware": hardware()})
    medians = {key: statistics.median(rates) for key, rates in found.items()}
    best = {name: max(m for (n, _), m in medians.items() if n == name) for name in ABOUT}
    for peer in ("AsyncVectorEnv", "AsyncVectorEnv, our environment"):
        equal = [medians["pool", n] / medians[peer, n] for n in SIZES]
        print(f"pool against {peer}: best against best {best['pool'] / best[peer]:.2f}", end="; ")
        print("at equal numbers", ", ".join(f"{ratio:.2f}" for ratio in equal))
