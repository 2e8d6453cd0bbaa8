"""Signals that ask a run to end: it saves first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

ASKS = (signal.SIGINT, signal.SIGTERM)
WARNS = (signal.SIGUSR1, signal.SIGUSR2)
"""What Slurm and submitit send some time before a job's end."""


class Signals:
    """Notes SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 while inside, for the end of the iteration.

    A second SIGINT or SIGTERM does not wait. What was installed before, say by submitit, comes back
    on leaving, and gets the signal from `obey`. Elsewhere than in the main thread it does nothing.

    Attributes:
        received: number of the signal that asks to end, None without one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            heard = [s for s in (*ASKS, *WARNS) if signal.getsignal(s) is not signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._note) for s in heard}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def obey(self) -> None:
        """Do what the received signal asks for, now that everything is saved.

        Whoever listened before us is told, and if that returns, the run goes on; otherwise this
        raises KeyboardInterrupt for SIGINT, else SystemExit with status 128 + the signal's number.
        """
        signum, self.received = self.received, None
        if signum is None:
            return
        before = self._before[signum]
        if callable(before) and before is not signal.default_int_handler:
            before(signum, None)
        else:
            _end(signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received in ASKS and signum in ASKS:
            self._restore()
            _end(signum)
        if self.received not in ASKS:
            self.received = signum
        text = f"\nfirstlight: {signal.Signals(signum).name}: saving after this iteration\n"
        with contextlib.suppress(OSError):  # of a terminal that is gone
            os.write(2, text.encode())  # not print: the signal may have come in the middle of one

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}


def _end(signum: int) -> None:
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
