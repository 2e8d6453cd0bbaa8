"""Show what a run would send to language models: ``firstlight-train … dry_run=true``.

Nothing is sent, trained or written.
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from firstlight.scripts.errors import print_line
from firstlight.scripts.unsaved_trainer import unsaved_trainer


def dry_run(cfg: DictConfig) -> None:
    """Step the environments with random actions, and print each module's preview.

    Args:
        cfg: config of a training run, its options checked.
    """
    from firstlight.envs.runner import RandomActor, Runner
    from firstlight.envs.seeding import derive

    with unsaved_trainer(cfg, "dry run") as trainer:
        runner = Runner(trainer.vec, seed=derive(cfg.seed, "dry run"))
        rollout = runner.collect(RandomActor(trainer.vec.act_space), trainer.num_steps)
        for name, module in trainer.modules.items():
            text = module.preview(rollout.to("cpu"))
            print_line(
                f"dry run: {name} would send:\n{text}"
                if text
                else f"dry run: {name} sends nothing",
                sys.stdout,
            )
