"""Build environments, policy, rewards and trainer from a composed config."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from firstlight.networks.moved import current
from firstlight.scripts.errors import BadInputError, suggestion

if TYPE_CHECKING:
    from firstlight.agents.learner import Learner
    from firstlight.agents.policy import Policy
    from firstlight.agents.trainer import Trainer
    from firstlight.envs.types import Snapshot
    from firstlight.envs.vec import VecEnv
    from firstlight.intrinsic.base import IntrinsicModule
    from firstlight.intrinsic.mixer import RewardMixer

_INVALID_VALUE = (ValueError, OSError, ImportError, gymnasium.error.Error)
_WRONG_ARGUMENT = (TypeError, LookupError)
_POLICY_OPTIONS = ("scale_actions", "normalize_value", "squash", "state_dependent_std")


def locate(target: str) -> Any:
    """Import the object at an import path; paths of older versions are translated."""
    target = current(target)
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "" if is_within(target, ["firstlight"]) else "; is its folder on PYTHONPATH?"
        raise BadInputError(f"cannot import {target!r}: {error}{hint}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config node to a dict, with interpolations resolved and current import paths."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)
    return {str(key): _with_current_targets(value, key) for key, value in config.items()}


def _with_current_targets(value: Any, key: Any = None) -> Any:
    """Translate every ``_target_`` in a nested node."""
    if isinstance(value, dict):
        return {name: _with_current_targets(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_current_targets(item) for item in value]
    return current(value) if key == "_target_" and isinstance(value, str) else value


def is_within(target: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name is in one of `packages`."""
    return any(f"{target}.".startswith(f"{package}.") for package in packages)


def instantiate(config: Any, **runtime: Any) -> Any:
    """Instantiate a config node.

    Args:
        config: `_target_`, and keywords of its constructor.
        runtime: values known only at run time; passed if the target takes them and `config` does
            not set them.

    Raises:
        BadInputError: if the target cannot be imported or refuses its arguments. Errors raised in
            the user's own classes are passed on unchanged.
    """
    options = to_dict(config)
    name = str(options["_target_"])
    target = locate(name)
    if not callable(target):
        raise BadInputError(f"{name} is a {type(target).__name__}, which cannot be called")
    takes = inspect.signature(target).parameters
    given = {k: v for k, v in runtime.items() if k in takes and k not in options}
    unknown = sorted(k for k in options if k not in takes and not k.startswith("_"))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        own = is_within(name, ["firstlight"])
        hint = "" if own else f"; ~GROUP +GROUP._target_={name} leaves out the group's options"
        raise BadInputError(f"{name} takes no {unknown[0]!r}{suggestion(unknown[0], takes)}{hint}")
    try:
        return hydra.utils.instantiate(options, _convert_="all", _partial_=True)(**given)
    except InstantiationException as error:  # of a node inside this one
        raise BadInputError(f"{name}: {error.__cause__ or error}") from error
    except (*_INVALID_VALUE, *_WRONG_ARGUMENT) as error:
        if isinstance(error, BadInputError) or not is_within(name, ["firstlight"]):
            raise
        where = f"{name}: {type(error).__name__}: " if isinstance(error, _WRONG_ARGUMENT) else ""
        raise BadInputError(f"{where}{error}") from error


def check_targets(config: Any, packages: Sequence[str]) -> None:
    """Raise `BadInputError` if a saved config names anything not defined in `packages`."""
    if isinstance(config, str) and "${" in config:
        raise BadInputError(f"the run's config holds {config!r}, expected a plain value")
    if isinstance(config, Mapping):
        target = config.get("_target_")
        if target is not None:
            home = str(target).partition(".")[0]
            allowed = is_within(str(target), packages)
            # compare the object's own module too: a module also holds what it imported
            if not allowed or not is_within(str(locate(str(target)).__module__), packages):
                raise BadInputError(
                    f"the run's config names {target!r}: if you trust it, give allow=[{home}]"
                )
        config = list(config.values())
    if isinstance(config, Sequence) and not isinstance(config, str):
        for item in config:
            check_targets(item, packages)


def make_vec(config: DictConfig, **changes: Any) -> VecEnv:
    """Make the environments; a target that makes one Gymnasium environment is called repeatedly.

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
        return _make_vec(options)
    frames = options.pop("frame_stack", None)
    vec = _make_vec(options)
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


def _make_vec(options: dict[str, Any]) -> VecEnv:
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


def make_modules(
    config: DictConfig, vec: VecEnv, seed: int
) -> tuple[dict[str, IntrinsicModule], VecEnv]:
    """Make the reward modules; returns them and the environments as they wrapped them."""
    from firstlight.envs.seeding import derive

    modules = {}
    for name, node in ((str(key), node) for key, node in config.items()):
        if not isinstance(node, DictConfig):
            raise BadInputError(
                f"intrinsic.{name}={node} is no module: the options of one are nested under its "
                "name, as in conf/intrinsic/count.yaml"
            )
        if "_target_" not in node:  # options of a module that the command line did not choose
            continue
        modules[name] = instantiate(
            node,
            obs_space=vec.obs_space,
            info_space=vec.info_space,
            act_space=vec.act_space,
            text_table=vec.text_table,
            vec=vec,
            seed=derive(seed, name),
        )
        vec = wrapped(modules[name], vec)
    return modules, vec


def wrapped(module: IntrinsicModule, vec: VecEnv) -> VecEnv:
    """Let a module wrap the environments, part by part if they have parts."""
    from firstlight.envs.joined import JoinedVec

    if isinstance(vec, JoinedVec):
        return JoinedVec([module.wrap(part) for part in vec.parts])
    return module.wrap(vec)


def make_mixer(
    config: DictConfig, modules: Mapping[str, IntrinsicModule], left_out: Sequence[str] = ()
) -> RewardMixer:
    """Make the reward layer.

    Args:
        config: its node; `terms` overrides single fields of the modules' default terms.
        modules: the reward modules.
        left_out: modules whose terms are ignored because they were not chosen.
    """
    from firstlight.intrinsic.mixer import Term

    options = to_dict(config)
    combine = instantiate(options.pop("combine"))
    terms = {"reward": Term()} | {name: module.default_term() for name, module in modules.items()}
    fields = [field.name for field in dataclasses.fields(Term)]
    for name, node in options.pop("terms").items():
        if name in left_out:
            continue
        if name not in terms:
            raise BadInputError(
                f"mixer.terms.{name}: there is no such source{suggestion(name, terms)}"
            )
        if unknown := set(node) - set(fields):
            hint = suggestion(min(unknown), fields)
            raise BadInputError(f"there is no option mixer.terms.{name}.{min(unknown)}{hint}")
        changes = hydra.utils.instantiate(node, _convert_="all")
        terms[name] = dataclasses.replace(terms[name], **changes)
    return instantiate(options, terms=terms, combine=combine)


def make_learner(config: DictConfig, policy: Any, seed: int, **known: Any) -> Learner:
    """Make the learner, and the auxiliaries that its node lists.

    Args:
        config: its node.
        policy: the policy to train.
        seed: of the run.
        known: spaces and sizes, for auxiliaries that take them.
    """
    from firstlight.envs.seeding import derive

    options, runtime = to_dict(config), {"policy": policy, "seed": seed}
    if nodes := options.pop("auxiliaries", None):
        if "auxiliaries" not in inspect.signature(locate(options["_target_"])).parameters:
            raise BadInputError(f"{options['_target_']} takes no 'auxiliaries'")
        if any("_target_" not in node for node in nodes):
            raise BadInputError("learner.auxiliaries is a list of {_target_: ...}; see auxiliary=")
        made = [
            instantiate(n, **known, seed=derive(seed, "auxiliary", i)) for i, n in enumerate(nodes)
        ]
        runtime["auxiliaries"] = made
    return instantiate(options, **runtime)


def saved_policy(cfg: DictConfig) -> dict[str, Any]:
    """Return the arguments in the description of the policy that a run is resumed with; or none."""
    from firstlight.agents.session.run_directory import checkpoint

    path = resumed_checkpoint(cfg)
    spec = None if path is None else checkpoint.policy_spec(path)
    return {} if spec is None else spec["kwargs"]


def resumed_checkpoint(cfg: DictConfig) -> Path | None:
    """Return the checkpoint that the run is resumed from; None for a run that begins."""
    from firstlight.agents.session.run_directory import checkpoint

    if cfg.resume != "auto" or cfg.run_dir is None:
        return None
    return checkpoint.newest(Path(cfg.run_dir) / "checkpoints")


def make_encoder(config: Any, saved: dict[str, Any] | None, **spaces: Any) -> Any:
    """Make an encoder. A resumed run keeps what ``encoder=auto`` chose when it began.

    Args:
        config: its node.
        saved: description of the encoder that a run is resumed with; None if there is none.
        spaces: of observations and actions.
    """
    from firstlight.networks.encoders import auto, auto_normalized
    from firstlight.networks.spec import rebuild

    if saved is not None and locate(to_dict(config)["_target_"]) in (auto, auto_normalized):
        encoder = rebuild(saved)
        if encoder.init_kwargs["obs_space"] == spaces["obs_space"]:
            return encoder
    return instantiate(config, **spaces)


def make_cores(cfg: DictConfig, options: dict[str, Any], *encoders: Any) -> dict[str, Any]:
    """Make the core of a policy, and a second one for values with an encoder of their own.

    Args:
        cfg: the composed config.
        options: of the policy.
        encoders: the policy's, and the values' or None.
    """
    from firstlight.networks.cores import Feedforward
    from firstlight.networks.encoders import TwinEncoder

    if locate(to_dict(cfg.core)["_target_"]) is Feedforward:
        return {}
    if "core" not in inspect.signature(locate(options["_target_"])).parameters:
        raise BadInputError(f"{options['_target_']} takes no 'core': set core=none")
    encoder, critic = encoders
    cores = {"core": instantiate(cfg.core, in_dim=encoder.out_dim)}
    if isinstance(encoder, TwinEncoder):
        critic = encoder
    if critic is not None:
        cores["critic_core"] = instantiate(cfg.core, in_dim=critic.out_dim)
    return cores


def pick_device(name: str) -> str:
    """Resolve "auto"; raise `BadInputError` for a device that is not available."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise BadInputError(f"device={name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInputError(
            "device=cuda, but torch sees no CUDA device; use device=cpu or device=auto"
        )
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def build(cfg: DictConfig, vec: VecEnv) -> Trainer:
    """Build the trainer for a config and its environments."""
    import torch

    from firstlight.agents.session.run_directory import checkpoint
    from firstlight.envs.seeding import derive
    from firstlight.networks import collective

    torch.manual_seed(derive(cfg.seed, "networks"))
    modules, vec = make_modules(cfg.intrinsic, vec, cfg.seed)
    left_out = [str(name) for name in cfg.intrinsic if name not in modules]
    for name in left_out:
        print(f"firstlight: intrinsic.{name} has options but was not chosen", file=sys.stderr)
    mixer = make_mixer(cfg.mixer, modules, left_out)
    spaces = {"obs_space": vec.obs_space, "act_space": vec.act_space}
    options = to_dict(cfg.policy)
    critic = options.pop("critic_encoder", None)
    # a policy of the user's own has no such
    given = {name: options.pop(name) for name in _POLICY_OPTIONS if name in options}
    saved = checkpoint.broadcast(saved_policy(cfg) if collective.rank() == 0 else None) or {}
    encoder = make_encoder(cfg.encoder, saved.get("encoder"), **spaces)
    critic_encoder = None
    if critic:
        critic_encoder = make_encoder(critic, saved.get("critic_encoder"), **spaces)
    policy = instantiate(
        options,
        **spaces,
        encoder=encoder,
        critic_encoder=critic_encoder,
        **make_cores(cfg, options, encoder, critic_encoder),
        **given,
        num_streams=mixer.num_streams,
    )
    if cfg.init_from is not None:
        initialise_from(cfg, policy, modules)
    known = {**spaces, "info_space": vec.info_space, "in_dim": encoder.out_dim}
    learner = make_learner(cfg.learner, policy, cfg.seed, **known)
    return instantiate(
        cfg.trainer,
        vec=vec,
        learner=learner,
        modules=modules,
        mixer=mixer,
        run_dir=cfg.run_dir,
        resume=cfg.resume == "auto",
        seed=cfg.seed,
        device=pick_device(cfg.device),
        checkpoint_every=cfg.checkpoint.every,
        barrier=cfg.checkpoint.barrier,
        stall_after=cfg.stall_after,
    )


def initialise_from(cfg: DictConfig, policy: Policy, modules: Mapping[str, Any]) -> None:
    """Load policy and modules of the run ``cfg.init_from``, and print what does not fit."""
    from firstlight.agents.session.initialise import initialise

    parts = None if cfg.init_parts is None else [str(part) for part in cfg.init_parts]
    try:
        missing = initialise(policy, modules, cfg.init_from, parts)
    except ValueError as error:
        raise BadInputError(f"init_from={cfg.init_from}: {error}") from error
    if missing:
        names = ", ".join(missing)
        print(f"firstlight: init_from has nothing that fits {names}: new", file=sys.stderr)
