"""What every command does with bad input: one sentence and an exit status."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import IO, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

FAILED, BAD_INPUT, OUT_OF_MEMORY, INTERRUPTED = 1, 2, 75, 130

CONF = Path(__file__).parents[1] / "conf"

_FULL = "HYDRA_FULL_ERROR"
_wants_traceback = os.environ.get(_FULL) == "1"


_TOLD = {
    "NonFiniteError": FAILED,
    "OutOfMemoryError": OUT_OF_MEMORY,
    "MemoryError": OUT_OF_MEMORY,
}
"""Errors of a run that a sentence says all about, by name, and the exit status of each."""


class BadInputError(ValueError):
    """What the user asked for cannot be had; the message says what can."""


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a command of a function of a config: composes ``conf/{config_name}.yaml`` and runs it.

    As `hydra.main`, but what the user can mend, Hydra's own complaints too, becomes one line.
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        compose = hydra.main(
            version_base="1.3", config_path="pkg://firstlight.conf", config_name=config_name
        )

        @wraps(task)
        def ready(config: DictConfig) -> None:
            with signals_wait():
                importlib.import_module("firstlight.agents")
            task(config)

        composed = compose(reports_bad_input(ready))  # Hydra would print a line of its own first

        @wraps(task)
        def main() -> None:
            before = os.environ.get(_FULL)
            os.environ[_FULL] = "1"  # Hydra then raises its errors instead of printing them
            try:
                with signals_end():
                    composed()
            finally:
                os.environ.pop(_FULL)
                os.environ.update({} if before is None else {_FULL: before})

        return reports_bad_input(main)

    return decorate


@contextlib.contextmanager
def signals_end() -> Iterator[None]:
    """Have SIGINT and SIGTERM end what is inside, whatever becomes of what their handler raises.

    OmegaConf's code, for one, turns it into an error of its own where it is interrupted. Signals
    that somebody else listens to, or that are ignored, stay so.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: with status 143, for SIGTERM.
    """
    came: list[int] = []
    heard = {}

    def end(signum: int, frame: FrameType | None = None) -> None:
        came.append(signum)
        raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)

    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(name) in (signal.SIG_DFL, signal.default_int_handler):
                heard[name] = signal.signal(name, end)
    try:
        yield
    finally:
        for name, handler in heard.items():
            signal.signal(name, handler)
        if came and getattr(sys.exc_info()[1], "code", None) != 128 + came[0]:
            end(came[0])


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until this is left, for imports of compiled modules.

    What a handler raises there goes through C++, which may abort the process.
    """
    came: list[int] = []
    heard = {}
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(name)):  # neither ignored nor the system's own
                heard[name] = signal.signal(name, lambda signum, _: came.append(signum))
    try:
        yield
    finally:
        for name, handler in heard.items():
            signal.signal(name, handler)
    for signum in came[:1]:
        signal.raise_signal(signum)


def reports_bad_input(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error that the user can mend into one line on stderr and exit status 2.

    With ``HYDRA_FULL_ERROR=1`` in the environment the traceback is shown as well.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (BadInputError, HydraException, OmegaConfBaseException) as error:
            if _wants_traceback:
                traceback.print_exc()
            say(f"firstlight: {sentence(error)}")
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            say("firstlight: interrupted")
            sys.exit(INTERRUPTED)
        except Exception as error:
            kind = type(error).__name__  # this file does without torch
            if kind not in _TOLD or inside_a_sweep():
                raise
            say(f"firstlight: {kind}: {sentence(error)}")
            sys.exit(_TOLD[kind])
        finally:
            _let_go()

    return wrapper


def inside_a_sweep() -> bool:
    """Whether this is one job of several: Hydra goes on with the next after an error."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def say(text: str, stream: IO[str] | None = None) -> None:
    """Print a line, to standard error by default; whoever listened may be gone."""
    with contextlib.suppress(OSError):
        print(text, file=stream or sys.stderr, flush=True)


def _let_go() -> None:
    """Give up output that nobody takes, or Python would end with a status of its own for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def sentence(error: Exception) -> str:
    """`error` in one line; for a name that is not there, with the nearest that is."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        ours = [path.relative_to(CONF / group) for path in (CONF / group).rglob("*.yaml")]
        known = {path.with_suffix("").as_posix() for path in ours} | set(error.options or ())
        return f"there is no {group}={name}{nearest(name, known)}"
    cause = error.__cause__
    parent = getattr(cause, "parent_node", None)
    if isinstance(cause, OmegaConfBaseException) and isinstance(parent, DictConfig):
        names = [str(key) for key in parent if key != "hydra"]
        return f"there is no option {cause.full_key}{nearest(str(cause.key), names)}"
    return " ".join(str(error).split())


def nearest(name: str, known: Iterable[str]) -> str:
    """How a sentence about an unknown `name` ends: by the most similar `known` one, or by all.

    >>> nearest("lengthy", ["length", "horizon"])
    "; did you mean 'length'?"
    >>> nearest("colour", ["length", "horizon"])
    '; there are horizon, length'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""
