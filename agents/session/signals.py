"""Signals that end a run once it is saved."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from firstlight.networks import collective

END = (signal.SIGINT, signal.SIGTERM)
WARNING = (signal.SIGUSR1, signal.SIGUSR2)
"""Sent by Slurm and submitit some time before a job ends."""

GRACE_SECONDS = 10.0
"""Time that the current iteration has to end after a signal, before it is abandoned."""
FORCE_SECONDS = 20.0
"""Time after a signal when a main thread that runs no Python code, as in C++, is given up."""
PATIENCE = 5.0
"""Seconds that the run waits at most for the thread to end."""


class Interrupted(BaseException):
    """Raised in the main thread to abandon its current work, because of a signal to end the run.

    Not an `Exception`, so that no environment, network or callback handles it by mistake.
    """


class Signals:
    """Records SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 inside a ``with``, for the end of an iteration.

    A thread learns of each signal as well, by Python's wakeup descriptor. If the signal is not
    dispatched within `GRACE_SECONDS`, the thread sends it to the main thread again, whose handler
    then raises `Interrupted` wherever that thread is, outside of `hold`. If the main thread handles
    nothing for `FORCE_SECONDS`, because it is in C++ all the time, the thread calls `force`.

    A second SIGINT or SIGTERM ends the process at once, unless the run has several processes: there
    a scheduler and torchrun each send one. Handlers that were installed before, such
    as submitit's, are restored on leaving and get the signal from `dispatch`. In any thread but the
    main one it does nothing. May be entered again.

    Args:
        force: saves what it can and ends the process.

    Attributes:
        received: number of the signal that waits, or None.
        dispatching: name of the signal whose handler is running, or None.
    """

    def __init__(self, force: Callable[[int], None] | None = None) -> None:
        self.received: int | None = None
        self.dispatching: str | None = None
        self._force = force
        self._before: dict[int, Any] = {}
        self._holds = 0
        self._repeated = False  # the next signal is our own thread's
        self._writer = self._wakeup = -1  # descriptors: ours, and the one of before
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a handler may run while its thread holds it

    def __enter__(self) -> Signals:
        self.received = self.dispatching = None
        if threading.current_thread() is threading.main_thread():
            caught = [s for s in (*END, *WARNING) if signal.getsignal(s) is not signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._record) for s in caught}
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._thread = threading.Thread(
                target=self._wait_for_signals,
                args=(reader, threading.get_ident()),
                name="firstlight-signals",
                daemon=True,
            )
            self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            self._thread = None

    @property
    def caught(self) -> bool:
        """Whether signals are recorded: inside the ``with``, in the main thread."""
        return bool(self._before)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Raise no `Interrupted` inside, as while files are written."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received, for loops that may stop at any step."""
        if self.received is not None and not self._holds:
            raise Interrupted

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
        before = self._before.get(signum)  # None if another process received it
        if callable(before) and before is not signal.default_int_handler:
            before(signum, None)
        else:
            _end(signum)
        self.dispatching = None

    def _record(self, signum: int, frame: FrameType | None) -> None:
        if self._repeated:
            self._repeated = False
            self.check()
            return
        if self.received in END and signum in END and collective.size() == 1:
            self._restore()
            _end(signum)
        if self.received not in END:
            self.received = signum
        text = f"\nfirstlight: {signal.Signals(signum).name}: saving after this iteration\n"
        with contextlib.suppress(OSError):  # of a terminal that was closed
            # not print: the signal may have come in the middle of one; nothing if nobody reads
            if select.select([], [2], [], 0)[1]:
                os.write(2, text.encode())

    def _wait_for_signals(self, reader: int, main: int) -> None:
        """Wait for signals until the ``with`` is left; a thread of its own."""
        while (numbers := os.read(reader, 64)) and self._before:
            if numbers[-1] in self._before:
                self._press(numbers[-1], main)
        os.close(reader)

    def _press(self, signum: int, main: int) -> None:
        """Repeat a signal from `GRACE_SECONDS` on until the main thread has dispatched it."""
        began, repeats = time.monotonic(), 0
        while self._wait(min(1.0, GRACE_SECONDS) if repeats else GRACE_SECONDS):
            if self._repeated:  # the main thread has not run the handler since
                if time.monotonic() - began >= FORCE_SECONDS and not self._holds and self._force:
                    self._force(signum)
            elif repeats and self.received is None:
                return
            with self._lock:
                if self._before:
                    self._repeated, repeats = True, repeats + 1
                    signal.pthread_kill(main, signum)

    def _wait(self, seconds: float) -> bool:
        """Wait for so long; whether signals are still recorded then."""
        until = time.monotonic() + seconds
        while self._before and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return bool(self._before)

    def _restore(self) -> None:
        """Install the handlers of before, and end the thread."""
        with self.hold(), self._lock:
            before, self._before = self._before, {}
            self._repeated = False
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if before:
            signal.set_wakeup_fd(self._wakeup)
            with contextlib.suppress(OSError):  # full: the thread is about to read it anyway
                os.write(self._writer, b"\0")  # closing is not enough where a fork holds it open
            os.close(self._writer)


def _end(signum: int) -> None:
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
