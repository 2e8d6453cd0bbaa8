"""Check the reward sources of a run: ``firstlight-train … doctor=true``.

It trains for about a minute and prints what is wrong. It writes no run directory and no checkpoint.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import print_line


def doctor(cfg: DictConfig) -> int:
    """Train for a short while, diagnose every reward source, and print a table.

    Args:
        cfg: config of a training run, its options checked.

    Returns:
        The number of defects found.
    """
    from firstlight.agents.diagnostics.run_diagnostics import run_diagnostics
    from firstlight.agents.session.summary import summary
    from firstlight.envs.seeding import derive, seed_process
    from firstlight.scripts.build import build, make_vec, needed_options
    from firstlight.scripts.report.doctor_table import report
    from firstlight.scripts.threads import set_threads

    set_threads(cfg)
    seed_process(derive(cfg.seed, "process"))
    unsaved = {"run_dir": None, "resume": None, "checkpoint": {"every": None, "barrier": False}}
    with ExitStack() as cleanup:
        vec = make_vec(cfg.env, **needed_options(cfg))
        cleanup.callback(vec.close)
        trainer = build(OmegaConf.merge(cfg, unsaved), vec)  # type: ignore[arg-type]
        print_line(f"doctor: {summary(trainer)}")
        names = ", ".join(trainer.modules) or "no module"
        print_line(f"doctor: trying {names}, for about {cfg.doctor_seconds:g} seconds")
        seen = run_diagnostics(trainer, total_steps=cfg.total_steps, seconds=cfg.doctor_seconds)
    for line in report(seen):
        print_line(line, sys.stdout)
    return len(seen.findings)
