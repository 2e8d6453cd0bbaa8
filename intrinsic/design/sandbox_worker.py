"""The process that runs a reward program, and the loop over the steps of a rollout.

Run as a script by `Sandbox`; imports nothing of ours and only numpy, because a process that cannot
open files cannot import either. Messages are JSON, each after its length; arrays are in memory that
both processes map.
"""

from __future__ import annotations

import importlib.util
import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.fft
import numpy.linalg

MEMORY_ENTRIES, MEMORY_BYTES = 16, 4096
"""Most arrays in a program's memory, and most bytes of each environment in it."""
KINDS = ("bool", "uint8", "int32", "int64", "float32", "float64")
"""Types of numbers in a program's memory."""
MAX_MESSAGE = 1 << 20
ARGUMENTS = {"reward": ("obs", "action", "next_obs", "info"), "features": ("obs", "info")}
"""Functions of a program, and their arguments before `memory`."""

Arrays = dict[str, np.ndarray]


class ProgramOutputError(ValueError):
    """A reward program returned an invalid value."""


def run_steps(
    function: Callable[..., Any],
    entry: str,
    outputs: Mapping[str, int],
    fields: Mapping[str, np.ndarray],
    memory: Arrays,
    out: np.ndarray,
) -> Arrays:
    """Call a function of a program for each step of a rollout.

    Args:
        function: of the program.
        entry: its name, see `ARGUMENTS`.
        outputs: that the program declares, to the width of each: 1 for a component of the reward.
        fields: "obs/NAME", "next_obs/NAME" and "info/NAME" [T, N, ...], "action" [T, N, ...],
            "is_first" and "valid" [T, N] bool; those that the function does not take may be absent.
        memory: arrays [N, ...] before the first step; not changed.
        out: [C, T, N] float32 with C the sum of the widths, filled; rows that are not valid are 0.

    Returns:
        The memory after the last step.

    Raises:
        ProgramOutputError: for other names, shapes or memories than declared, or values that are
            not finite.
    """
    groups: dict[str, Arrays] = {"obs": {}, "next_obs": {}, "info": {}}
    for key, field in fields.items():
        group, _, name = key.partition("/")
        if name:
            groups[group][name] = field
    valid, is_first = fields["valid"], fields["is_first"]
    memory = {name: array.copy() for name, array in memory.items()}
    for t in range(valid.shape[0]):
        for array in memory.values():
            array[is_first[t]] = 0
        rows = None if valid[t].all() else ~valid[t]
        before = {} if rows is None else {name: array.copy() for name, array in memory.items()}
        moment = [
            fields[group][t] if group == "action" else {k: v[t] for k, v in groups[group].items()}
            for group in ARGUMENTS[entry]
        ]
        _store(entry, function(*moment, memory), outputs, out[:, t])
        memory = _checked_memory(memory, valid.shape[1])
        if rows is not None:
            out[:, t, rows] = 0
            for name, array in memory.items():  # such a row leaves no trace
                array[rows] = before[name][rows] if name in before else 0
    return memory


def _store(entry: str, result: Any, outputs: Mapping[str, int], out: np.ndarray) -> None:
    if not isinstance(result, dict) or sorted(result, key=str) != sorted(outputs):
        found = sorted(map(str, result)) if isinstance(result, dict) else type(result).__name__
        raise ProgramOutputError(f"{entry} returned {found}, expected {sorted(outputs)}")
    num_envs, row = out.shape[1], 0
    for name, width in outputs.items():
        value = np.asarray(result[name])
        narrow = ((), (num_envs,)) if width == 1 else ()
        if value.dtype.kind not in "biuf" or value.shape not in ((num_envs, width), *narrow):
            wanted = [num_envs] if width == 1 else [num_envs, width]
            raise ProgramOutputError(
                f"{entry} returned {name!r} as {value.dtype} {list(value.shape)}, expected numbers "
                f"{wanted}"
            )
        if not np.isfinite(value).all():
            raise ProgramOutputError(f"{entry} returned {name!r} with values that are not finite")
        rows = value.reshape(num_envs, width).T if value.shape else value
        out[row : row + width] = np.clip(rows, -1e30, 1e30)
        row += width


def _checked_memory(memory: Any, num_envs: int) -> Arrays:
    if not isinstance(memory, dict) or len(memory) > MEMORY_ENTRIES:
        raise ProgramOutputError(f"memory has more than {MEMORY_ENTRIES} entries")
    checked, total = {}, 0
    for name, value in memory.items():
        array = np.asarray(value)
        if not isinstance(name, str) or not name.isidentifier() or len(name) > 64:
            raise ProgramOutputError(
                f"memory has the key {str(name)[:80]!r}, expected a short name"
            )
        if array.dtype.name not in KINDS or array.shape[:1] != (num_envs,):
            raise ProgramOutputError(
                f"memory[{name!r}] is {array.dtype} {list(array.shape)}, expected numbers "
                f"[{num_envs}, ...]"
            )
        total += array.nbytes
        checked[name] = array if array.flags.writeable else array.copy()
    if total > MEMORY_BYTES * num_envs:
        raise ProgramOutputError(
            f"memory has {total // num_envs} bytes for each environment, expected at most "
            f"{MEMORY_BYTES}"
        )
    return checked


def define(source: str, entry: str) -> Callable[..., Any]:
    """Run the source of a program; return its function `entry`."""
    namespace: dict[str, Any] = {"__name__": "reward_program", "np": np, "math": math}
    exec(compile(source, "<program>", "exec"), namespace)
    return namespace[entry]


def describe(error: BaseException) -> str:
    """Return one line about an error, with the program's line if it has one."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f"line {line}: " if line else ""
    return f"{where}{type(error).__name__}: {str(error)[:500]}"


class Channel:
    """Messages over two descriptors, and the memory behind a third."""

    def __init__(self, read_fd: int, write_fd: int, memory_fd: int):
        self.read_fd, self.write_fd, self.memory_fd = read_fd, write_fd, memory_fd
        self._map: mmap.mmap | None = None

    def read(self) -> dict[str, Any]:
        """Wait for a message; end the process if the parent has gone."""
        (size,) = struct.unpack("=I", self._exactly(4))
        return json.loads(self._exactly(size))

    def write(self, message: dict[str, Any]) -> None:
        """Send a message."""
        text = json.dumps(message).encode()
        data = struct.pack("=I", len(text)) + text
        while data:
            data = data[os.write(self.write_fd, data) :]

    def attach(self, size: int) -> None:
        """Map the shared memory, of `size` bytes."""
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.memory_fd, size)

    def array(self, kind: str, shape: list[int], offset: int) -> np.ndarray:
        """Array of the shared memory at an offset in bytes."""
        assert self._map is not None
        return np.ndarray(shape, kind, self._map, offset)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = os.read(self.read_fd, size - len(data))
            if not part:
                os._exit(0)  # the parent has gone
            data += part
        return data


def serve(
    channel: Channel, function: Callable[..., Any], entry: str, outputs: Mapping[str, int]
) -> None:
    """Answer requests until the parent closes its end."""
    while True:
        request = channel.read()
        channel.attach(request["size"])
        arrays = {name: channel.array(*place) for name, place in request["fields"].items()}
        for array in arrays.values():
            array.flags.writeable = False
        memory = {name: channel.array(*place) for name, place in request["memory"].items()}
        out = channel.array(*request["out"])
        try:
            memory = run_steps(function, entry, outputs, arrays, memory, out)
            offset, places = request["memory_out"], {}
            for name, array in memory.items():
                places[name] = [array.dtype.name, list(array.shape), offset]
                channel.array(*places[name])[...] = array
                offset += -(-array.nbytes // 64) * 64
            channel.write({"memory": places})
        except BaseException as error:
            channel.write({"error": describe(error)})


def main(read_fd: int, write_fd: int, memory_fd: int, memory_bytes: int) -> None:
    """Confine this process, say what holds, and only then read and run the program."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "confinement.py")
    spec = importlib.util.spec_from_file_location("confinement", path)
    assert spec is not None
    assert spec.loader is not None
    confinement = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(confinement)
    channel = Channel(read_fd, write_fd, memory_fd)
    channel.write({"confined": confinement.confine(write_fd, memory_bytes)})
    start = channel.read()  # only sent if that is enough
    try:
        function = define(start["source"], start["entry"])
    except BaseException as error:
        channel.write({"error": describe(error)})
        return
    channel.write({"ready": True})
    serve(channel, function, start["entry"], start["outputs"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
