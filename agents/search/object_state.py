"""Save and restore optimisers of other libraries: numbers, arrays and random generators."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

Path = tuple[str, ...]


class UnsavedError(TypeError):
    """An object holds something whose state cannot be saved."""


def object_state(root: Any, packages: Sequence[str], without: Sequence[Any] = ()) -> dict[str, Any]:
    """Collect the state of an object and of all that it holds.

    Objects of `packages` are walked into. What several of them share is saved once. Types,
    functions and the like are left to the constructor.

    Args:
        root: the object.
        packages: top-level packages whose objects are walked into.
        without: objects that are left out.

    Returns:
        Dotted path to None, a number, a text, an array, a list of these, or a generator's state.

    Raises:
        UnsavedError: naming an attribute that is none of these.
    """
    found: dict[str, Any] = {}
    _collect(root, (), tuple(packages), found, {id(part) for part in without})
    return found


def load_object_state(
    root: Any, state: dict[str, Any], packages: Sequence[str], without: Sequence[Any] = ()
) -> None:
    """Restore what `object_state` returned in an object that was made with the same arguments."""
    _restore(root, (), tuple(packages), state, {id(part) for part in without})


def _collect(
    owner: Any, path: Path, packages: tuple[str, ...], found: dict[str, Any], seen: set[int]
) -> None:
    if id(owner) in seen:
        return
    seen.add(id(owner))
    for name, value in _members(owner):
        key = ".".join((*path, name))
        if _is_walked(value, packages):
            _collect(value, (*path, name), packages, found, seen)
        elif isinstance(value, np.random.Generator):
            found[key] = value.bit_generator.state
        elif isinstance(value, np.random.RandomState):
            found[key] = list(value.get_state(legacy=True))
        elif isinstance(value, np.ndarray):
            found[key] = value.copy()
        elif isinstance(value, deque):
            found[key] = list(value)
        elif _is_plain(value):
            found[key] = value
        elif not _is_constant(value):
            raise UnsavedError(f"{key} is a {type(value).__name__}, whose state cannot be saved")


def _restore(
    owner: Any, path: Path, packages: tuple[str, ...], state: dict[str, Any], seen: set[int]
) -> None:
    if id(owner) in seen:
        return
    seen.add(id(owner))
    for name, value in _members(owner):
        key = ".".join((*path, name))
        if _is_walked(value, packages):
            _restore(value, (*path, name), packages, state, seen)
        elif isinstance(value, np.random.Generator):
            value.bit_generator.state = state[key]
        elif isinstance(value, np.random.RandomState):
            value.set_state(tuple(state[key]))
        elif key in state:
            new = state[key]
            if isinstance(value, deque):
                new = deque(new, maxlen=value.maxlen)
            elif isinstance(value, tuple):
                new = tuple(new)
            elif isinstance(value, np.ndarray) and new is not None:
                new = np.array(new, value.dtype)
            _set(owner, name, new)


def _members(owner: Any) -> list[tuple[str, Any]]:
    """Attributes of an object, or items of a dict or a list of objects, by name."""
    if isinstance(owner, dict):
        return [(str(key), value) for key, value in owner.items()]
    if isinstance(owner, list | tuple):
        return [(str(i), value) for i, value in enumerate(owner)]
    return list(vars(owner).items())


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    elif isinstance(owner, list):
        owner[int(name)] = value
    else:
        setattr(owner, name, value)


def _is_walked(value: Any, packages: tuple[str, ...]) -> bool:
    if isinstance(value, dict):
        return True
    if isinstance(value, list | tuple):
        return any(_is_walked(item, packages) for item in value)
    kind = type(value)
    return kind.__module__.partition(".")[0] in packages and not issubclass(kind, type)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) or isinstance(item, np.ndarray) for item in value)
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _is_constant(value: Any) -> bool:
    return callable(value) or isinstance(value, type | np.dtype) or type(value).__name__ == "module"
