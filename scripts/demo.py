"""Train on a sparse task with and without a count bonus, and compare: ``make demo``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


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
    arguments = ["experiment=demo", *overrides, f"seed={seed}", f"run_dir={run_dir}"]
    print(f"\n$ firstlight-train {' '.join(arguments)}\n", flush=True)
    subprocess.run([sys.executable, "-P", "-m", "firstlight.scripts.train", *arguments], check=True)
    return run_dir


def main() -> None:
    """Train both, evaluate both on 100 unseen levels, print a table."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with_bonus = train("count", seed)
    alone = train("ppo", seed, "mixer.terms.count.weight=0", "learner.entropy_coef=0.02")

    from firstlight.scripts.report.demo_table import compare

    compare({"PPO + count bonus": with_bonus, "PPO alone": alone}, seed)


if __name__ == "__main__":
    main()
