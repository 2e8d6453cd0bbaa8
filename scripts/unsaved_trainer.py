"""Build a trainer that writes nothing, for commands that only look at a run's config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import print_line

if TYPE_CHECKING:
    from firstlight.agents import Trainer


@contextmanager
def unsaved_trainer(cfg: DictConfig, title: str) -> Iterator[Trainer]:
    """Build the trainer of a config without a run directory; close its environments at the end.

    Args:
        cfg: config of a training run, its options checked.
        title: stands before the summary that is printed.
    """
    from firstlight.agents.session.summary import summary
    from firstlight.envs.seeding import derive, seed_process
    from firstlight.scripts.build import build
    from firstlight.scripts.build_env import make_vec, needed_options
    from firstlight.scripts.threads import set_threads

    set_threads(cfg)
    seed_process(derive(cfg.seed, "process"))
    unsaved = {"run_dir": None, "resume": None, "checkpoint": {"every": None, "barrier": False}}
    with closing(make_vec(cfg.env, **needed_options(cfg))) as vec:
        trainer = build(OmegaConf.merge(cfg, unsaved), vec)  # type: ignore[arg-type]
        print_line(f"{title}: {summary(trainer)}")
        yield trainer
