"""Train on a sparse task with and without a bonus, and compare: ``make demo``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

COMMON = ("env=minigrid/multiroom_n4_s5", "total_steps=400_000", "eval_every=100_000")


def train(name: str, seed: int, *overrides: str) -> Path:
    """Run ``firstlight-train`` in a process of its own, as a user would.

    Args:
        name: of the run directory.
        seed: of the run.
        overrides: of the command line.

    Returns:
        The run directory.
    """
    run_dir = Path("runs/demo") / f"{name}-s{seed}"
    if run_dir.exists():
        shutil.rmtree(run_dir)  # of an earlier demo
    arguments = [*COMMON, *overrides, f"seed={seed}", f"run_dir={run_dir}"]
    print(f"\n$ firstlight-train {' '.join(arguments)}\n", flush=True)
    subprocess.run([sys.executable, "-P", "-m", "firstlight.scripts.train", *arguments], check=True)
    return run_dir


def main() -> None:
    """Train both, evaluate both on 100 unseen levels, print a table."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with_bonus = train("noveld", seed, "intrinsic=[noveld]")
    alone = train("ppo", seed, "intrinsic=[]")

    from firstlight.scripts.report.demo_table import compare

    compare({"PPO + NovelD": with_bonus, "PPO alone": alone}, seed)


if __name__ == "__main__":
    main()
