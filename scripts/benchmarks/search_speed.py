"""Measure evaluations per second in the hard maze, against a loop of ribs around Gymnasium."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium
import numpy as np

from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.evaluators.worlds import MazeEvaluator, usable_cores
from firstlight.envs import HardMaze
from firstlight.scripts.benchmarks.results import append, commit, hardware

STEPS, GENOMES, PEER_ENVS, PEER_STEPS = 2000, 200, 8, 100


def ours(seed: int) -> tuple[float, float]:
    """Evaluations of 2,000 steps per second of wall clock and of processor time."""
    maze = HardMaze(1, max_steps=STEPS)
    policy = GenomePolicy(maze.obs_space, maze.act_space)
    evaluator = MazeEvaluator(maze, policy)
    genomes = np.random.default_rng(seed).normal(size=(GENOMES, policy.genome_size))
    evaluator.evaluate(genomes[:1])  # compiles
    began, used = time.perf_counter(), time.process_time()
    evaluator.evaluate(genomes)
    return GENOMES / (time.perf_counter() - began), GENOMES / (time.process_time() - used)


def peer(seed: int) -> tuple[float, float]:
    """Measure the same for ribs' `Scheduler`, Gymnasium's vector environment and numpy networks.

    Episodes are shorter, so that a round ends; the result is in episodes of 2,000 steps.
    """
    from ribs.archives import GridArchive
    from ribs.emitters import GaussianEmitter
    from ribs.schedulers import Scheduler

    ids = [lambda: gymnasium.make("firstlight/HardMaze-v0", max_steps=PEER_STEPS)] * PEER_ENVS
    envs = gymnasium.vector.SyncVectorEnv(ids)
    archive = GridArchive(solution_dim=63, dims=(50, 50), ranges=[(0, 600)] * 2, seed=seed)
    emitter = GaussianEmitter(archive, sigma=0.05, x0=np.zeros(63), batch_size=PEER_ENVS, seed=seed)
    scheduler = Scheduler(archive, [emitter])
    began, used, rounds = time.perf_counter(), time.process_time(), 2
    for _ in range(rounds):
        genomes = scheduler.ask()
        obs: Any = envs.reset(seed=seed)[0]
        info: dict[str, Any] = {}
        total = np.zeros(PEER_ENVS)
        for _ in range(PEER_STEPS):
            obs, reward, _, _, info = envs.step(_act(genomes, obs["sensors"]))
            total += reward
        scheduler.tell(total, info["position"])
    share = rounds * PEER_ENVS * PEER_STEPS / STEPS
    envs.close()
    return share / (time.perf_counter() - began), share / (time.process_time() - used)


def _act(genomes: np.ndarray, sensors: np.ndarray) -> np.ndarray:
    """Actions [N, 2] of networks with two layers of five neurons."""
    values, at = sensors.astype(np.float64), 0
    for inputs, outputs in ((5, 5), (5, 5), (5, 2)):
        weights = genomes[:, at : at + inputs * outputs].reshape(-1, inputs, outputs)
        bias = genomes[:, at + inputs * outputs, None]
        values = np.tanh((np.einsum("ni,nio->no", values, weights) + bias) / 2)
        at += inputs * outputs + 1
    return values.astype(np.float32)


def measure(*, rounds: int) -> None:
    """Measure both in turn, and append a line to the results."""
    pairs = []
    for i in range(rounds):
        pairs.append((ours(i), peer(i)))
        (mine, mine_cpu), (other, other_cpu) = pairs[-1]
        print(
            f"evaluations/s: ours {mine:.1f} ({mine_cpu:.1f} per processor second), "
            f"ribs and Gymnasium {other:.2f} ({other_cpu:.2f})",
            flush=True,
        )
    line = {
        "row": "maze/hard",
        "evaluations_per_second": [round(mine[0], 1) for mine, _ in pairs],
        "per_processor_second": [round(mine[1], 1) for mine, _ in pairs],
        "ribs_and_gymnasium": [round(other[0], 3) for _, other in pairs],
        "ribs_and_gymnasium_per_processor_second": [round(other[1], 3) for _, other in pairs],
        "threads": usable_cores(),
        "load_average": round(os.getloadavg()[0], 1),
        "command": f"firstlight-bench search rounds={rounds}",
    }
    append("search_speed", {**line, "commit": commit(), "hardware": hardware()})
