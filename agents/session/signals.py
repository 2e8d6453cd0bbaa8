"""Signals that end a run once it is saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

END = (signal.SIGINT, signal.SIGTERM)
WARNING = (signal.SIGUSR1, signal.SIGUSR2)
"""Sent by Slurm and submitit some time before a job ends."""


class Signals:
    """Records SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 inside a ``with``, for the end of an iteration.

    A second SIGINT or SIGTERM ends the process at once. Handlers that were installed before, such
    as submitit's, are restored on leaving and get the signal from `dispatch`. In any thread but the
    main one it does nothing. May be entered again.

    Attributes:
        received: number of the signal that waits, or None.
        dispatching: name of the signal whose handler is running, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.dispatching: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.received = self.dispatching = None
        if threading.current_thread() is threading.main_thread():
            caught = [s for s in (*END, *WARNING) if signal.getsignal(s) is not signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._record) for s in caught}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def dispatch(self) -> None:
        """Pass the received signal on, now that everything is saved.

        Calls the handler that was installed before; if it returns, the run continues.

        Raises:
            KeyboardInterrupt: for SIGINT, if there was no such handler.
            SystemExit: for the others, with status 128 + the signal's number.
        """
        signum, self.received = self.received, None
        if signum is None:
            return
        self.dispatching = signal.Signals(signum).name
        before = self._before[signum]
        if callable(before) and before is not signal.default_int_handler:
            before(signum, None)
        else:
            _end(signum)
        self.dispatching = None

    def _record(self, signum: int, frame: FrameType | None) -> None:
        if self.received in END and signum in END:
            self._restore()
            _end(signum)
        if self.received not in END:
            self.received = signum
        text = f"\nfirstlight: {signal.Signals(signum).name}: saving after this iteration\n"
        with contextlib.suppress(OSError):  # of a terminal that was closed
            os.write(2, text.encode())  # not print: the signal may have come in the middle of one

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}


def _end(signum: int) -> None:
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
