"""Evaluate the runs of the demo, print a table and record an episode."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from firstlight.agents import evaluate, load, record
from firstlight.envs import minigrid
from firstlight.envs.seeding import derive

TASK = "MiniGrid-MultiRoom-N4-S5-v1"


def compare(runs: Mapping[str, Path], seed: int) -> None:
    """Evaluate runs on 100 unseen levels, print a table, and record an episode of the first.

    Args:
        runs: name in the table to run directory.
        seed: of the runs; the levels follow from it.
    """
    table = Table(title=f"{TASK}, 100 unseen levels, sampled actions, seed {seed}")
    for column in ("agent", "environment steps", "mean return", "solved"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    agents = {name: load(run_dir, which="newest") for name, run_dir in runs.items()}
    for name, agent in agents.items():
        vec = minigrid.make(TASK, num_envs=25)
        result = evaluate(agent.policy, vec, episodes=100, seed=derive(seed, "demo"))
        vec.close()
        solved = f"{result.success_rate:.0%}"
        table.add_row(name, f"{agent.step:,}", f"{result.return_mean:.3f}", solved)
    first = next(iter(runs))
    picture = runs[first] / "videos" / "demo.gif"
    vec = minigrid.make(TASK, num_envs=1)
    record(agents[first].policy, vec, picture, seed=derive(seed, "demo"))
    vec.close()
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"an episode: {picture}")
    console.print("curves:     make tensorboard, then open http://127.0.0.1:6006")
