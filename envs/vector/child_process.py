"""Call methods of an object in a child process, and end the process; `child_service` answers."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import reprlib
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection
from typing import Any

from firstlight.envs.vector.child_service import CLOSE, UNREQUESTED, dumps, loads

START_SECONDS = 300.0  # time limit for making the environments of a process
SHUTDOWN_SECONDS = 5.0  # time that processes have to end after `CLOSE`


class WorkerDiedError(ChildProcessError):
    """The process that ran the environments died: too often in a row, or outside of a step."""


class ChildProcess:
    """A process that makes one object, such as environments, and calls its methods on request.

    Args:
        context: of multiprocessing.
        target: function to run in the process, with its end of the pipe and `args`; it answers by
            `child_service.serve_new` and `serve_call`.
        args: further arguments of `target`; they must pickle.
        factory_name: of what makes the object, see `name_of`; for messages.
        label: what messages call the process.

    Attributes:
        pipe: this process's end of the pipe.
        process: of multiprocessing.
        death: error that `result` raises once the process is known to be dead; else None.

    Raises:
        ValueError: if `args` cannot be pickled.
    """

    def __init__(
        self,
        context: Any,
        target: Callable[..., None],
        args: Sequence[Any],
        *,
        factory_name: str,
        label: str,
    ):
        self.label, self._calls = label, 0
        self._method: str = "being made"
        self._args: tuple[Any, ...] = ()
        self.death: WorkerDiedError | None = None
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(
            target=target, args=(child_pipe, *args), name=f"firstlight: {label}"
        )
        try:
            self.process.start()
        except Exception as error:  # the pickle module raises several kinds
            self.pipe.close()
            if isinstance(error, OSError):
                raise
            raise ValueError(f"a process cannot be given {factory_name}: {error}") from error
        finally:
            child_pipe.close()

    def call(self, method: str, *args: Any) -> None:
        """Request a call of `method`; `result` waits for what it returns."""
        self._calls += 1
        self._method, self._args = method, args
        with contextlib.suppress(OSError):  # the process is dead; `result` finds out
            self.pipe.send_bytes(dumps((self._calls, method, args)))

    def result(self, seconds: float | None) -> Any:
        """Wait for the result of the last `call`, or before the first for the object's description.

        Args:
            seconds: time limit, after which the process is aborted; None for none.

        Raises:
            WorkerDiedError: if the process died or exceeded the time limit.
            Exception: what the method raised.
        """
        if self.death is not None:
            raise self.death
        deadline = None if seconds is None else time.monotonic() + seconds
        number = UNREQUESTED
        while number != self._calls:  # results of calls that an exception cut short are skipped
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = connection.wait([self.pipe, self.process.sentinel], left)
            try:
                if self.pipe not in ready:
                    raise EOFError
                number, succeeded, answer = self.receive()
            except (EOFError, OSError):
                waited = None if ready else seconds
                raise self.set_death(f"in {self._describe_call()}", waited) from None
        if not succeeded:
            raise answer
        return answer

    def receive(self) -> tuple[int, bool, Any]:
        """Receive one message: number of the call, whether it succeeded, result or exception."""
        return loads(self.pipe.recv_bytes())

    def set_death(self, doing: str, waited: float | None = None) -> WorkerDiedError:
        """Set `death` to what ended the process; abort it first if it exceeded a time limit.

        Args:
            doing: what the process was doing, such as "in reset".
            waited: the time limit that it exceeded, in seconds; None if it ended by itself.
        """
        if waited is not None:
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, signal.SIGABRT)  # faulthandler writes its stack
        self.process.join(SHUTDOWN_SECONDS)
        code = self.process.exitcode
        cause = f"exit code {code}"
        if code is None or code < 0:
            cause = signal.Signals(-code if code else signal.SIGKILL).name
        late = "" if waited is None else f", for it gave no answer in {waited:g} s"
        stack = self.crash_traceback()
        self.death = WorkerDiedError(f"{self.label} died of {cause}{late} {doing}{stack}")
        return self.death

    def crash_traceback(self) -> str:
        """Traceback at a fatal signal, in a paragraph of its own; "" where none was recorded."""
        return ""

    def _describe_call(self) -> str:
        if self._method != "step":
            return self._method
        return f"step with actions {reprlib.repr(self._args[0].tolist())}"

    def request_end(self) -> None:
        """Ask the process to close what it made and end."""
        with contextlib.suppress(OSError):  # it is dead
            self.pipe.send_bytes(dumps((0, CLOSE, ())))

    def kill(self) -> None:
        """Kill the process and all processes that it started; may be called twice."""
        with contextlib.suppress(OSError):  # none is left
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(SHUTDOWN_SECONDS)
        self.pipe.close()


def end_all(children: Sequence[ChildProcess], seconds: float = SHUTDOWN_SECONDS) -> None:
    """Ask processes to end, wait `seconds` for all of them together, and kill the rest."""
    try:
        for child in children:
            child.request_end()
        join_all([child.process for child in children], seconds)
    finally:  # also when a signal interrupts the wait
        for child in children:
            child.kill()


def join_all(processes: Iterable[Any], seconds: float) -> None:
    """Wait until processes have ended, `seconds` for all of them together."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))


def name_of(factory: Any) -> str:
    """Name a factory with its arguments.

    >>> name_of(functools.partial(dict, size=2))
    'dict(size=2)'
    """
    if isinstance(factory, functools.partial):
        arguments = [repr(arg) for arg in factory.args]
        arguments += [f"{key}={value!r}" for key, value in factory.keywords.items()]
        return f"{name_of(factory.func)}({', '.join(arguments)})"
    named = inspect.isroutine(factory) or inspect.isclass(factory)
    return factory.__name__ if named else repr(factory)
