"""Run reward programs: in a confined process of their own, or, if trusted, in this one."""

from __future__ import annotations

import fcntl
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.envs.vector.pool_memory import memfd
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import ENTRY, RewardProgram
from firstlight.intrinsic.design.sandbox_worker import (
    KINDS,
    MAX_MESSAGE,
    MEMORY_BYTES,
    MEMORY_ENTRIES,
    Arrays,
    define,
    describe,
    run_steps,
)

ADDRESS_SPACE = 4 << 30
"""Most bytes of memory that a program's process may map; numpy alone maps about one GiB."""
START_SECONDS = 30.0
"""Time limit for starting the process."""
_ALIGN = 64
_INVALID = "its process sent an invalid answer"
_ENDED = "its process ended: it was killed for memory it may not have or for a forbidden call"


class Execution(ABC):
    """Base class of ways to run a function of a program.

    Args:
        program: to run.
        entry: its function, "reward" or "features".
    """

    def __init__(self, program: RewardProgram, entry: str = ENTRY):
        self.program, self.entry = program, entry
        self.outputs = {name: each.width for name, each in program.outputs(entry).items()}

    def run(self, fields: Arrays, memory: Arrays) -> tuple[np.ndarray, Arrays]:
        """Run the function over a rollout.

        Args:
            fields: see `run_steps`, [T, N, ...].
            memory: [N, ...] before the first step.

        Returns:
            Values [C, T, N] float32, within their declared ranges, C the sum of the widths; and the
            memory after the last step.

        Raises:
            ProgramError: if the program fails, takes too long or returns what it may not.
        """
        out, after = self.run_unclipped(fields, memory)
        row = 0
        for output in self.program.outputs(self.entry).values():
            values = out[row : row + output.width]
            np.clip(values, output.low, output.high, out=values)
            row += output.width
        return out, after

    @abstractmethod
    def run_unclipped(self, fields: Arrays, memory: Arrays) -> tuple[np.ndarray, Arrays]:
        """Run the function, see `run`, and return its values as they are."""

    def close(self) -> None:  # noqa: B027
        """End what runs; `run` starts it again. Default: nothing."""


class InProcess(Execution):
    """Runs a program in this process, with all of its rights. For code that is trusted."""

    def __init__(self, program: RewardProgram, entry: str = ENTRY):
        super().__init__(program, entry)
        try:
            self._function = define(program.source, entry)
        except Exception as error:
            raise ProgramError(describe(error)) from error

    def run_unclipped(self, fields: Arrays, memory: Arrays) -> tuple[np.ndarray, Arrays]:
        """Run the function, see `Execution.run_unclipped`."""
        out = np.zeros((sum(self.outputs.values()), *fields["valid"].shape), np.float32)
        try:
            after = run_steps(self._function, self.entry, self.outputs, fields, memory, out)
        except Exception as error:
            raise ProgramError(describe(error)) from error
        return out, after


class Sandbox(Execution):
    """Runs a program in a process that can compute and nothing else.

    The process has no environment variables and an empty working directory. Before it sees the
    program it gives up, for ever, files and network (Landlock), every call of the kernel but those
    of computing (seccomp), new processes, executable memory and core dumps. Arrays are in shared
    memory; what comes back is copied before it is checked. A program that takes too long is killed
    with its process group. The next call starts a new process: it gets its memory with every call,
    so nothing is lost.

    Args:
        program: to run.
        entry: its function, "reward" or "features".
        timeout_seconds: for a rollout.
        allow_unsandboxed: run it also where the kernel lacks a part of this.

    Raises:
        ProgramError: in `run`, also if the kernel lacks a part.
    """

    def __init__(
        self,
        program: RewardProgram,
        entry: str = ENTRY,
        *,
        timeout_seconds: float = 10.0,
        allow_unsandboxed: bool = False,
    ):
        super().__init__(program, entry)
        self.timeout_seconds, self.allow_unsandboxed = timeout_seconds, allow_unsandboxed
        self._process: _Process | None = None

    def __deepcopy__(self, memo: dict) -> Sandbox:
        return Sandbox(
            self.program,
            self.entry,
            timeout_seconds=self.timeout_seconds,
            allow_unsandboxed=self.allow_unsandboxed,
        )

    def run_unclipped(self, fields: Arrays, memory: Arrays) -> tuple[np.ndarray, Arrays]:
        """Run the function, see `Execution.run_unclipped`."""
        try:
            if self._process is None:
                self._process = self._start()
            return self._exchange(self._process, fields, memory)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _start(self) -> _Process:
        process = _Process()
        try:
            held = process.read(START_SECONDS).get("confined", {})
            missing = [name for name, holds in held.items() if holds is not True]
            if (missing or not held) and not self.allow_unsandboxed:
                raise ProgramError(
                    f"this system cannot confine a reward program: {', '.join(missing) or 'it'} is "
                    "missing. Read the program, and say trusted=true to run it in this process, or "
                    "allow_unsandboxed=true"
                )
            process.write(
                {"source": self.program.source, "entry": self.entry, "outputs": self.outputs}
            )
            self._check(process.read(self.timeout_seconds))
        except BaseException:
            process.end()
            raise
        return process

    def _exchange(
        self, process: _Process, fields: Arrays, memory: Arrays
    ) -> tuple[np.ndarray, Arrays]:
        T, N = fields["valid"].shape
        out_shape = [sum(self.outputs.values()), T, N]
        layout = _Layout()
        request: dict[str, Any] = {
            "fields": {name: layout.add(array) for name, array in fields.items()},
            "memory": {name: layout.add(array) for name, array in memory.items()},
            "out": layout.reserve("float32", out_shape),
            "memory_out": layout.size,
        }
        spare = N * MEMORY_BYTES + MEMORY_ENTRIES * _ALIGN
        shared = process.shared(layout.size + spare)
        for group, arrays in (("fields", fields), ("memory", memory)):
            for name, place in request[group].items():
                _view(shared, *place)[...] = arrays[name]
        process.write({**request, "size": len(shared)})
        reply = self._check(process.read(self.timeout_seconds))
        out = _view(shared, *request["out"]).copy()  # first: the program might still change it
        if not np.isfinite(out).all():
            raise ProgramError("a value is not finite")
        bound = request["memory_out"] + spare
        places = _checked_places(reply.get("memory"), N, request["memory_out"], bound)
        after = {name: _view(shared, *place).copy() for name, place in places.items()}
        return out, after

    def _check(self, reply: dict[str, Any]) -> dict[str, Any]:
        if "error" in reply:
            raise ProgramError(str(reply["error"])[:1000])
        return reply


class _Layout:
    """Places of arrays in shared memory."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, array: np.ndarray) -> list[Any]:
        return self.reserve(array.dtype.name, [*array.shape])

    def reserve(self, kind: str, shape: list[int]) -> list[Any]:
        place = [kind, shape, self.size]
        self.size += -(-np.dtype(kind).itemsize * math.prod(shape) // _ALIGN) * _ALIGN
        return place


def _view(shared: mmap, kind: str, shape: list[int], offset: int) -> np.ndarray:
    return np.ndarray(shape, kind, shared, offset)


def _checked_places(places: Any, num_envs: int, begin: int, end: int) -> dict[str, list[Any]]:
    """Check what a process says about its memory; it may be under the control of the program."""
    if not isinstance(places, dict) or len(places) > MEMORY_ENTRIES:
        raise ProgramError(_INVALID)
    for name, place in places.items():
        if not isinstance(place, list) or len(place) != 3 or not name.isidentifier():
            raise ProgramError(_INVALID)
        kind, shape, offset = place
        if kind not in KINDS or not isinstance(shape, list) or shape[:1] != [num_envs]:
            raise ProgramError(_INVALID)
        if not all(type(number) is int and 0 <= number < 1 << 31 for number in [*shape, offset]):
            raise ProgramError(_INVALID)
        if offset < begin or offset + np.dtype(kind).itemsize * math.prod(shape) > end:
            raise ProgramError(_INVALID)
    return places


class _Process:
    """A process of `sandbox_worker.py`, its pipes and the memory shared with it."""

    def __init__(self) -> None:
        self._memory = memfd()
        with tempfile.TemporaryDirectory() as empty:
            to_read, self._to_write = os.pipe()
            self._to_read, to_write = os.pipe()
            try:
                fds = (to_read, to_write, self._memory.fd)
                script = Path(__file__).with_name("sandbox_worker.py")
                words = [sys.executable, "-I", "-B", str(script), *map(str, fds)]
                self._child = subprocess.Popen(
                    [*words, str(ADDRESS_SPACE)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=empty,
                    env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    pass_fds=fds,
                    start_new_session=True,
                )
            finally:
                os.close(to_read)
                os.close(to_write)
        self._map: mmap | None = None
        ends = (self._to_read, self._to_write)
        self._finalizer = weakref.finalize(self, _end, self._child, ends, self._memory)

    def shared(self, size: int) -> mmap:
        """Return the shared memory, of at least `size` bytes."""
        if self._map is None or len(self._map) < size:
            os.ftruncate(self._memory.fd, size)
            if self._map is None and sys.platform == "linux":
                # a file that shrinks would end this process by SIGBUS
                fcntl.fcntl(self._memory.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._map = mmap(self._memory.fd, size)
        return self._map

    def write(self, message: Mapping[str, Any]) -> None:
        """Send a message.

        Raises:
            ProgramError: if the process has ended.
        """
        text = json.dumps(message).encode()
        data = struct.pack("=I", len(text)) + text
        try:
            while data:
                data = data[os.write(self._to_write, data) :]
        except BrokenPipeError as error:
            raise ProgramError(_ENDED) from error

    def read(self, seconds: float) -> dict[str, Any]:
        """Wait for a message.

        Raises:
            ProgramError: if none comes in time, the process ended, or it is no such message.
        """
        until = time.monotonic() + seconds
        (size,) = struct.unpack("=I", self._exactly(4, until, seconds))
        if size > MAX_MESSAGE:
            raise ProgramError(_INVALID)
        try:
            message = json.loads(self._exactly(size, until, seconds))
        except (ValueError, RecursionError) as error:
            raise ProgramError(_INVALID) from error
        if not isinstance(message, dict):
            raise ProgramError(_INVALID)
        return message

    def _exactly(self, size: int, until: float, seconds: float) -> bytes:
        data = b""
        while len(data) < size:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._to_read], [], [], left)[0]:
                raise ProgramError(f"it took longer than {seconds:g} seconds")
            part = os.read(self._to_read, size - len(data))
            if not part:
                raise ProgramError(_ENDED)
            data += part
        return data

    def end(self) -> None:
        """Kill the process and its group, and free the memory."""
        self._finalizer()


def _end(child: subprocess.Popen, fds: tuple[int, ...], memory: Any) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.wait()
    for fd in fds:
        os.close(fd)
    memory.close()
