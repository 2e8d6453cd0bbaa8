"""Read a run directory: its config and the state in its checkpoints; copy what evaluations need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import BadInputError

SET_FUNCTIONS = "firstlight.scripts.benchmarks.submodular_tasks"
"""Module of set functions that experiments of ours name."""

ProgramRights = Literal["never", "sandboxed", "trusted"]
"""Run no reward program, run it in its sandbox, or with all rights of the command."""

if TYPE_CHECKING:
    from firstlight.envs.vec import VecEnv
    from firstlight.intrinsic.base import IntrinsicModule
    from firstlight.intrinsic.mixer import RewardMixer


PROGRAMS = "firstlight.intrinsic.design"
"""Package of what runs reward programs."""


def read_config(
    run: Path, allow: tuple[str, ...] = (), programs: ProgramRights = "never"
) -> DictConfig:
    """Read the config of a run; it may name only classes of firstlight and of `allow`.

    Args:
        run: the run directory.
        allow: further packages that the config may name.
        programs: whether and how reward programs that the config names may be run, whatever the
            config says about it.

    Raises:
        BadInputError: if there is no config, or it names something else.
    """
    from firstlight.scripts.instantiate import check_targets

    if not (run / "config.yaml").is_file():
        raise BadInputError(f"run={run} is no run directory: it holds no config.yaml")
    config = OmegaConf.load(run / "config.yaml")
    if not isinstance(config, DictConfig) or not {"env", "intrinsic"} <= config.keys():
        raise BadInputError(f"{run / 'config.yaml'} is not the config of a run")
    plain: Any = OmegaConf.to_container(config)
    check_targets(plain, ("firstlight", *allow))
    check_targets(plain["env"], ("firstlight.envs", *allow))
    for key in ("intrinsic", "mixer"):
        check_targets(plain.get(key), ("firstlight.intrinsic", SET_FUNCTIONS, *allow))
    return OmegaConf.create(_restrict_programs(plain, programs))


def _restrict_programs(node: Any, programs: ProgramRights) -> Any:
    """Return a config in which reward programs have the given rights and no others."""
    from firstlight.intrinsic import ProgramReward
    from firstlight.scripts.instantiate import is_within, locate

    if isinstance(node, list):
        return [_restrict_programs(item, programs) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _restrict_programs(item, programs) for key, item in node.items()}
    if "_target_" not in node:
        return node
    made = locate(str(node["_target_"]))
    if made is ProgramReward:
        rights = {"may_run": programs != "never", "trusted": programs == "trusted"}
        return {**node, **rights, "allow_unsandboxed": False}
    homes = (str(node["_target_"]), str(made.__module__))
    if any(is_within(home, [PROGRAMS]) for home in homes):
        raise BadInputError(f"the run's config names {homes[0]!r}, which only Python may use")
    return node


def load_rewards(
    run: Path, which: str, modules: Mapping[str, IntrinsicModule], mixer: RewardMixer
) -> None:
    """Load the state of reward modules and mixer from a checkpoint of a run.

    Args:
        run: the run directory.
        which: "best" or "newest" checkpoint.
        modules: modules to load into.
        mixer: mixer to load into.

    Raises:
        BadInputError: if there is no checkpoint, or it does not fit.
    """
    path, state = _load_checkpoint(run, which)
    if "modules" not in state:
        raise BadInputError(
            f"{path} holds no reward modules, as it was copied by copy_to=...: give the run itself"
        )
    try:
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        mixer.load_state_dict(state["mixer"])
    except (KeyError, RuntimeError) as error:
        raise BadInputError(f"{path} does not fit the run's config: {error}") from error


def load_teachers(run: Path, which: str, modules: Mapping[str, IntrinsicModule]) -> None:
    """Load the modules whose teacher has learnt what the policy sees as its goal.

    Prints that goals are those of an untrained teacher if the checkpoint holds no reward modules.

    Args:
        run: the run directory.
        which: "best" or "newest" checkpoint.
        modules: modules to load into.

    Raises:
        BadInputError: if there is no checkpoint, or it does not fit.
    """
    from firstlight.intrinsic.subgoals.adversarial_goals import AdversarialGoals

    taught = {name: m for name, m in modules.items() if isinstance(m, AdversarialGoals)}
    if not taught:
        return
    path, state = _load_checkpoint(run, which)
    if "modules" not in state:
        print(f"{path} holds no reward modules: the goals are those of an untrained teacher")
        return
    try:
        for name, module in taught.items():
            module.load_state_dict(state["modules"][name])
    except (KeyError, RuntimeError) as error:
        raise BadInputError(f"{path} does not fit the run's config: {error}") from error


def load_persistent_state(run: Path, which: str, vec: VecEnv) -> None:
    """Load what outlives the episodes of a run's environments, such as its table of texts.

    Modules have learnt from the ids of that table, and in other environments the same ids would
    stand for other sentences.

    Args:
        run: the run directory.
        which: "best" or "newest" checkpoint.
        vec: environments to load into, wrapped as those of the run.

    Raises:
        BadInputError: if there is no checkpoint, or it does not fit.
    """
    path, state = _load_checkpoint(run, which)
    try:
        if kept := state["runner"].get("kept"):  # checkpoints of the first versions have none
            vec.load_persistent_state(kept)
    except (KeyError, RuntimeError) as error:
        raise BadInputError(f"{path} does not fit the run's environments: {error}") from error


def copy_for_evaluation(run: Path, which: str, target: Path) -> None:
    """Copy a run's config, its policy, and what outlives the episodes of its environments.

    Optimisers, reward modules and metrics are left out: the copy can be evaluated, loaded and
    trained further in a new run (``init_from``), but not resumed.

    Args:
        run: the run directory.
        which: "best" or "newest" checkpoint.
        target: the new run directory, which does not exist yet.

    Raises:
        BadInputError: if `target` cannot be written, or there is no checkpoint.
    """
    from firstlight.agents.session.run_directory import checkpoint

    path, state = _load_checkpoint(run, which)
    kept = {
        "policy_spec": state["policy_spec"],
        "learner": {"policy": state["learner"]["policy"]},
        "runner": {"kept": state["runner"].get("kept")},
    }
    try:
        checkpoint.save_best(target / "checkpoints", kept, checkpoint.step_of(path))
        shutil.copyfile(run / "config.yaml", target / "config.yaml")
    except OSError as error:
        raise BadInputError(f"copy_to={target}: {error.strerror}") from error


def _load_checkpoint(run: Path, which: str) -> tuple[Path, dict[str, Any]]:
    from firstlight.agents.session.run_directory import checkpoint

    folder = run / "checkpoints"
    path = checkpoint.best(folder) if which == "best" else None
    path = path or checkpoint.newest(folder)
    if path is None:
        raise BadInputError(f"{run} has no complete checkpoint")
    return path, checkpoint.load(path)


def resumed_checkpoint(cfg: DictConfig) -> Path | None:
    """Return the checkpoint that the run is resumed from; None for a run that begins."""
    from firstlight.agents.session.run_directory import checkpoint

    if cfg.resume != "auto" or cfg.run_dir is None:
        return None
    return checkpoint.newest(Path(cfg.run_dir) / "checkpoints")
