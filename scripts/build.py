"""Build policy, rewards and trainer from a composed config."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hydra.utils
from omegaconf import DictConfig

from firstlight.scripts.errors import BadInputError, suggestion
from firstlight.scripts.instantiate import instantiate, locate, to_dict
from firstlight.scripts.saved_run import resumed_checkpoint

if TYPE_CHECKING:
    from firstlight.agents.learner import Learner
    from firstlight.agents.policy import Policy
    from firstlight.agents.trainer import Trainer
    from firstlight.envs.vec import VecEnv
    from firstlight.intrinsic.base import IntrinsicModule
    from firstlight.intrinsic.mixer import RewardMixer

_POLICY_OPTIONS = ("scale_actions", "normalize_value", "squash", "state_dependent_std")


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


def make_encoder(config: Any, saved: dict[str, Any] | None, **runtime: Any) -> Any:
    """Make an encoder. A resumed run keeps what ``encoder=auto`` chose when it began.

    Args:
        config: its node.
        saved: description of the encoder that a run is resumed with; None if there is none.
        runtime: the spaces of observations and actions; whether it may be a `TwinEncoder`.
    """
    from firstlight.networks.encoders import auto, auto_normalized
    from firstlight.networks.spec import rebuild

    if saved is not None and locate(to_dict(config)["_target_"]) in (auto, auto_normalized):
        encoder = rebuild(saved)
        if encoder.init_kwargs["obs_space"] == runtime["obs_space"]:
            return encoder
    return instantiate(config, **runtime)


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
    takes = inspect.signature(locate(options["_target_"])).parameters
    twin = mixer.num_streams == 1 and not critic and "critic_encoder" in takes
    chosen = {**spaces, "twin": twin}
    encoder = make_encoder(cfg.encoder, saved.get("encoder"), **chosen)
    critic_encoder = None
    if critic:
        critic_encoder = make_encoder(critic, saved.get("critic_encoder"), **chosen)
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
