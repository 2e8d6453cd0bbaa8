"""Evaluate: ``firstlight-evaluate run=runs/NAME episodes=100 [video=true]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import BadInputError, command

if TYPE_CHECKING:
    from firstlight.envs.vec import VecEnv


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
    return config


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """The command: prints one JSON object as its last line."""
    from firstlight.agents.agent import load
    from firstlight.agents.evaluation import evaluate, record
    from firstlight.agents.files import to_json
    from firstlight.envs.seeding import derive
    from firstlight.scripts.build import make_modules, make_vec

    if OmegaConf.is_missing(cfg, "run"):
        raise BadInputError("give run=..., the directory of a run")
    for key in ("episodes", "num_envs"):
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            raise BadInputError(f"{key}={cfg[key]}: it is a whole number, at least 1")
    run = Path(cfg.run)
    allow = (cfg.allow,) if isinstance(cfg.allow, str) else tuple(cfg.allow)
    config = read_config(run, allow)
    try:
        agent = load(run, which=cfg.which, allow=allow)
    except (ValueError, FileNotFoundError) as error:
        raise BadInputError(str(error)) from error
    seed = derive(cfg.seed, "evaluate")

    def environments(num_envs: int) -> VecEnv:
        vec = make_vec(config.env, num_envs=num_envs)
        return make_modules(config.intrinsic, vec, cfg.seed)[1]

    if cfg.video:
        vec = environments(1)
        target = run / "videos" / f"step_{agent.step}.gif"
        try:
            record(agent.policy, vec, target, seed=seed, deterministic=cfg.deterministic)
        except (RuntimeError, NotImplementedError) as error:
            raise BadInputError(f"video=true: {error}") from error
        vec.close()
        print(f"wrote {target}")
    vec = environments(min(cfg.num_envs, cfg.episodes))
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
                "env": config.env.get("task") or config.env.get("id") or config.env["_target_"],
                "step": agent.step,
                "seed": cfg.seed,
            }
        )
    )


if __name__ == "__main__":
    main()
