"""When EnvPool's threads sleep: only then is it safe to free a pool."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TASKS = Path("/proc/self/task")


class Freed:
    """Stands where a pool was; whoever asks it for anything is told that it is closed."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("this vector of environments is closed")


def threads() -> set[int]:
    """Ids of this process's threads; none where the system does not list them."""
    with contextlib.suppress(OSError):
        return {int(name) for name in os.listdir(_TASKS)}
    return set()


def wait_asleep(ids: Iterable[int], seconds: float = 5.0) -> bool:
    """Wait until each thread of `ids` sleeps or has ended. Returns whether they do.

    A thread of EnvPool 1.2.5 keeps a stock of buffers. A pool that is freed sets a flag and takes
    one more buffer, without letting go of Python's lock. Was the thread interrupted after it had
    put its first buffer there, and did a `recv` take that one, then it sees the flag, puts no
    other, and the process stands still for ever. Once it sleeps, its stock is full.
    """
    if not _TASKS.exists():
        time.sleep(0.01)  # it needs some microseconds
        return True
    deadline = time.monotonic() + seconds
    for i in ids:
        while _state(i) not in ("S", ""):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
    return True


def _state(id: int) -> str:
    """Letter of a thread's state, such as R (runs, or could) and S (sleeps); "" at its end."""
    with contextlib.suppress(OSError):
        return (_TASKS / str(id) / "stat").read_text().rpartition(")")[2].split()[0]
    return ""
