"""Exit statuses and one-line error messages of the commands."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

FAILED, BAD_INPUT, OUT_OF_MEMORY, INTERRUPTED = 1, 2, 75, 130

CONF = Path(__file__).parents[1] / "conf"

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Environment variable: with the value 1, tracebacks of bad input are printed as well."""
_print_tracebacks = os.environ.get(FULL_ERROR) == "1"

ONE_LINE_ERRORS = {
    "NonFiniteError": FAILED,
    "CollectiveError": FAILED,
    "OutOfMemoryError": OUT_OF_MEMORY,
    "MemoryError": OUT_OF_MEMORY,
}
"""Class names of errors that are printed without a traceback, and their exit statuses."""

ENVIRONMENT_ERRORS = ("EnvironmentFaultError", "EnvironmentRaisedError")
"""Class names of errors that environments cause: one line, below the environment's own stack."""


class BadInputError(ValueError):
    """Invalid input of the user; the message says what would be valid."""


def report_errors(function: Callable[..., Any], *, is_job: bool = False) -> Callable[..., Any]:
    """Decorate a command to print user errors as one line on stderr and exit with status 2.

    An error of an environment is one as well; the stack in its own code is printed above the line.
    With ``HYDRA_FULL_ERROR=1`` in the environment the whole traceback is printed.

    In a job of a multirun such an error is printed and raised, so that the next job goes on.

    Args:
        function: the command.
        is_job: whether Hydra calls `function`, as one job; else `function` calls Hydra.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (BadInputError, HydraException, OmegaConfBaseException) as error:
            if _print_tracebacks:
                traceback.print_exc()
            print_line(f"firstlight: {one_line(error)}")
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            print_line("firstlight: interrupted")
            sys.exit(INTERRUPTED)
        except Exception as error:
            kind = type(error).__name__  # by name, so that this file does not import torch
            if kind in ENVIRONMENT_ERRORS:
                _print_environment_error(error)
                if is_job and in_multirun():
                    raise
                sys.exit(BAD_INPUT)
            if kind not in ONE_LINE_ERRORS or in_multirun():
                raise
            print_line(f"firstlight: {kind}: {one_line(error)}")
            sys.exit(ONE_LINE_ERRORS[kind])
        finally:
            _discard_unwritable_output()

    return wrapper


def _print_environment_error(error: Any) -> None:
    if _print_tracebacks:
        traceback.print_exception(error)
    elif error.frames:
        print_line(f"Stack of the environment:\n{error.frames.rstrip()}")
    print_line(f"firstlight: {one_line(error)}")


def in_multirun() -> bool:
    """Whether this is one job of a Hydra multirun, which goes on with the next after an error."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def print_line(text: str, stream: IO[str] | None = None) -> None:
    """Print a line, to standard error by default; a closed pipe is no error."""
    with contextlib.suppress(OSError):
        print(text, file=stream or sys.stderr, flush=True)


def _discard_unwritable_output() -> None:
    """Redirect closed output streams to ``/dev/null``, else Python exits with status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def one_line(error: Exception) -> str:
    """Format an error as one line; for an unknown name, with a suggestion."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        ours = [path.relative_to(CONF / group) for path in (CONF / group).rglob("*.yaml")]
        known = {path.with_suffix("").as_posix() for path in ours} | set(error.options or ())
        return f"there is no {group}={name}{suggestion(name, known)}"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        names = [str(key) for key in cause.parent_node if key != "hydra"]
        return f"there is no option {cause.full_key}{suggestion(str(cause.key), names)}"
    return " ".join(str(error).split())


def suggestion(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown `name`: the most similar known name, or all of them.

    >>> suggestion("lengthy", ["length", "horizon"])
    "; did you mean 'length'?"
    >>> suggestion("colour", ["length", "horizon"])
    '; choose from horizon, length'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; choose from {', '.join(known)}" if known else ""
