"""A worker process of the pool, as the main process sees it."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from firstlight.envs.vector.child_process import ChildProcess, WorkerDiedError, name_of
from firstlight.envs.vector.child_service import UNREQUESTED
from firstlight.envs.vector.pool_memory import EventNotifier, FileHandle, memfd
from firstlight.envs.vector.pool_worker import (
    EnvironmentFailure,
    WorkerChannels,
    WorkerTask,
    run_worker,
)

_NO_IDS = np.zeros(0, np.int64)
_LONGEST_TRACEBACK = 10_000  # bytes


class WorkerProcess(ChildProcess):
    """A worker process, started at once; its first `result` waits for its environments.

    Args:
        context: of multiprocessing.
        task: what the worker is to do.

    Attributes:
        env_ids: [M] int64, all environments of this worker.
        pending: [M] int64, environments that were sent to and not received.
        stepping: [M] int64, those of them whose results the process itself writes.
        resetting: whether the last command was a reset.
        busy: whether the process has a command that it has not finished.
        deadline: of that command, on the clock of `time.monotonic`.
        failures: of its environments, not yet counted.
    """

    def __init__(self, context: Any, task: WorkerTask):
        self.task, self.env_ids = task, np.array(task.env_ids)
        self.pending = self.stepping = _NO_IDS
        self.busy, self.resetting, self.deadline = False, False, 0.0
        self.failures: list[EnvironmentFailure] = []
        alive_reader, self._alive_writer = map(FileHandle, os.pipe())
        self._traceback, self.start, self.done = memfd(), EventNotifier(), EventNotifier()
        channels = WorkerChannels(self.start, self.done, self._traceback, alive_reader)
        name = name_of(task.make)
        try:
            super().__init__(
                context,
                run_worker,
                (task, channels),
                factory_name=name,
                label=f"worker {task.index} of {name}",
            )
        except Exception:
            self._close_files()
            raise
        finally:
            alive_reader.close()

    def command(self, *, resetting: bool, seconds: float) -> None:
        """Start the commands for `stepping` that were written to shared memory.

        Args:
            resetting: whether they are resets.
            seconds: time limit for all of them together.
        """
        self.resetting, self.busy = resetting, True
        self.deadline = time.monotonic() + seconds
        self.start.notify()

    def receive(self) -> tuple[int, bool, Any]:
        """Receive one message; a failure of an environment is also added to `failures`."""
        message = super().receive()
        if message[0] == UNREQUESTED:
            self.failures.append(message[2])
        return message

    def receive_failures(self, count: int, seconds: float) -> None:
        """Receive failures until there are `count`; they were sent before `done` was notified.

        Raises:
            WorkerDiedError: if one does not arrive within `seconds`.
        """
        while len(self.failures) < count:
            if not self.pipe.poll(seconds):
                raise WorkerDiedError(f"{self.label} sent no message about {count} exceptions")
            self.receive()

    def crash_traceback(self) -> str:
        """Traceback at a fatal signal, in a paragraph of its own; "" if there was none."""
        text = os.pread(self._traceback.fd, _LONGEST_TRACEBACK, 0).decode(errors="replace").strip()
        return f"\n{text}" if text else ""

    def kill(self) -> None:
        """Kill the process and all processes that it started; may be called twice."""
        super().kill()
        self._close_files()

    @property
    def file_descriptors(self) -> tuple[int, int, int]:
        """Descriptors that have an event when it has finished, sends a message, or has ended."""
        return self.done.fd, self.pipe.fileno(), self.process.sentinel

    def _close_files(self) -> None:
        for handle in (self._alive_writer, self._traceback, self.start, self.done):
            handle.close()
