"""The child's side of `ChildProcess`: prepare the process, and answer method calls from a pipe."""

from __future__ import annotations

import copy
import io
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

CLOSE = "close"  # the call after which the child ends
UNREQUESTED = -1  # number of a message that answers no call

_CHECK_PARENT_SECONDS = 0.5
_PROTOCOL = 5  # of messages

Served = TypeVar("Served")


def prepare_child_process() -> None:
    """Ignore the signals that stop or save a run, and end when the parent process ends.

    A terminal sends Ctrl-C to the parent and its children; only the parent should act on it.
    """
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, _ignore)  # not SIG_IGN, which programs started from here would inherit
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _ignore(signum: int, frame: FrameType | None) -> None:
    pass


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_CHECK_PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def lead_process_group() -> None:
    """Start a process group, so that whatever this process starts can be killed with it."""
    os.setpgid(0, 0)


def serve_new(
    pipe: Any, make: Callable[[], Served], describe: Callable[[Served], Any]
) -> Served | None:
    """Make the object whose methods are to be called, and send its description.

    Returns:
        The object; None if `make` or `describe` raised, then the exception was sent.
    """
    try:
        served = make()
        description = describe(served)
    except Exception as error:
        reply(pipe, 0, False, portable(error))
        return None
    reply(pipe, 0, True, description)
    return served


def serve_call(
    pipe: Any, served: Any, functions: Mapping[str, Callable[..., Any]] | None = None
) -> bool:
    """Receive one call, and send its result or exception. Returns False for `CLOSE`.

    Args:
        pipe: to the parent.
        served: object whose method is called.
        functions: by name, called in place of a method of that name.

    Raises:
        EOFError: if the other end of `pipe` is closed.
        OSError: if it breaks.
    """
    number, name, args = loads(pipe.recv_bytes())
    if name == CLOSE:
        return False
    try:
        called = (functions or {}).get(name) or getattr(served, name)
        answer = True, called(*args)
    except Exception as error:
        answer = False, portable(error)
    reply(pipe, number, *answer)
    return True


def reply(pipe: Any, number: int, succeeded: bool, answer: Any) -> None:
    """Send a result or an exception; an exception in its place if it does not pickle.

    Args:
        pipe: to the parent.
        number: of the call.
        succeeded: whether `answer` is a result.
        answer: result or exception.
    """
    try:
        message = dumps((number, succeeded, answer))
    except Exception as error:
        text = f"cannot be sent: {answer!r}: {error}"
        message = dumps((number, False, RuntimeError(text)))
    pipe.send_bytes(message)


def portable(error: Exception) -> Exception:
    """Copy an exception for the parent process, with its traceback in a note."""
    try:
        copied = copy.copy(error)  # made again from its arguments, as unpickling will
    except Exception:
        copied = RuntimeError(f"{type(error).__name__}: {error}")
    stack = "".join(traceback.format_exception(error))
    copied.add_note(f"In the process of the environments:\n{stack}")
    return copied


def dumps(value: Any) -> bytes:
    """Serialise `value` as `Connection.send` does, but tensors as arrays, which is faster.

    >>> loads(dumps({"a": (torch.zeros(2), 3)}))
    {'a': (tensor([0., 0.]), 3)}
    """
    buffer = io.BytesIO()
    pickler: Any = ForkingPickler(buffer, _PROTOCOL)
    pickler.dispatch_table[Tensor] = _reduce_tensor  # a table of this pickler alone
    pickler.dump(value)
    return buffer.getvalue()


def loads(message: bytes) -> Any:
    """Return the value of a message of `dumps`."""
    return ForkingPickler.loads(message)


def _reduce_tensor(tensor: Tensor) -> tuple[Callable[[np.ndarray], Tensor], tuple[np.ndarray]]:
    return _tensor, (tensor.numpy(),)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)
