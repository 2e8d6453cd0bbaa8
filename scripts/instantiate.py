"""Import what a config names, and instantiate its nodes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from firstlight.networks.moved import current
from firstlight.scripts.errors import BadInputError, suggestion

_INVALID_VALUE = (ValueError, OSError, ImportError, gymnasium.error.Error)
_WRONG_ARGUMENT = (TypeError, LookupError)


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
