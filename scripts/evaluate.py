"""Evaluate a run: ``firstlight-evaluate run=runs/NAME episodes=100 [video=true]``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import BadInputError
from firstlight.scripts.hydra_command import command
from firstlight.scripts.saved_run import (
    ProgramRights,
    copy_for_evaluation,
    load_persistent_state,
    load_teachers,
    read_config,
)


def check_options(cfg: DictConfig) -> None:
    """Raise `BadInputError` for an option with an invalid value."""
    if OmegaConf.is_missing(cfg, "run"):
        raise BadInputError("run has no value: give run=..., the directory of a run")
    if not isinstance(cfg.added_fields, bool):
        raise BadInputError(f"added_fields={cfg.added_fields}: expected true or false")
    for key in ("episodes", "num_envs", "max_steps"):
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            raise BadInputError(f"{key}={cfg[key]}: expected a whole number, at least 1")
    if cfg.programs not in (rights := get_args(ProgramRights)):
        raise BadInputError(f"programs={cfg.programs}: expected one of {', '.join(rights)}")
    if cfg.video not in (False, True, "gif", "mp4"):
        raise BadInputError(f"video={cfg.video}: expected true, false, gif or mp4")
    if not isinstance(cfg.copy_to, str | None):
        raise BadInputError(f"copy_to={cfg.copy_to}: expected a folder")
    if cfg.copy_to is not None and Path(cfg.copy_to).exists():
        raise BadInputError(f"copy_to={cfg.copy_to} exists already: give another folder")
    if cfg.rewards and not cfg.video:
        raise BadInputError("rewards=true draws rewards beneath a video: give video=true as well")


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate a checkpoint; prints one JSON object as its last line."""
    from firstlight.agents.agent import load
    from firstlight.agents.evaluation import evaluate
    from firstlight.agents.session.run_directory.files import to_json
    from firstlight.envs.default_fields import DefaultFields
    from firstlight.envs.seeding import derive
    from firstlight.intrinsic import ProgramReward
    from firstlight.scripts.build import make_modules
    from firstlight.scripts.build_env import make_vec, needed_options
    from firstlight.scripts.report.episode_video import record_episode

    check_options(cfg)
    run = Path(cfg.run)
    allow = (cfg.allow,) if isinstance(cfg.allow, str) else tuple(cfg.allow)
    config = read_config(run, allow, cfg.programs)
    try:
        agent = load(run, which=cfg.which, allow=allow)
    except (ValueError, FileNotFoundError) as error:
        raise BadInputError(str(error)) from error
    seed = derive(cfg.seed, "evaluate")
    if cfg.video:
        print(f"wrote {record_episode(cfg, config, agent.policy, agent.step, seed)}")
    num_envs = min(cfg.num_envs, cfg.episodes)
    vec = make_vec(config.env, num_envs=num_envs, **needed_options(config))
    modules, vec = make_modules(config.intrinsic, vec, cfg.seed)
    if any(isinstance(m, ProgramReward) and m.shows_fallbacks for m in modules.values()):
        print(
            "the policy saw features of a reward program in training: their fallback values stand "
            "in their place; programs=sandboxed runs the program"
        )
    load_teachers(run, cfg.which, modules)
    load_persistent_state(run, cfg.which, vec)
    if not cfg.added_fields:
        vec = DefaultFields(vec)
    result = evaluate(
        agent.policy,
        vec,
        episodes=cfg.episodes,
        seed=seed,
        deterministic=cfg.deterministic,
        max_steps=cfg.max_steps,
    )
    vec.close()
    if cfg.copy_to is not None:
        copy_for_evaluation(run, cfg.which, Path(cfg.copy_to))
        print(f"wrote {cfg.copy_to}")
    print(
        to_json(
            {
                "return_mean": result.return_mean,
                "return_std": result.return_std,
                "success_rate": result.success_rate,
                "episodes": result.episodes,
                "length_mean": result.length_mean,
                **({"episodes_cut": result.cut} if result.cut else {}),
                **result.reported,
                "env": config.env.get("task") or config.env.get("id") or config.env["_target_"],
                "step": agent.step,
                "seed": cfg.seed,
            }
        )
    )


if __name__ == "__main__":
    main()
