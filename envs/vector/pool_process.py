"""A worker process of the pool as the process that trains sees it: begun, asked, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from multiprocessing import connection
from typing import Any

import numpy as np

from firstlight.envs.vector.isolated import WorkerDiedError
from firstlight.envs.vector.isolated_child import name_of, pack, unpack
from firstlight.envs.vector.pool_memory import Bell, Handle, nameless
from firstlight.envs.vector.pool_worker import Complaint, Line, Task, serve

START = 300.0  # seconds that environments may take to be made
GRACE = 5.0  # seconds that workers have to end by themselves
_NOBODY = np.zeros(0, np.int64)


class Worker:
    """A worker process, begun at once; `made` waits for its environments.

    Args:
        context: of multiprocessing.
        task: what it is to do.

    Attributes:
        asked: [M] int64, environments that the user acts on and has no answer of.
        stepped: those of them that the process itself answers for.
        ids: [M] int64, of all its environments.
        begins: whether it was asked to begin episodes.
        busy: whether it was asked and has not answered.
        deadline: by when it must, on the clock of `time.monotonic`.
        death: what it died of, if it did.
        complaints: of its environments, not yet dealt with.
    """

    def __init__(self, context: Any, task: Task):
        self.task, self.name = task, name_of(task.make)
        self.asked = self.stepped = _NOBODY
        self.ids = np.array(task.rows)
        self.busy, self.begins, self.deadline = False, False, 0.0
        self.death: str | None = None
        self.complaints: list[Complaint] = []
        self.pipe, theirs = context.Pipe()
        reader, writer = map(Handle, os.pipe())
        self._life, self._stack, self.go, self.done = writer, nameless(), Bell(), Bell()
        self.process = context.Process(
            target=serve,
            args=(task, Line(theirs, self.go, self.done, self._stack, reader)),
            name=f"firstlight: {self.name}, worker {task.index}",
        )
        try:
            self.process.start()
        except Exception as error:  # of whatever kind: that of the pickle module, and others
            self._free()
            if isinstance(error, OSError):
                raise
            raise ValueError(f"a process cannot be given {self.name}: {error}") from error
        finally:
            theirs.close()
            reader.close()

    def made(self) -> Any:
        """Spaces of observations and actions, once the environments are made.

        Raises:
            WorkerDiedError: if the process died instead.
            Exception: what the factory raised.
        """
        return self._answer("being made", START)

    def call(self, seconds: float, name: str, *args: Any) -> Any:
        """What the method `name` of its `Rows` answers.

        Raises:
            WorkerDiedError: if it died, or gave no answer in so many seconds.
            Exception: what the method raised.
        """
        with contextlib.suppress(OSError):  # of a dead worker; `_answer` finds out
            self.pipe.send((name, pack(args)))
        return self._answer(name, seconds)

    def _answer(self, doing: str, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            ready = connection.wait([self.pipe, self.process.sentinel], max(left, 0.0))
            try:
                if self.pipe not in ready:
                    raise EOFError
                said = self.pipe.recv()
            except (EOFError, OSError):
                cause = self.cause(None if ready else seconds)
                raise WorkerDiedError(f"{cause} in {doing}{self.last_words()}") from None
            if not isinstance(said, Complaint):
                break
            self.complaints.append(said)
        _, fine, answer = said
        if not fine:
            raise answer
        return unpack(answer)

    def read(self, count: int, seconds: float) -> None:
        """Read complaints until there are `count`; they were sent before the bell was rung."""
        while len(self.complaints) < count:
            if not self.pipe.poll(seconds):
                raise WorkerDiedError(f"worker {self.task.index} does not say what is wrong")
            self.complaints.append(self.pipe.recv())

    def cause(self, waited: float | None) -> str:
        """What a worker died of, or is to die of: no answer in `waited` seconds."""
        if waited is not None:
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, signal.SIGABRT)  # it says where it stood
        self.process.join(GRACE)
        code = self.process.exitcode
        cause = f"exit code {code}"
        if code is None or code < 0:
            cause = signal.Signals(-code if code else signal.SIGKILL).name
        late = "" if waited is None else f", for it gave no answer in {waited:g} s"
        return f"worker {self.task.index} of {self.name} died of {cause}{late}"

    def last_words(self) -> str:
        """Where its stack was when a fatal signal came, in a paragraph of its own."""
        said = os.pread(self._stack.fd, 10_000, 0).decode(errors="replace").strip()
        return f"\n{said}" if said else ""

    def kill(self) -> None:
        """End the process and what it started, without asking."""
        with contextlib.suppress(OSError):  # nobody is left
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(GRACE)
        self._free()

    @property
    def ears(self) -> tuple[int, int, int]:
        """Descriptors of its bell, its pipe, and its end."""
        return self.done.fd, self.pipe.fileno(), self.process.sentinel

    def _free(self) -> None:
        self.pipe.close()
        for end in (self._life, self._stack, self.go, self.done):
            end.close()
