"""Lock of a run directory, so that two processes never write into it."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from firstlight.agents.session.run_directory.files import write_json

LOCK, HOLDER = "run.lock", "run_lock.json"
"""Names of the files in a run directory: the lock itself, and who has it."""

WAIT_SECONDS = 3.0
"""Time to wait for the lock: the run of a job that was killed may end while the next one starts."""


class RunLockedError(OSError):
    """Another process writes into the run directory; the message names it."""


class RunLock:
    """Lock of the run directory `path`, held from `acquire` until `release` or the process's death.

    The operating system frees the lock of a process that ends, however it ends.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path / LOCK, thread_local=False)

    def acquire(self) -> None:
        """Take the lock, if this object does not have it, and record this process as its holder.

        Raises:
            RunLockedError: if another process has it.
        """
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(timeout=WAIT_SECONDS)
        except Timeout:
            raise RunLockedError(
                f"{self.path} is in use by {_holder(self.path)}: wait for its end, stop it, or "
                "give another run_dir"
            ) from None
        holder = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(self.path / HOLDER, holder)

    def release(self) -> None:
        """Free the lock; may be called again."""
        if self._lock.is_locked:
            (self.path / HOLDER).unlink(missing_ok=True)
            self._lock.release()


def _holder(path: Path) -> str:
    """Describe the process that has the lock; it writes its name right after it took the lock."""
    for _ in range(20):
        try:
            found = json.loads((path / HOLDER).read_text(encoding="utf-8"))
            this = ", this process" if found["process"] == os.getpid() else ""
            return f"process {found['process']} on {found['host']}{this}, since {found['since']}"
        except (OSError, ValueError, LookupError, TypeError):
            time.sleep(0.05)
    return "another process"
