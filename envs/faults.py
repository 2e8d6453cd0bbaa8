"""Errors that environments cause, each told in one sentence."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import torch

import firstlight

_OURS = str(Path(firstlight.__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")
_PACKAGES = ("site-packages", "dist-packages")
_FRAMEWORKS = ("gymnasium", "hydra", "omegaconf", "numpy", "torch", "numba")


class EnvironmentFaultError(ValueError):
    """An environment breaks the API of Gymnasium or `VecEnv`; the message is one sentence."""

    frames: str = ""


class EnvironmentRaisedError(RuntimeError):
    """The code of an environment raised an exception; the message is one sentence.

    Args:
        message: the sentence, or an error of this class to copy, as Gymnasium does.
        frames: stack of the exception in the environment's own code, as text; "" if none is known.
    """

    def __init__(self, message: Any, frames: str = ""):
        super().__init__(str(message))
        self.frames: str = message.frames if isinstance(message, EnvironmentRaisedError) else frames


_PASSED_ON = (EnvironmentFaultError, EnvironmentRaisedError, MemoryError, torch.OutOfMemoryError)


def raise_for_environment(error: Exception, where: str, doing: str) -> NoReturn:
    """Raise an exception that came out of an environment's code, as `EnvironmentRaisedError`.

    Errors of this module, errors for lack of memory, and errors of firstlight's own code are raised
    unchanged.

    Args:
        error: what was caught.
        where: names the environment, such as "environment 3 (mine.Env)".
        doing: what it was doing, such as "in step".
    """
    if isinstance(error, _PASSED_ON) or is_ours(error):
        raise error
    stack = _own_frames(error)
    inner = [frame for frame in stack if _home(frame) == _home(stack[0])]
    at = f", {inner[-1].filename}, line {inner[-1].lineno}" if inner else ""
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    known = isinstance(error, ImportError | gymnasium.error.Error)  # its message says what to do
    frames = "" if known else "".join(traceback.format_list(stack))
    raise EnvironmentRaisedError(f"{where} raised {what} ({doing}{at})", frames) from error


def is_ours(error: Exception) -> bool:
    """Whether an exception comes from firstlight's own code, without an environment's in between.

    An exception of the very call into the environment, such as one for a missing argument, is not.
    """
    stack = traceback.extract_tb(error.__traceback__)
    return len(stack) > 1 and _is_ours(stack[-1]) and not _own_frames(error)


def class_name(value: Any) -> str:
    """Name the class of `value` with its module.

    >>> class_name(Path("."))
    'pathlib.PosixPath'
    """
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _own_frames(error: Exception) -> list[traceback.FrameSummary]:
    """Frames from the first in the environment's code on, without those of frameworks."""
    stack = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(stack) if _is_foreign(frame)), len(stack))
    return [f for f in stack[first:] if not _is_ours(f) and _package(f) not in _FRAMEWORKS[:3]]


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return Path(_OURS) in Path(frame.filename).parents


def _is_foreign(frame: traceback.FrameSummary) -> bool:
    """Whether a frame is in nobody's code but an environment's."""
    package = _package(frame)
    if package is None:
        standard = frame.filename.startswith((_STDLIB, "<frozen"))
        return not standard and not _is_ours(frame)
    return package not in _FRAMEWORKS


def _package(frame: traceback.FrameSummary) -> str | None:
    """Name of the installed package that a frame is in; "" for an environment of Gymnasium."""
    parts = Path(frame.filename).parts
    for i, part in enumerate(parts[:-1]):
        if part in _PACKAGES:
            bundled = parts[i + 1 : i + 3] == ("gymnasium", "envs") and len(parts) > i + 4
            return "" if bundled else parts[i + 1]
    return None


def _home(frame: traceback.FrameSummary) -> str:
    """Folder or package of a frame."""
    return _package(frame) or str(Path(frame.filename).parent)
