"""Check the reward sources of a run: ``firstlight-train … doctor=true``.

It trains for about a minute and prints what is wrong. It writes no run directory and no checkpoint.
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from firstlight.scripts.errors import print_line
from firstlight.scripts.unsaved_trainer import unsaved_trainer


def doctor(cfg: DictConfig) -> int:
    """Train for a short while, diagnose every reward source, and print a table.

    Args:
        cfg: config of a training run, its options checked.

    Returns:
        The number of defects found.
    """
    from firstlight.agents.diagnostics.run_diagnostics import run_diagnostics
    from firstlight.scripts.report.doctor_table import report

    with unsaved_trainer(cfg, "doctor") as trainer:
        names = ", ".join(trainer.modules) or "no module"
        print_line(f"doctor: trying {names}, for about {cfg.doctor_seconds:g} seconds")
        seen = run_diagnostics(trainer, total_steps=cfg.total_steps, seconds=cfg.doctor_seconds)
    for line in report(seen):
        print_line(line, sys.stdout)
    return len(seen.findings)
