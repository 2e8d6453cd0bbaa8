"""Evaluate: ``firstlight-evaluate run=runs/NAME episodes=100 [video=true [rewards=true]]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import BadInputError, command

if TYPE_CHECKING:
    from firstlight.agents.policy import Policy
    from firstlight.intrinsic.base import IntrinsicModule
    from firstlight.intrinsic.mixer import RewardMixer


def read_config(run: Path, allow: tuple[str, ...]) -> DictConfig:
    """The config of a run; as data it may name only firstlight's own and what is allowed."""
    from firstlight.scripts.build import check_targets

    if not (run / "config.yaml").is_file():
        raise BadInputError(f"run={run} is no run directory: it holds no config.yaml")
    config = OmegaConf.load(run / "config.yaml")
    if not isinstance(config, DictConfig) or not {"env", "intrinsic"} <= config.keys():
        raise BadInputError(f"{run / 'config.yaml'} is not the config of a run")
    plain: Any = OmegaConf.to_container(config)
    check_targets(plain, ("firstlight", *allow))
    check_targets(plain["env"], ("firstlight.envs", *allow))
    check_targets(plain["intrinsic"], ("firstlight.intrinsic", *allow))
    check_targets(plain.get("mixer"), ("firstlight.intrinsic", *allow))
    return config


def film(cfg: DictConfig, config: DictConfig, policy: Policy, step: int, seed: int) -> Path:
    """Write a GIF of an episode, with ``rewards=true`` one that shows every reward.

    Args:
        cfg: of the command.
        config: of the run.
        policy: from the checkpoint.
        step: at which that was written.
        seed: of the episode.
    """
    from firstlight.agents.diagnostics.reward_video import record_rewards
    from firstlight.agents.evaluation import record
    from firstlight.scripts.build import make_mixer, make_modules, make_vec

    folder = Path(cfg.run) / "videos"
    vec = make_vec(config.env, num_envs=1)
    try:
        modules, vec = make_modules(config.intrinsic, vec, config.get("seed", cfg.seed))
        options: dict[str, Any] = {"seed": seed, "deterministic": cfg.deterministic}
        if not cfg.rewards:
            record(policy, vec, folder / f"step_{step}.gif", **options)
            return folder / f"step_{step}.gif"
        left_out = [str(name) for name in config.intrinsic if name not in modules]
        mixer = make_mixer(config.mixer, modules, left_out)
        restore(Path(cfg.run), cfg.which, modules, mixer)
        options["progress"] = min(step / config.total_steps, 1.0)
        target = folder / f"step_{step}_rewards.gif"
        record_rewards(policy, vec, modules, mixer, target, **options)
        return target
    except (RuntimeError, NotImplementedError) as error:
        raise BadInputError(f"video=true: {error}") from error
    finally:
        vec.close()


def restore(
    run: Path, which: str, modules: Mapping[str, IntrinsicModule], mixer: RewardMixer
) -> None:
    """Give modules and mixer what they knew when the policy of the run was saved."""
    from firstlight.agents.session import checkpoint

    folder = run / "checkpoints"
    path = checkpoint.best(folder) if which == "best" else None
    path = path or checkpoint.newest(folder)
    if path is None:
        raise BadInputError(f"{run} has no whole checkpoint")
    state = checkpoint.load(path)
    try:
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        mixer.load_state_dict(state["mixer"])
    except (KeyError, RuntimeError) as error:
        raise BadInputError(f"{path} does not fit the run's config: {error}") from error


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """The command: prints one JSON object as its last line."""
    from firstlight.agents.agent import load
    from firstlight.agents.evaluation import evaluate
    from firstlight.agents.session.files import to_json
    from firstlight.envs.seeding import derive
    from firstlight.scripts.build import make_modules, make_vec

    if OmegaConf.is_missing(cfg, "run"):
        raise BadInputError("give run=..., the directory of a run")
    for key in ("episodes", "num_envs"):
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            raise BadInputError(f"{key}={cfg[key]}: it is a whole number, at least 1")
    if cfg.rewards and not cfg.video:
        raise BadInputError("rewards=true draws rewards beneath a video: give video=true as well")
    run = Path(cfg.run)
    allow = (cfg.allow,) if isinstance(cfg.allow, str) else tuple(cfg.allow)
    config = read_config(run, allow)
    try:
        agent = load(run, which=cfg.which, allow=allow)
    except (ValueError, FileNotFoundError) as error:
        raise BadInputError(str(error)) from error
    seed = derive(cfg.seed, "evaluate")
    if cfg.video:
        print(f"wrote {film(cfg, config, agent.policy, agent.step, seed)}")
    vec = make_vec(config.env, num_envs=min(cfg.num_envs, cfg.episodes))
    vec = make_modules(config.intrinsic, vec, cfg.seed)[1]
    result = evaluate(
        agent.policy, vec, episodes=cfg.episodes, seed=seed, deterministic=cfg.deterministic
    )
    vec.close()
    print(
        to_json(
            {
                "return_mean": result.return_mean,
                "return_std": result.return_std,
                "success_rate": result.success_rate,
                "episodes": result.episodes,
                "length_mean": result.length_mean,
                **result.reported,
                "env": config.env.get("task") or config.env.get("id") or config.env["_target_"],
                "step": agent.step,
                "seed": cfg.seed,
            }
        )
    )


if __name__ == "__main__":
    main()
