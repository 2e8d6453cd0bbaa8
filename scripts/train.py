"""Train: ``firstlight-train env=minigrid/doorkey_8x8 intrinsic=[count] seed=0``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight.scripts.doctor import doctor
from firstlight.scripts.errors import FAILED, BadInputError, command, say

if TYPE_CHECKING:
    from firstlight.envs.vec import VecEnv

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
    "heat_maps",
    "heat_map_seconds",
    "heat_map_channel",
    "doctor",
    "doctor_seconds",
)
_RENAMED = {"checkpoint_every": "checkpoint.every"}  # what older versions called it
_NAMED = ("env", "learner", "intrinsic", "mixer", "auxiliary", "seed")
_REQUIRED = (
    *("total_steps", "eval_episodes", "trainer.num_steps"),
    *("heat_map_seconds", "doctor_seconds"),
)
_POSITIVE = (*_REQUIRED, "checkpoint.every", "eval_every", "num_threads", "stall_after")
_SWITCHES = ("heat_maps", "doctor")


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
    if choices.get("auxiliary") not in (None, "null"):
        parts.append(str(choices["auxiliary"]))
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


def differences(cfg: DictConfig, run_dir: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The options in which `cfg` differs from the run that `run_dir` holds, if it holds one.

    An option that the run of an older version did not know is no difference, unless one of the
    command's `overrides` names it.
    """
    path = run_dir / "config.yaml"
    if not path.exists():
        return []
    from firstlight.scripts.build import plain

    before, now = (dict(_leaves(plain(config))) for config in (OmegaConf.load(path), cfg))
    for old, new in _RENAMED.items():
        if old in before:
            before[new] = before.pop(old)
    named = {override.lstrip("+~").partition("=")[0] for override in overrides}
    groups = {key.rpartition(".")[0] for key in before}
    none = object()
    return [
        f"{key}={before.get(key)} is now {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, none) != now.get(key, none)
        and not _free(key, bool(cfg.checkpoint.barrier))
        and (key in before or key in named or key.rpartition(".")[0] not in groups)
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


def check_options(cfg: DictConfig) -> None:
    """Refuse options that cannot be, before anything is made."""
    from firstlight.scripts.build import pick_device

    if OmegaConf.is_missing(cfg.env, "_target_"):
        raise BadInputError(
            "choose an environment, such as env=minigrid/doorkey_8x8 or env=gym env.id=CartPole-v1"
        )
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise BadInputError(f"give {missing[0]}=...")
    for key in _POSITIVE:
        value = OmegaConf.select(cfg, key)
        if (value is not None or key in _REQUIRED) and not _is_number(value, 1):
            raise BadInputError(f"{key}={value}: it is a number, at least 1")
    if cfg.stop_at is not None and not _is_number(cfg.stop_at):
        raise BadInputError(f"stop_at={cfg.stop_at}: it is a number, or left out")
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise BadInputError(f"seed={cfg.seed}: it is a whole number, at least 0")
    for key in _SWITCHES:
        if not isinstance(cfg[key], bool):
            raise BadInputError(f"{key}={cfg[key]}: it is true or false")
    if cfg.resume not in (None, "auto"):
        raise BadInputError(f"resume={cfg.resume}: it is auto, or left out")
    pick_device(cfg.device)


def check(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Refuse a config that cannot be run in its directory, before anything is made."""
    from firstlight.agents.session.run_dir import RunDirectory

    check_options(cfg)
    if cfg.resume == "auto" and (changed := differences(cfg, Path(cfg.run_dir), overrides)):
        raise BadInputError(f"{cfg.run_dir} holds another run: {', '.join(changed)}")
    if cfg.resume != "auto" and RunDirectory.in_use(Path(cfg.run_dir)):
        raise BadInputError(
            f"{cfg.run_dir} already holds a run: give another run_dir, or go on by resume=auto"
        )


def _is_number(value: Any, least: float | None = None) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and (least is None or value >= least)


def heat_maps(cfg: DictConfig, vec: VecEnv) -> list[Any]:
    """The callback that draws rewards by position, if it is wanted."""
    from firstlight.agents.diagnostics.pictures import HeatMaps

    if not cfg.heat_maps:
        return []
    try:
        return [HeatMaps(vec, channel=cfg.heat_map_channel, every_seconds=cfg.heat_map_seconds)]
    except ValueError as error:
        raise BadInputError(f"heat_maps=true: {error}") from error


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> Any:
    """Build and run; everything is left in ``cfg.run_dir``. Returns the evaluation at the end."""
    import torch

    from firstlight.agents.session.callbacks import Evaluate, StopAt
    from firstlight.agents.session.files import write_text
    from firstlight.agents.session.progress import Progress
    from firstlight.envs.seeding import derive
    from firstlight.scripts.build import build, make_vec

    check(cfg, overrides)
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    with ExitStack() as ends:  # from the first environment on, whatever happens
        vec = make_vec(cfg.env)
        ends.callback(vec.close)
        maps = heat_maps(cfg, vec)
        eval_vec = make_vec(cfg.env, num_envs=min(vec.num_envs, cfg.eval_episodes, 32))
        ends.callback(eval_vec.close)
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
        ends.callback(progress.close)
        callbacks: list[Any] = [] if cfg.stop_at is None else [StopAt(cfg.stop_at)]
        run.run(cfg.total_steps, [*callbacks, evaluate, *maps, progress])
    say(f"finished at {run.session.steps:,} steps; everything is in {cfg.run_dir}", sys.stdout)
    return evaluate.last


@command("train")
def main(cfg: DictConfig) -> None:
    """The command."""
    from firstlight.agents.session.status import read_status

    if cfg.doctor:
        check_options(cfg)
        if doctor(cfg):
            sys.exit(FAILED)
        return
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    with open_dict(cfg):
        name = run_name(cfg, hydra.runtime.choices, hydra.overrides.task, sweep=sweep)
        cfg.run_dir = cfg.run_dir or f"runs/{name}"
    status = read_status(cfg.run_dir)
    over = status is not None and status.status == "finished"
    if over and status is not None and cfg.resume == "auto" and cfg.stop_at is None:
        over = status.step >= cfg.total_steps  # else more steps are wanted
    if sweep and over:
        if changed := differences(cfg, Path(cfg.run_dir), hydra.overrides.task):
            raise BadInputError(f"{cfg.run_dir} holds another run: {', '.join(changed)}")
        print(f"{cfg.run_dir} is finished already; skipped")
        return
    train(cfg, hydra.overrides.task)


if __name__ == "__main__":
    main()
