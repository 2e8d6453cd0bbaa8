"""Options of a training run: valid values, default run directory, changes on resume."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import BadInputError

MAY_CHANGE = (  # how a run is watched and how long it takes, not what it does
    "total_steps",
    "stop_at",
    "device",
    "num_threads",
    "evaluator.num_threads",
    "search.evaluator",
    "search.workers",
    "search.address",
    "run_dir",
    "resume",
    "eval_every",
    "eval_episodes",
    "eval_max_steps",
    "checkpoint.every",
    "stall_after",
    "heat_maps",
    "heat_map_seconds",
    "heat_map_channel",
    "doctor",
    "doctor_seconds",
    "dry_run",
)
"""Options that may differ when a run is resumed."""

_CHECKED_LATER = ("intrinsic.program.file", "intrinsic.program.allow_unsandboxed")
"""Options that may differ since a checkpoint holds the program's hash, and refuses another one."""
_RENAMED = {"checkpoint_every": "checkpoint.every"}  # names in runs of older versions
_SINCE = {
    "policy.scale_actions": False,
    "policy.squash": False,
    "policy.state_dependent_std": False,
    "env.observe_text": False,
    "encoder.scale_bytes": False,
    "encoder.normalize_obs": False,
    "policy.normalize_value": "none",
    "learner.lr_decay": "none",
    "learner.adaptive_kl": None,
    "learner.target_kl": None,
    "learner.advantage_floor": 0.0,
}
"""Options that runs of older versions lack, and what these runs did."""
_DEFAULTS = (
    *("trainer.num_steps", "learner.num_epochs", "learner.minibatch_size", "learner.entropy_coef"),
    *("env.backend", "env.num_envs", "num_threads"),
    *("intrinsic.rnd.minibatch_size", "intrinsic.rnd.update_proportion"),
)
"""Options whose default has changed, or is chosen at the start: a resumed run keeps its own."""
_OLD_TARGETS = {"encoder._target_": "firstlight.networks.encoders.auto"}
"""Targets that were a group's default: a resumed run that has one keeps it."""
_NEW_GROUPS = {"core._target_": "firstlight.networks.Feedforward"}
"""The same for groups, of which today's default is what these runs did."""
_IN_NAME = ("env", "learner", "intrinsic", "mixer", "auxiliary", "seed")
_REQUIRED = (
    *("total_steps", "eval_episodes", "eval_max_steps"),
    *("heat_map_seconds", "doctor_seconds"),
)
_POSITIVE = (
    *(*_REQUIRED, "trainer.num_steps", "checkpoint.every"),
    *("eval_every", "num_threads", "stall_after"),
)
_SWITCHES = ("heat_maps", "doctor", "dry_run")


def check_options(cfg: DictConfig) -> None:
    """Raise `BadInputError` for an option with an invalid value."""
    from firstlight.scripts.build import pick_device

    if OmegaConf.is_missing(cfg.env, "_target_"):
        raise BadInputError(
            "choose an environment, such as env=minigrid/doorkey_8x8 or env=gym env.id=CartPole-v1"
        )
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise BadInputError(f"{missing[0]} has no value: give {missing[0]}=...")
    for key in _POSITIVE:
        value = OmegaConf.select(cfg, key)
        if key == "num_threads" and value == "auto":
            continue
        if (value is not None or key in _REQUIRED) and not _is_number(value, 1):
            raise BadInputError(f"{key}={value}: expected a number, at least 1")
    if cfg.stop_at is not None and not _is_number(cfg.stop_at):
        raise BadInputError(f"stop_at={cfg.stop_at}: expected a number or null")
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise BadInputError(f"seed={cfg.seed}: expected a whole number, at least 0")
    for key in _SWITCHES:
        if not isinstance(cfg[key], bool):
            raise BadInputError(f"{key}={cfg[key]}: expected true or false")
    if cfg.resume not in (None, "auto"):
        raise BadInputError(f"resume={cfg.resume}: expected auto or null")
    pick_device(cfg.device)


def keep_saved_options(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Set what a run of an older version had no option for to what that run did.

    Args:
        cfg: changed in place, if ``cfg.run_dir`` holds a run.
        overrides: the command's overrides; an option that they name is left as it is.
    """
    from firstlight.agents.session.run_directory.run_dir import RunDirectory

    path = Path(cfg.run_dir)
    if not (path / "config.yaml").exists():
        return
    if cfg.resume != "auto" and not RunDirectory.in_use(path):
        return
    before = OmegaConf.load(path / "config.yaml")
    for key, value in _SINCE.items():
        if OmegaConf.select(cfg, key) is not None and key not in _named(overrides):
            saved = OmegaConf.select(before, key)
            OmegaConf.update(cfg, key, value if saved is None else saved)
    absent = object()
    for key in _DEFAULTS:
        saved = OmegaConf.select(before, key, default=absent)
        if saved is not absent and key not in _named(overrides):
            OmegaConf.update(cfg, key, saved)
    for key, target in _OLD_TARGETS.items():
        chosen = {key, key.split(".")[0]} & _named(overrides)
        if OmegaConf.select(before, key) == target and not chosen:
            OmegaConf.update(cfg, key, target)


def check_run_dir(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Raise `BadInputError` if ``cfg.run_dir`` holds a run that must not be continued."""
    from firstlight.agents.session.run_directory.run_dir import RunDirectory

    if cfg.resume == "auto":
        check_same_run(cfg, overrides)
    elif RunDirectory.in_use(Path(cfg.run_dir)):
        raise BadInputError(
            f"{cfg.run_dir} already holds a run: give another run_dir, or continue it with "
            "resume=auto"
        )


def check_same_run(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Raise `BadInputError` if ``cfg.run_dir`` holds a run with other options than `cfg`."""
    if changed := changed_options(cfg, Path(cfg.run_dir), overrides):
        raise BadInputError(
            f"{cfg.run_dir} holds a run with other options: {', '.join(changed)}; "
            "give another run_dir"
        )


def changed_options(cfg: DictConfig, run_dir: Path, overrides: Sequence[str] = ()) -> list[str]:
    """List the options in which `cfg` differs from the run in `run_dir`, if there is one.

    An option that did not exist when the run was started counts only if one of the command's
    `overrides` names it.
    """
    path = run_dir / "config.yaml"
    if not path.exists():
        return []
    from firstlight.scripts.instantiate import to_dict

    before, now = (dict(leaves(to_dict(config))) for config in (OmegaConf.load(path), cfg))
    for old, new in _RENAMED.items():
        if old in before:
            before[new] = before.pop(old)
    since = _SINCE | _NEW_GROUPS
    before |= {key: old for key, old in since.items() if key in now and key not in before}
    named = _named(overrides)
    groups = {key.rpartition(".")[0] for key in before}
    absent = object()
    return [
        f"{key}={before.get(key)} is now {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, absent) != now.get(key, absent)
        and not _may_change(key, bool(cfg.checkpoint.barrier))
        and key not in _CHECKED_LATER
        and (key in before or key in named or key.rpartition(".")[0] not in groups)
    ]


def run_name(
    cfg: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str], *, sweep: bool = False
) -> str:
    """Name the directory of a run; the same command always gives the same name.

    Environment, learner, reward modules, mixer if it is not the default, and the seed; in a sweep
    also every other override, since any of them may differ from job to job.

    Args:
        cfg: the composed config.
        choices: config group to the chosen file, as Hydra reports it.
        overrides: the command's overrides.
        sweep: whether this is one job of a multirun.
    """
    parts = [str(choices.get(group) or "own") for group in ("env", "learner")]
    parts += [str(name) for name, node in cfg.intrinsic.items() if "_target_" in node]
    if choices.get("mixer") != "heads":
        parts.append(str(choices.get("mixer") or "own"))
    if choices.get("auxiliary") not in (None, "null"):
        parts.append(str(choices["auxiliary"]))
    for override in sorted(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if _may_change(key, barrier=False) or key in _IN_NAME or key.startswith("hydra"):
            continue
        if key.rpartition(".")[2] in ("_target_", "id", "task"):
            parts.append(value)  # understood without its key
        elif sweep:
            parts.append(f"{key}_{value}")
    name = "-".join([*parts, f"s{cfg.seed}"]).replace("/", "-")
    return re.sub(r"[^\w.+-]+", "_", name)


def command_line(overrides: Sequence[str]) -> str:
    """Return the shell command that started a run; empty for a run started from Python.

    >>> command_line(["env=chain", "intrinsic=[count]"])
    "firstlight-train env=chain 'intrinsic=[count]'"
    """
    from hydra.core.hydra_config import HydraConfig

    own = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
    paths = [word for word in own if word.startswith("hydra.searchpath=")]
    return shlex.join(["firstlight-train", *paths, *overrides]) if overrides else ""


def commented(text: str) -> str:
    """Format text as comment lines of YAML; none for an empty text."""
    return "".join(f"# {line}\n" for line in text.splitlines())


def is_finished(cfg: DictConfig) -> bool:
    """Whether ``cfg.run_dir`` holds a finished run that needs no more steps."""
    from firstlight.agents.session.run_directory.status import read_status

    status = read_status(cfg.run_dir)
    if status is None or status.status != "finished":
        return False
    may_continue = cfg.resume == "auto" and cfg.stop_at is None
    return not may_continue or status.step >= cfg.total_steps


def _may_change(key: str, barrier: bool) -> bool:
    """Whether an option may differ on resume; `checkpoint.every` may not with barriers."""
    if key.partition(".")[0] == "tracker":
        return True
    return key in MAY_CHANGE and not (barrier and key == "checkpoint.every")


def _named(overrides: Sequence[str]) -> set[str]:
    """Return the keys of overrides."""
    return {override.lstrip("+~").partition("=")[0] for override in overrides}


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of a nested dict."""
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))


def _is_number(value: Any, least: float | None = None) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and (least is None or value >= least)
