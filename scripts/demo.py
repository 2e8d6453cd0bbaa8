"""The first minute with firstlight: a sparse task from nothing to solved, plain PPO beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TASK = "MiniGrid-DoorKey-8x8-v0"


def train(name: str, seed: int, *overrides: str) -> Path:
    """Run the command a user would type, and show it. Returns the run directory."""
    run_dir = Path("runs/demo") / f"{name}-s{seed}"
    if run_dir.exists():
        shutil.rmtree(run_dir)  # the demo's own, made anew
    arguments = ["experiment=demo", *overrides, f"seed={seed}", f"run_dir={run_dir}"]
    print(f"\n$ firstlight-train {' '.join(arguments)}\n", flush=True)
    subprocess.run([sys.executable, "-P", "-m", "firstlight.scripts.train", *arguments], check=True)
    return run_dir


def main() -> None:
    """Train both, evaluate both on 100 unseen levels, print a table."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with_bonus = train("count", seed)
    alone = train("ppo", seed, "mixer.terms.count.weight=0", "learner.entropy_coef=0.02")

    from rich.console import Console
    from rich.table import Table

    from firstlight.agents import evaluate, load, record
    from firstlight.envs import minigrid
    from firstlight.envs.seeding import derive

    table = Table(title=f"{TASK}, 100 unseen levels, sampled actions, seed {seed}")
    for column in ("agent", "environment steps", "mean return", "solved"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for name, run_dir in (("PPO + count bonus", with_bonus), ("PPO alone", alone)):
        agent = load(run_dir, which="newest")
        vec = minigrid.make(TASK, num_envs=25)
        result = evaluate(agent.policy, vec, episodes=100, seed=derive(seed, "demo"))
        vec.close()
        solved = f"{result.success_rate:.0%}"
        table.add_row(name, f"{agent.step:,}", f"{result.return_mean:.3f}", solved)
    picture = with_bonus / "videos" / "demo.gif"
    vec = minigrid.make(TASK, num_envs=1)
    record(load(with_bonus, which="newest").policy, vec, picture, seed=derive(seed, "demo"))
    vec.close()
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"an episode: {picture}")
    console.print("curves:     make tensorboard, then open http://127.0.0.1:6006")


if __name__ == "__main__":
    main()
