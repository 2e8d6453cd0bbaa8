"""Describe objects as JSON (class and arguments), so that a checkpoint can rebuild its policy.

`@rebuildable` makes instances store the arguments of their constructor; `describe` writes class
and arguments as JSON and `rebuild` makes an equal object. A description is data: `rebuild` imports
only firstlight and what its caller allows, and calls only rebuildable classes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from torch import nn

from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.text import TextBytes
from firstlight.networks.moved import current

T = TypeVar("T")

_ACTIVATIONS = "torch.nn.modules.activation"
_TAGS = {"target", "class", "space", "tuple", "float", "dict"}


class SpecError(ValueError):
    """Raised for an object that cannot be described, or must not be rebuilt; gives the reason."""


def rebuildable(cls: type[T]) -> type[T]:
    """Make instances store their constructor's arguments, defaults included, in `init_kwargs`.

    A subclass with a constructor of its own needs the decorator too: the arguments of the outermost
    class are stored.

    >>> @rebuildable
    ... class Net(nn.Module):
    ...     def __init__(self, width: int, *, depth: int = 2):
    ...         super().__init__()
    >>> Net(8).init_kwargs
    {'width': 8, 'depth': 2}
    """
    init = cls.__init__
    plain = init in (object.__init__, nn.Module.__init__)  # their signatures accept anything
    signature = inspect.signature((lambda self: None) if plain else init)
    self_name, *parameters = signature.parameters.values()
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TypeError(
                f"{cls.__name__}({parameter}) cannot be rebuilt: make it a keyword parameter"
            )
    rest = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(init)
    def store_and_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is store_and_init:
            with contextlib.suppress(TypeError):  # `init` raises a better one
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                given = {k: v for k, v in bound.arguments.items() if k != self_name.name}
                for name in rest:
                    given |= given.pop(name)
                object.__setattr__(self, "init_kwargs", given)  # not as submodules of an nn.Module
        init(self, *args, **kwargs)

    vars(store_and_init)["__rebuildable__"] = True
    cls.__init__ = store_and_init  # type: ignore[method-assign]
    return cls


def is_rebuildable(cls: type) -> bool:
    """Check whether the constructor of `cls` was decorated by `rebuildable`."""
    init = cls.__init__  # type: ignore[misc]
    return isinstance(init, FunctionType) and "__rebuildable__" in vars(init)


def describe(obj: Any) -> dict[str, Any]:
    """Describe a rebuildable object: ``{"target": "pkg.module.Class", "kwargs": {...}}``.

    Arguments may be JSON values, tuples, non-finite numbers, Gymnasium spaces, activation classes
    of `torch.nn` and other rebuildable objects, nested in any way.

    Raises:
        SpecError: for a class that cannot be described; the message names it and the remedy.
    """
    cls = type(obj)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if not is_rebuildable(cls):
        raise SpecError(
            f"{name} cannot be rebuilt from a checkpoint: decorate it with @rebuildable"
        )
    if "." in cls.__qualname__:
        raise SpecError(f"{name} cannot be imported: define it at the top level of a module")
    return {"target": name, "kwargs": {k: _encode(v) for k, v in obj.init_kwargs.items()}}


def rebuild(spec: dict[str, Any], allow: Sequence[str] = ()) -> Any:
    """Make the object that `spec` describes.

    Args:
        spec: returned by `describe`.
        allow: packages or modules beside `firstlight` whose rebuildable classes may be called.

    Raises:
        SpecError: for a target outside of these, or one that does not exist or is not rebuildable.
    """
    match spec:
        case {"target": str(target), "kwargs": dict(kwargs)}:
            target = current(target)
            cls = _import(target, ("firstlight", *allow))
        case _:
            raise SpecError(f"not a description of an object: {spec!r:.200}")
    arguments = {key: _decode(value, allow) for key, value in kwargs.items()}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise SpecError(f"{target} does not accept the saved arguments: {error}") from None
    return cls(**arguments)


def with_new_keywords(spec: Any, added: Mapping[str, Mapping[str, Any]]) -> Any:
    """Add keywords to each description in `spec` of a class, where it has none of the name.

    Args:
        spec: returned by `describe`, or a part of it.
        added: by the class's import path.

    >>> with_new_keywords({"target": "a.B", "kwargs": {"n": 1}}, {"a.B": {"n": 0, "m": 2}})
    {'target': 'a.B', 'kwargs': {'n': 1, 'm': 2}}
    """
    if isinstance(spec, list):
        return [with_new_keywords(item, added) for item in spec]
    if not isinstance(spec, dict):
        return spec
    spec = {key: with_new_keywords(item, added) for key, item in spec.items()}
    match spec:
        case {"target": str(target), "kwargs": dict(kwargs)} if current(target) in added:
            missing = {k: v for k, v in added[current(target)].items() if k not in kwargs}
            return {**spec, "kwargs": {**kwargs, **missing}}
    return spec


def _import(target: str, allow: Sequence[str]) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    if not any(f"{module}.".startswith(f"{package}.") for package in allow):
        package = target.partition(".")[0]
        raise SpecError(
            f"{target} is not part of firstlight: if you trust it, pass allow=[{package!r}]"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"{target} cannot be imported: {error}") from error
    # a module also contains names that it imported: only classes defined in it are accepted
    own = isinstance(cls, type) and f"{cls.__module__}.{cls.__qualname__}" == target
    if not own or not is_rebuildable(cls):
        raise SpecError(f"{target} is not a class decorated with @rebuildable")
    return cls


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise SpecError(f"only dicts with string keys can be described, got {value!r:.200}")
        encoded = {key: _encode(item) for key, item in value.items()}
        return {"dict": encoded} if _TAGS & value.keys() else encoded
    if isinstance(value, spaces.Space):
        return _encode_space(value)
    if isinstance(value, type) and issubclass(value, nn.Module):
        if value.__module__ == _ACTIVATIONS:
            return {"class": f"{_ACTIVATIONS}.{value.__name__}"}
        raise SpecError(
            f"{value.__module__}.{value.__qualname__} is not an activation class of torch.nn"
        )
    return describe(value)


def _decode(value: Any, allow: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_decode(item, allow) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"target": _}:
            return rebuild(value, allow)
        case {"class": name}:
            return _activation(name)
        case {"space": _}:
            try:
                return _decode_space(value)
            except (LookupError, TypeError, AssertionError) as error:
                raise SpecError(f"not a description of a space: {value!r:.200}") from error
        case {"tuple": items}:
            return tuple(_decode(items, allow))
        case {"float": text}:
            return float(text)
        case {"dict": items}:
            return {key: _decode(item, allow) for key, item in items.items()}
    return {key: _decode(item, allow) for key, item in value.items()}


def _activation(name: str) -> type[nn.Module]:
    module, _, short = name.rpartition(".")
    cls: Any = getattr(nn.modules.activation, short, None)
    if module != _ACTIVATIONS or not isinstance(cls, type) or cls.__module__ != _ACTIVATIONS:
        raise SpecError(f"{name} is not an activation class of torch.nn")
    return cls


def _encode_space(space: spaces.Space) -> dict[str, Any]:
    kind = {"space": type(space).__name__}
    # exact types only: a subclass may have behaviour beyond its arguments
    if type(space) is spaces.Box:
        return {
            **kind,
            "low": _encode_bound(space.low, space.bounded_below, -math.inf),
            "high": _encode_bound(space.high, space.bounded_above, math.inf),
            "shape": list(space.shape),
            "dtype": np.dtype(space.dtype).name,
        }
    if type(space) is OptionalBox:
        return {**kind, **space.describe()}
    if type(space) is TextBytes:
        return {**kind, "size": int(space.shape[0])}
    if type(space) is spaces.Discrete:
        return {**kind, "n": int(space.n), "start": int(space.start)}
    if type(space) is spaces.MultiDiscrete:
        nvec, start = space.nvec.tolist(), space.start.tolist()
        return {**kind, "nvec": nvec, "start": start, "dtype": np.dtype(space.dtype).name}
    if type(space) is spaces.MultiBinary:
        return {**kind, "n": space.n if isinstance(space.n, int) else list(map(int, space.n))}
    if type(space) is spaces.Text:
        charset = "".join(sorted(space.character_set))
        lengths = {"min_length": space.min_length, "max_length": space.max_length}
        return {**kind, **lengths, "charset": charset}
    if type(space) is spaces.Dict:
        return {**kind, "spaces": {key: _encode_space(sub) for key, sub in space.spaces.items()}}
    if type(space) is spaces.Tuple:
        return {**kind, "spaces": [_encode_space(sub) for sub in space.spaces]}
    raise SpecError(f"a {type(space).__module__}.{type(space).__qualname__} cannot be described")


def _decode_space(spec: dict[str, Any]) -> spaces.Space:
    kind, given = spec["space"], {key: value for key, value in spec.items() if key != "space"}
    match kind:
        case "Box":
            dtype, shape = np.dtype(given["dtype"]), tuple(given["shape"])
            low, bounded_below = _decode_bound(given["low"], shape, dtype)
            high, bounded_above = _decode_bound(given["high"], shape, dtype)
            box = spaces.Box(low, high, shape, dtype.type)
            box.bounded_below, box.bounded_above = bounded_below, bounded_above
            return box
        case "Discrete" | "MultiBinary" | "Text":
            return getattr(spaces, kind)(**given)
        case "OptionalBox":
            return OptionalBox(**{**given, "shape": tuple(given["shape"])})
        case "TextBytes":
            return TextBytes(given["size"])
        case "MultiDiscrete":
            nvec, start = np.array(given["nvec"]), np.array(given["start"])
            return spaces.MultiDiscrete(nvec, dtype=np.dtype(given["dtype"]).type, start=start)
        case "Dict":  # pairs keep their order, a dict would be sorted
            return spaces.Dict([(key, _decode_space(sub)) for key, sub in given["spaces"].items()])
        case "Tuple":
            return spaces.Tuple([_decode_space(sub) for sub in given["spaces"]])
    raise SpecError(f"unknown kind of space {kind!r}")


def _encode_bound(bound: np.ndarray, bounded: np.ndarray, infinity: float) -> Any:
    """Encode a bound as one number if all elements share it, else as nested lists."""
    values = np.where(bounded, bound.astype(object), infinity)
    distinct = set(values.flat) or {0}
    return _encode(distinct.pop() if len(distinct) == 1 else values.tolist())


def _decode_bound(
    spec: Any, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a bound, and where it is finite; an infinite integer bound is the extreme value."""
    values = np.array(_decode(spec, ()), dtype=object)
    finite = np.vectorize(math.isfinite, otypes=[bool])(values)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        last = np.vectorize(lambda v: limits.min if v < 0 else limits.max, otypes=[object])(values)
        values = np.where(finite, values, last)
    return np.broadcast_to(values, shape).astype(dtype), np.broadcast_to(finite, shape).copy()
