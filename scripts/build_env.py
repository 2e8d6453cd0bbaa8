"""Make environments from a composed config."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
from omegaconf import DictConfig

from firstlight.scripts.errors import BadInputError
from firstlight.scripts.instantiate import instantiate, locate, to_dict
from firstlight.scripts.saved_run import resumed_checkpoint

if TYPE_CHECKING:
    from firstlight.envs.types import Snapshot
    from firstlight.envs.vec import VecEnv


def make_vec(config: DictConfig, **changes: Any) -> VecEnv:
    """Make the `VecEnv` of a config.

    A target that makes a single Gymnasium environment is called once for each of `num_envs`.

    Args:
        config: the node `env`. An option `frame_stack` that its target does not take wraps the
            environments in `FrameStack`: a number of frames, or all arguments of the wrapper. An
            option `observe_text` that it does not take is that of the `GymVec` made of its
            environments.
        changes: to that node.
    """
    options = to_dict(config) | changes
    make = locate(str(options["_target_"]))
    if not callable(make) or "frame_stack" in inspect.signature(make).parameters:
        return _make_unstacked(options)
    frames = options.pop("frame_stack", None)
    vec = _make_unstacked(options)
    return vec if frames is None else _stack_frames(vec, frames)


def make_training_vec(cfg: DictConfig, **changes: Any) -> VecEnv:
    """Make the environments to train on, in two halves with `alternate`."""
    if not cfg.alternate:
        return make_vec(cfg.env, **changes)
    from firstlight.envs.joined import JoinedVec

    number = cfg.env.get("num_envs", 16)
    if number % 2:
        raise BadInputError(
            f"alternate=true with env.num_envs={number}: expected an even number, since one half "
            "of the environments steps while the policy acts in the other"
        )
    return JoinedVec([make_vec(cfg.env, num_envs=number // 2, **changes) for _ in range(2)])


def with_reset_points(cfg: DictConfig, vec: VecEnv) -> VecEnv:
    """Let episodes of `vec` begin on the ways to a reward that ``cfg.reset_points`` found."""
    if cfg.reset_points is None:
        return vec
    if cfg.alternate:
        raise BadInputError("alternate=true and reset_points: give one of them")
    from firstlight.agents.search.demonstrations import collect_reset_points
    from firstlight.envs.reset_points import ResetPoints
    from firstlight.envs.seeding import derive

    try:
        trajectories = saved_reset_points(cfg)
        if not trajectories:
            seed = derive(cfg.seed, "reset_points")
            trajectories = collect_reset_points(cfg.reset_points, vec, seed=seed)
        return ResetPoints(vec, trajectories, share=cfg.reset_share)
    except (ValueError, OSError) as error:
        raise BadInputError(f"reset_points={cfg.reset_points}: {error}") from error


def saved_reset_points(cfg: DictConfig) -> list[list[Snapshot]]:
    """Return the reset points of the run that is resumed; none of a run that begins."""
    from firstlight.agents.session.run_directory import checkpoint
    from firstlight.envs.reset_points import RESET_POINTS, load_trajectories
    from firstlight.networks import collective

    own = None
    if collective.rank() == 0 and (path := resumed_checkpoint(cfg)) is not None:
        own = {RESET_POINTS: checkpoint.load(path)["runner"]["kept"].get(RESET_POINTS, [])}
    saved = checkpoint.broadcast(own)
    return [] if saved is None else load_trajectories(saved[RESET_POINTS])


def _stack_frames(vec: VecEnv, frames: Any) -> VecEnv:
    """Wrap environments in a `FrameStack`; close them if that is not possible."""
    from firstlight.envs.frame_stack import FrameStack

    arguments = frames if isinstance(frames, dict) else {"count": frames}
    try:
        inspect.signature(FrameStack).bind(vec, **arguments)
        if type(arguments["count"]) is not int:
            raise TypeError("count is no whole number")
        return FrameStack(vec, **arguments)
    except (ValueError, TypeError) as error:
        vec.close()
        raise BadInputError(f"env.frame_stack={frames}: {error}") from error


def _make_unstacked(options: dict[str, Any]) -> VecEnv:
    """Make the `VecEnv` of these options, without `frame_stack`."""
    num_envs = options.setdefault("num_envs", 16)
    if not isinstance(num_envs, int) or num_envs < 1:
        raise BadInputError(f"env.num_envs={num_envs}: expected a whole number, at least 1")
    target = str(options["_target_"])
    from firstlight.envs.faults import class_name, raise_for_environment
    from firstlight.envs.vec import VecEnv
    from firstlight.envs.vector.gym import GymVec

    make, observe_text = locate(target), False
    if callable(make):
        takes = inspect.signature(make).parameters
        if "num_envs" not in takes:
            del options["num_envs"]
        if "observe_text" not in takes:
            observe_text = bool(options.pop("observe_text", False))
    try:
        made = instantiate(options)
    except BadInputError:
        raise
    except Exception as error:
        raise_for_environment(error, target, "while it was made")
    if isinstance(made, gymnasium.vector.VectorEnv):  # of which some are a gymnasium.Env as well
        made.close()
        raise BadInputError(
            f"{target} made a {type(made).__name__}, which resets itself in a way of its own; "
            "expected one Gymnasium environment, of which env.num_envs are made, or a VecEnv"
        )
    if isinstance(made, gymnasium.Env):
        with contextlib.suppress(Exception):  # the environments that are used tell of theirs
            made.close()
        factories = [functools.partial(instantiate, options)] * num_envs
        return GymVec(factories, observe_text=observe_text)
    if not isinstance(made, VecEnv):
        old = any(f"{kind.__module__}.".startswith("gym.") for kind in type(made).__mro__)
        raise BadInputError(
            f"{target} made a {type(made).__name__}, expected a Gymnasium environment or a VecEnv: "
            + (
                f"{class_name(made)} is one of the old package gym, so wrap it in "
                "shimmy.GymV21CompatibilityV0 or shimmy.GymV26CompatibilityV0"
                if old
                else "vector environments are subclasses of firstlight.envs.VecEnv"
            )
        )
    return made


def needed_options(cfg: DictConfig) -> dict[str, Any]:
    """Return options of the environments that a chosen module needs, for `make_vec`.

    ``text=True`` if a module works with texts and the environment can give them, ``level=True`` if
    one works with whole levels.
    """
    from firstlight.intrinsic.base import IntrinsicModule

    nodes = [node for node in cfg.intrinsic.values() if isinstance(node, DictConfig)]
    kinds = [locate(str(node["_target_"])) for node in nodes if "_target_" in node]
    modules = [
        kind for kind in kinds if isinstance(kind, type) and issubclass(kind, IntrinsicModule)
    ]
    chosen = {
        "text": any(module.needs_text for module in modules),
        "level": any(module.needs_level for module in modules),
    }
    return taken_options(cfg.env, [name for name, is_needed in chosen.items() if is_needed])


def taken_options(env: DictConfig, names: Sequence[str]) -> dict[str, Any]:
    """Return True for those of the options `names` that the target of the node `env` takes."""
    make = locate(str(env["_target_"]))
    if not callable(make):
        return {}
    takes = inspect.signature(make).parameters
    return {name: True for name in names if name in takes}
