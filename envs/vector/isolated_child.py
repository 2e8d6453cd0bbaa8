"""The child's side of `Isolated`, and the form in which values go through the pipe."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import faulthandler
import functools
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.replay import _become_worker

ATTRIBUTES = (
    *("num_envs", "obs_space", "info_space", "act_space"),
    *("success_threshold", "resume", "reported"),
)
"""Attributes of the environments that `Isolated` takes over from its child."""

_GRACE = 5.0  # seconds that a child has to end by itself


class _Array(NamedTuple):
    """A tensor on its way."""

    array: np.ndarray


class _Fields(NamedTuple):
    """A dataclass such as `Step` on its way."""

    made: type
    values: dict[str, Any]


def pack(value: Any) -> Any:
    """Tensors to arrays, inside of dicts, sequences and dataclasses; the rest stays."""
    if isinstance(value, Tensor):
        return _Array(value.numpy())
    if isinstance(value, dict):
        return {key: pack(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(pack, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return _Fields(type(value), {name: pack(getattr(value, name)) for name in names})
    return value


def unpack(value: Any) -> Any:
    """What was packed.

    >>> unpack(pack({"a": (torch.zeros(2), 3)}))
    {'a': (tensor([0., 0.]), 3)}
    """
    if isinstance(value, _Array):
        return torch.from_numpy(value.array)
    if isinstance(value, _Fields):
        return value.made(**unpack(value.values))
    if isinstance(value, dict):
        return {key: unpack(inner) for key, inner in value.items()}
    return type(value)(map(unpack, value)) if type(value) in (list, tuple) else value


def name_of(factory: Any) -> str:
    """Of a factory, with what it is given.

    >>> name_of(functools.partial(dict, size=2))
    'dict(size=2)'
    """
    if not isinstance(factory, functools.partial):
        return getattr(factory, "__name__", repr(factory))
    said = [repr(arg) for arg in factory.args]
    said += [f"{key}={value!r}" for key, value in factory.keywords.items()]
    return f"{getattr(factory.func, '__name__', factory.func)}({', '.join(said)})"


def serve(pipe: Any, factory: Callable[[], VecEnv]) -> None:
    """Make the environments, say what they are like, and answer for them until the pipe closes.

    Args:
        pipe: carries (number, name of a method, packed arguments) in, and (number, whether it went
            well, packed result or exception) out.
        factory: of the environments.
    """
    _become_worker()
    os.setpgid(0, 0)  # what the environments start belongs to the same group, and ends with it
    faulthandler.enable()
    torch.set_num_threads(1)
    try:
        vec = factory()
        _say(pipe, 0, True, {name: getattr(vec, name) for name in ATTRIBUTES})
    except Exception as error:
        _say(pipe, 0, False, _portable(error))
        return
    with contextlib.suppress(EOFError, OSError):  # nobody asks any more
        while True:
            number, name, args = pipe.recv()
            if name == "close":
                break
            try:
                answer = True, pack(getattr(vec, name)(*unpack(args)))
            except Exception as error:
                answer = False, _portable(error)
            _say(pipe, number, *answer)
    vec.close()


def end(process: Any, pipe: Any) -> None:
    """Ask a child to end, wait a little, kill it and all that it started; may be called again."""
    with contextlib.suppress(OSError):  # it is dead
        pipe.send((0, "close", []))
    process.join(_GRACE)
    with contextlib.suppress(OSError):  # nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
        process.join()
    pipe.close()


def _say(pipe: Any, number: int, fine: bool, answer: Any) -> None:
    try:
        pipe.send((number, fine, answer))
    except OSError:
        raise
    except Exception as error:  # it does not pickle
        pipe.send((number, False, RuntimeError(f"cannot be sent: {answer!r}: {error}")))


def _portable(error: Exception) -> Exception:
    """An exception as it can travel, its stack in a note."""
    try:
        told = copy.copy(error)  # made anew from its arguments, as the other side will
    except Exception:
        told = RuntimeError(f"{type(error).__name__}: {error}")
    stack = "".join(traceback.format_exception(error))
    told.add_note(f"In the process of the environments:\n{stack}")
    return told
