"""Train: ``firstlight-train env=minigrid/doorkey_8x8 intrinsic=[count] seed=0``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight.scripts.errors import BadInputError, command

_FREE = (  # what changes how a run is watched and how long it takes, not what it does
    "total_steps",
    "stop_at",
    "device",
    "num_threads",
    "run_dir",
    "resume",
    "eval_every",
    "eval_episodes",
    "checkpoint.every",
    "stall_after",
)
_NAMED = ("env", "learner", "intrinsic", "mixer", "seed")
_POSITIVE = ("total_steps", "eval_episodes", "checkpoint.every", "trainer.num_steps")


def run_name(
    cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str], *, sweep: bool = False
) -> str:
    """Directory of a run, from what was chosen: the same command always names the same one.

    Environment, learner, reward modules, mixer if it is not the default, and the seed; in a sweep
    whatever else the command line says, since any of it may differ from job to job.
    """
    parts = [str(choices.get(group) or "own") for group in ("env", "learner")]
    parts += [str(name) for name, node in cfg.intrinsic.items() if "_target_" in node]
    if choices.get("mixer") != "heads":
        parts.append(str(choices.get("mixer") or "own"))
    for override in sorted(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if _free(key, barrier=False) or key in _NAMED or key.startswith("hydra"):
            continue
        if key.rpartition(".")[2] in ("_target_", "id", "task"):
            parts.append(value)  # such a value says what it is
        elif sweep:
            parts.append(f"{key}_{value}")
    name = "-".join([*parts, f"s{cfg.seed}"]).replace("/", "-")
    return re.sub(r"[^\w.+-]+", "_", name)


def differences(cfg: DictConfig, run_dir: Path) -> list[str]:
    """The options in which `cfg` differs from the run that `run_dir` holds, if it holds one."""
    path = run_dir / "config.yaml"
    if not path.exists():
        return []
    before, now = (
        dict(_leaves(OmegaConf.to_container(config, resolve=True)))
        for config in (OmegaConf.load(path), cfg)
    )
    return [
        f"{key}={before.get(key)} is now {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _free(key, bool(cfg.checkpoint.barrier))
    ]


def _free(key: str, barrier: bool) -> bool:
    """Whether an option may change when a run goes on; checkpoints that are barriers may not."""
    return key in _FREE and not (barrier and key == "checkpoint.every")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def check(cfg: DictConfig) -> None:
    """Refuse a config that cannot be run, before anything is made."""
    if OmegaConf.is_missing(cfg.env, "_target_"):
        raise BadInputError(
            "choose an environment, such as env=minigrid/doorkey_8x8 or env=gym env.id=CartPole-v1"
        )
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise BadInputError(f"give {missing[0]}=...")
    for key in _POSITIVE:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int | float) or value < 1:
            raise BadInputError(f"{key}={value}: it is a number, at least 1")
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise BadInputError(f"seed={cfg.seed}: it is a whole number, at least 0")
    if cfg.resume not in (None, "auto"):
        raise BadInputError(f"resume={cfg.resume}: it is auto, or left out")
    if cfg.resume == "auto" and (changed := differences(cfg, Path(cfg.run_dir))):
        raise BadInputError(f"{cfg.run_dir} holds another run: {', '.join(changed)}")


def train(cfg: DictConfig) -> Any:
    """Build and run; everything is left in ``cfg.run_dir``. Returns the evaluation at the end."""
    import torch

    from firstlight.agents.callbacks import Evaluate, StopAt
    from firstlight.agents.files import write_text
    from firstlight.agents.progress import Progress
    from firstlight.envs.seeding import derive
    from firstlight.scripts.build import build, make_vec

    check(cfg)
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    vec = make_vec(cfg.env)
    eval_vec = make_vec(cfg.env, num_envs=min(vec.num_envs, cfg.eval_episodes, 32))
    run = build(cfg, vec)
    for module in run.modules.values():
        eval_vec = module.wrap(eval_vec)
    write_text(Path(cfg.run_dir) / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    evaluate = Evaluate(
        eval_vec,
        every=cfg.eval_every or cfg.total_steps,
        episodes=cfg.eval_episodes,
        seed=derive(cfg.seed, "evaluation"),
    )
    progress = Progress(cfg.total_steps)
    callbacks: list[Any] = [] if cfg.stop_at is None else [StopAt(cfg.stop_at)]
    callbacks += [evaluate, progress]
    try:
        run.run(cfg.total_steps, callbacks)
    finally:
        progress.close()
        vec.close()
        eval_vec.close()
    print(f"finished at {run.steps:,} steps; everything is in {cfg.run_dir}")
    return evaluate.last


@command("train")
def main(cfg: DictConfig) -> None:
    """The command."""
    from firstlight.agents.status import read_status

    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    with open_dict(cfg):
        name = run_name(cfg, hydra.runtime.choices, hydra.overrides.task, sweep=sweep)
        cfg.run_dir = cfg.run_dir or f"runs/{name}"
    status = read_status(cfg.run_dir)
    if sweep and status is not None and status.status == "finished":
        if changed := differences(cfg, Path(cfg.run_dir)):
            raise BadInputError(f"{cfg.run_dir} holds another run: {', '.join(changed)}")
        print(f"{cfg.run_dir} is finished already; skipped")
        return
    train(cfg)


if __name__ == "__main__":
    main()
