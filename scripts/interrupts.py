"""SIGINT and SIGTERM while a command imports modules and composes its config."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def end_on_signal() -> Iterator[None]:
    """End the block on SIGINT or SIGTERM, even if code inside replaces the handler's exception.

    OmegaConf, for example, turns an exception raised inside it into an error of its own. Signals
    that are ignored or already have a handler are left alone.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: with status 143, for SIGTERM.
    """
    received: list[int] = []
    replaced = {}

    def end(signum: int, frame: FrameType | None = None) -> None:
        received.append(signum)
        raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                replaced[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        error = sys.exc_info()[1]
        ended = isinstance(error, SystemExit) and received and error.code == 128 + received[0]
        if received and not ended:
            end(received[0])


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM only after the block, for imports of compiled modules.

    An exception that a signal handler raises there passes through C++, which may abort the process.
    """
    received: list[int] = []
    replaced = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if callable(signal.getsignal(number)):  # neither ignored nor the default action
                replaced[number] = signal.signal(number, lambda signum, _: received.append(signum))
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
    for signum in received[:1]:
        signal.raise_signal(signum)
