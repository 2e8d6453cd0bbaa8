"""Wait until EnvPool's threads sleep, because freeing a pool before can hang the process."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TASKS = Path("/proc/self/task")


class ClosedPool:
    """Stand-in for a freed pool; any use of it raises ValueError."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("this vector environment is closed: call reset(seed) to open it again")


def threads() -> set[int]:
    """Ids of this process's threads; none if the system does not list them."""
    with contextlib.suppress(OSError):
        return {int(name) for name in os.listdir(_TASKS)}
    return set()


def wait_asleep(ids: Iterable[int], seconds: float = 5.0) -> bool:
    """Wait until each thread of `ids` sleeps or has ended. Returns False after `seconds`.

    A thread of EnvPool 1.2.5 keeps a queue of buffers filled. Freeing a pool sets a stop flag and
    takes one more buffer from the queue, while it holds Python's lock. If the thread was
    interrupted after its first buffer, and a `recv` has taken that buffer, it sees the flag, adds
    no other, and the process waits for ever. A thread that sleeps has filled its queue.
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
