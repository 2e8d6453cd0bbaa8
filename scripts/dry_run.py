"""Show what a run would send to language models: ``firstlight-train … dry_run=true``.

Nothing is sent, trained or written.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import print_line


def dry_run(cfg: DictConfig) -> None:
    """Step the environments with random actions, and print each module's preview.

    Args:
        cfg: config of a training run, its options checked.
    """
    from firstlight.agents.session.summary import summary
    from firstlight.envs.runner import RandomActor, Runner
    from firstlight.envs.seeding import derive, seed_process
    from firstlight.scripts.build import build, make_vec, needed_options
    from firstlight.scripts.threads import set_threads

    set_threads(cfg)
    seed_process(derive(cfg.seed, "process"))
    unsaved = {"run_dir": None, "resume": None, "checkpoint": {"every": None, "barrier": False}}
    with ExitStack() as cleanup:
        vec = make_vec(cfg.env, **needed_options(cfg))
        cleanup.callback(vec.close)
        trainer = build(OmegaConf.merge(cfg, unsaved), vec)  # type: ignore[arg-type]
        print_line(f"dry run: {summary(trainer)}")
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
