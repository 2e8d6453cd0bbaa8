"""Train an agent: ``firstlight-train env=minigrid/doorkey_8x8 intrinsic=[count] seed=0``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight.scripts.doctor import doctor
from firstlight.scripts.dry_run import dry_run
from firstlight.scripts.errors import FAILED, BadInputError, print_line
from firstlight.scripts.hydra_command import command
from firstlight.scripts.run_options import (
    check_options,
    check_run_dir,
    check_same_run,
    command_line,
    commented,
    is_finished,
    keep_saved_options,
    run_name,
)

if TYPE_CHECKING:
    from firstlight.agents.search.search_trainer import SearchTrainer
    from firstlight.agents.session.run_session import RunSession
    from firstlight.agents.trainer import Trainer
    from firstlight.envs.vec import VecEnv


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> Any:
    """Build a trainer, run it, and write everything into ``cfg.run_dir``.

    Under torchrun every process calls it, with environments of its own; rank 0 alone writes,
    evaluates and prints.

    Args:
        cfg: the composed config.
        overrides: the command's overrides, for the comparison with a run that is resumed.

    Returns:
        The `Evaluation` at the end; None in processes other than rank 0.
    """
    from firstlight.agents.search.search_trainer import EvaluateBest, SearchTrainer
    from firstlight.agents.session.callbacks import Evaluate, StopAt
    from firstlight.agents.session.progress import Progress
    from firstlight.agents.session.run_directory.files import write_text
    from firstlight.agents.session.summary import summary
    from firstlight.envs.seeding import derive, seed_process
    from firstlight.networks import collective
    from firstlight.scripts.build import pick_device
    from firstlight.scripts.build_env import (
        make_training_vec,
        make_vec,
        needed_options,
        with_reset_points,
    )
    from firstlight.scripts.build_search import check_search, is_search
    from firstlight.scripts.freed_memory import keep_freed_memory
    from firstlight.scripts.threads import set_threads
    from firstlight.scripts.torch_compiler import skip_compiler_import

    check_options(cfg)
    if search := is_search(cfg):
        check_search(cfg)
    with ExitStack() as cleanup:  # closes the environments whatever happens
        cleanup.enter_context(collective.joined(cuda=pick_device(cfg.device) == "cuda"))
        rank = collective.rank()
        if rank == 0:
            keep_saved_options(cfg, overrides)
            check_run_dir(cfg, overrides)
        cfg = config_of_rank_0(cfg)
        set_threads(cfg)
        keep_freed_memory()
        skip_compiler_import()
        # environments and networks of users may need it
        seed_process(derive(cfg.seed, "process", *([rank] if rank else [])))
        needed = needed_options(cfg)
        if needed.get("level") and rank == 0:
            print_line("firstlight: a reward source reads whole levels: env.backend=native")
        vec = make_training_vec(cfg, **needed)
        cleanup.callback(vec.close)
        vec = with_reset_points(cfg, vec)
        if rank > 0:
            make_trainer(cfg, vec).run(cfg.total_steps)
            return None
        heat_maps = make_heat_maps(cfg, vec)
        num_envs = min(vec.num_envs, cfg.eval_episodes, 32)
        eval_vec = make_vec(cfg.env, num_envs=num_envs, **needed)
        cleanup.callback(eval_vec.close)
        trainer = make_trainer(cfg, vec)
        if isinstance(trainer, SearchTrainer):
            cleanup.callback(trainer.evaluator.close)
        add_trackers(cfg, trainer.session)
        for module in trainer.modules.values():
            eval_vec = module.wrap(eval_vec)
        if trainer.vec.text_table is not None:
            eval_vec.share_texts(trainer.vec.text_table)  # a run has one table of texts
        about = trainer.summary() if isinstance(trainer, SearchTrainer) else summary(trainer)
        print_line(f"firstlight: {about}")
        text = commented(command_line(overrides)) + OmegaConf.to_yaml(cfg, resolve=True)
        write_text(Path(cfg.run_dir) / "config.yaml", text)
        evaluate = (EvaluateBest if search else Evaluate)(
            eval_vec,
            every=cfg.eval_every or cfg.total_steps,
            episodes=cfg.eval_episodes,
            seed=derive(cfg.seed, "evaluation"),
            max_steps=cfg.eval_max_steps,
        )
        progress = Progress(cfg.total_steps)
        cleanup.callback(progress.close)
        callbacks: list[Any] = [] if cfg.stop_at is None else [StopAt(cfg.stop_at)]
        trainer.run(cfg.total_steps, [*callbacks, evaluate, *heat_maps, progress])
    print_line(
        f"finished at {trainer.session.steps:,} steps; everything is in {cfg.run_dir}", sys.stdout
    )
    return evaluate.last


def make_trainer(cfg: DictConfig, vec: VecEnv) -> Trainer | SearchTrainer:
    """Build the trainer of a learner, or of a search."""
    from firstlight.scripts.build import build
    from firstlight.scripts.build_search import build_search, is_search

    return build_search(cfg, vec) if is_search(cfg) else build(cfg, vec)


def config_of_rank_0(cfg: DictConfig) -> DictConfig:
    """Return the config of rank 0, which may hold options of the run that it resumes."""
    from firstlight.networks import collective

    if collective.size() == 1:
        return cfg
    text = OmegaConf.to_yaml(cfg, resolve=True).encode()
    shared = OmegaConf.create(collective.broadcast_bytes(text).decode())
    assert isinstance(shared, DictConfig)
    return shared


def add_trackers(cfg: DictConfig, session: RunSession) -> None:
    """Make the trackers that ``tracker=`` chose, and let the run log to them."""
    from firstlight.scripts.instantiate import instantiate, to_dict

    options = to_dict(cfg)
    for name, node in cfg.tracker.items():
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise BadInputError(
                f"tracker.{name} has options but was not chosen: give tracker={name}"
            )
        assert session.directory is not None
        session.directory.track(instantiate(node, options=options))


def make_heat_maps(cfg: DictConfig, vec: VecEnv) -> list[Any]:
    """Make the callback that draws rewards by position, or coverage, if ``heat_maps=true``."""
    from firstlight.agents.diagnostics.pictures import HeatMaps
    from firstlight.agents.search.pictures import CoverageMaps
    from firstlight.scripts.build_search import is_search

    if not cfg.heat_maps:
        return []
    if is_search(cfg):
        return [CoverageMaps(every_seconds=cfg.heat_map_seconds)]
    try:
        return [HeatMaps(vec, channel=cfg.heat_map_channel, every_seconds=cfg.heat_map_seconds)]
    except ValueError as error:
        raise BadInputError(f"heat_maps=true: {error}") from error


@command("train")
def main(cfg: DictConfig) -> None:
    """Train; ``doctor=true`` checks the reward sources, ``dry_run=true`` shows what is sent."""
    from firstlight.networks.collective import is_launched

    hydra = HydraConfig.get()
    overrides, sweep = hydra.overrides.task, hydra.mode == RunMode.MULTIRUN
    if is_launched() and (sweep or cfg.doctor or cfg.dry_run):
        word = "-m" if sweep else "doctor=true" if cfg.doctor else "dry_run=true"
        raise BadInputError(f"{word} under torchrun, which starts one training run: leave one out")
    if cfg.doctor:
        from firstlight.scripts.build_search import check_search, is_search

        check_options(cfg)
        if is_search(cfg):
            check_search(cfg)
        if doctor(cfg):
            sys.exit(FAILED)
        return
    if cfg.dry_run:
        check_options(cfg)
        dry_run(cfg)
        return
    with open_dict(cfg):
        name = run_name(cfg, hydra.runtime.choices, overrides, sweep=sweep)
        cfg.run_dir = cfg.run_dir or f"runs/{name}"
    if sweep and is_finished(cfg):
        keep_saved_options(cfg, overrides)
        check_same_run(cfg, overrides)
        print(f"{cfg.run_dir} is finished already; skipped")
        return
    train(cfg, overrides)


if __name__ == "__main__":
    main()
