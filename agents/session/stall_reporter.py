"""Process that records in ``status.json`` that a run has stalled.

`Watchdog` starts this file as a script, with the standard library only: ``python -I -S FILE
STATUS_JSON STALL_AFTER STAGE PARENT_PID``. Standard input carries heartbeats: the line ``alive``,
or ``stalled`` while a stage lasts longer than STALL_AFTER seconds. The run counts as stalled as
well when no heartbeat came for that long: then native code holds the GIL, so that no thread of the
run can report anything. STAGE is the descriptor of a file that holds the stage's name at any time.
The process ends at the line ``end``, at the end of its input, and when its parent is another
process than PARENT_PID.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

PATIENCE = 1.0
"""Seconds between two looks at whether the parent lives; its death also ends the input."""


class StatusFile:
    """Writes `stage` and `stalled` into a ``status.json`` that other processes write too.

    Args:
        path: of the file.
    """

    def __init__(self, path: str):
        self.path = path
        self._temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}.tmp"

    def mark(self, stage: str | None, stalled: bool, is_current: Callable[[], bool]) -> bool:
        """Replace both fields atomically, keep the others, and return whether that was done.

        Nothing is written where the file is missing or says that the run has ended, where it
        changed while its replacement was written, and where `is_current()` is false at the end.
        """
        try:
            before = self._read()
            status = json.loads(before)
            if status["status"] != "running":
                return False
            status |= {"stage": stage, "stalled": stalled}
            with open(self._temporary, "wb") as file:
                file.write((json.dumps(status, indent=2) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
            # the run writes its file without a lock, so this is read as late as possible
            if not is_current() or self._read() != before:
                return False
            os.replace(self._temporary, self.path)
            return True
        except (OSError, ValueError, TypeError, KeyError):
            return False  # tried again: a full disk may have room later
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def _read(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()


class Heartbeats:
    """Heartbeats of a run, read from a pipe.

    Args:
        descriptor: of the pipe.
        parent: process that writes to it.

    Attributes:
        stalled: what the last heartbeat says.
        heard: when it came.
        ended: the run needs no reporter any more, or has died.
    """

    def __init__(self, descriptor: int, parent: int):
        self.stalled, self.ended, self.heard = False, False, time.monotonic()
        self._descriptor, self._parent, self._rest = descriptor, parent, b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Read the heartbeats that have come; wait up to `seconds` for the first."""
        if not self._poll.poll(seconds * 1000):
            self.ended = os.getppid() != self._parent
            return
        data = os.read(self._descriptor, 1 << 16)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.heard = time.monotonic()
            self.stalled = line == b"stalled"
            self.ended |= line == b"end"

    def is_silent(self) -> bool:
        """Whether the run lives and no heartbeat waits to be read."""
        return not self._poll.poll(0) and os.getppid() == self._parent

    def is_alive(self) -> bool:
        """Whether the run lives and can write to the pipe."""
        closed = any(event & select.POLLHUP for _, event in self._poll.poll(0))
        return not closed and os.getppid() == self._parent


def read_stage(descriptor: int) -> str | None:
    """Return the name of the current stage of the run; None between stages."""
    return os.pread(descriptor, 1 << 10, 0).rstrip(b"\0").decode(errors="replace") or None


def report(path: str, stall_after: float, stage: int, parent: int) -> None:
    """Keep `stage` and `stalled` of the file up to date until the run ends."""
    file, run = StatusFile(path), Heartbeats(sys.stdin.fileno(), parent)
    written: tuple[str | None, bool] = (None, False)
    while True:
        left = run.heard + stall_after - time.monotonic()
        run.wait(min(left, PATIENCE) if left > 0 else PATIENCE)
        if run.ended:
            return
        silent = time.monotonic() - run.heard >= stall_after
        wanted = (read_stage(stage), True) if silent or run.stalled else (None, False)
        if wanted != written and file.mark(*wanted, run.is_silent if silent else run.is_alive):
            written = wanted


def main() -> None:
    """Read the arguments and report."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # sent to every process of a job; the run decides
    path, stall_after, stage, parent = sys.argv[1:]
    report(path, float(stall_after), int(stage), int(parent))


if __name__ == "__main__":
    main()
