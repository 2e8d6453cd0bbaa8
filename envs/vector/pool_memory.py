"""What the processes of a pool share: memory without a file name, and event notifiers."""

from __future__ import annotations

import os
import select
import sys
import tempfile
import time
from collections.abc import Iterator
from mmap import mmap
from multiprocessing import reduction
from typing import Any

import numpy as np
from gymnasium import spaces

_SPIN_SECONDS = 20e-6  # of polling without sleeping
_EVENT = (1).to_bytes(8, sys.byteorder)
_ALIGN = 64  # bytes: no two fields share a cache line


class FileHandle:
    """A file descriptor that can be among the arguments of a new process."""

    def __init__(self, fd: int):
        self.fd = fd

    def __reduce__(self) -> Any:
        return _received, (reduction.DupFd(self.fd),)

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _received(duplicate: Any) -> FileHandle:
    return FileHandle(duplicate.detach())


def memfd() -> FileHandle:
    """Make an empty file without a name, which is freed when no process has it open any more."""
    try:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        return FileHandle(os.memfd_create("firstlight", flags))
    except AttributeError:  # macOS, and a Python that was built for an old C library
        with tempfile.TemporaryFile() as file:
            return FileHandle(os.dup(file.fileno()))


class EventNotifier:
    """An event that one process notifies of and another waits for, also by `select.poll`.

    What was written to shared memory before `notify` is visible after `wait`.
    """

    def __init__(self) -> None:
        try:
            self._reader = self._writer = FileHandle(os.eventfd(0))
        except AttributeError:  # see `memfd`
            self._reader, self._writer = map(FileHandle, os.pipe())

    @property
    def fd(self) -> int:
        """Descriptor that is readable between `notify` and `wait`."""
        return self._reader.fd

    def notify(self) -> None:
        """Wake the process that waits."""
        os.write(self._writer.fd, _EVENT)

    def wait(self) -> None:
        """Wait for one `notify`, and consume it."""
        os.read(self._reader.fd, 8)

    def close(self) -> None:
        """Close this process's descriptors."""
        self._reader.close()
        self._writer.close()


def wait_readable(poll: select.poll, seconds: float | None = None) -> set[int]:
    """Wait until a descriptor of `poll` has an event; spins a moment before it sleeps.

    Args:
        poll: with the descriptors registered.
        seconds: time limit; None for none.

    Returns:
        The descriptors with an event; none after the time limit.
    """
    began = time.perf_counter()
    while not (found := poll.poll(0)) and time.perf_counter() - began < _SPIN_SECONDS:
        pass
    if not found:
        found = poll.poll(None if seconds is None else max(0.0, 1000 * seconds))
    return {fd for fd, _ in found}


class SharedMemory:
    """Actions, commands and results of all environments, as arrays in memory that processes share.

    Row n belongs to environment n. Fields have the dtypes of the spaces. `command` is what the
    worker is to do with a row; `failed` is set where the episode is lost; `failures` counts the
    exceptions that were reported; `next_seed` is the seed of the next reset, `seed` that of the
    last one; `current` [W] is the environment that each worker is stepping.

    Args:
        file: the same one in all processes.
        num_envs: `N`.
        num_workers: `W`.
        obs_space: fields of one environment.
        info_space: of the info fields carried besides success.
        act_space: of one environment.
    """

    def __init__(
        self,
        file: FileHandle,
        num_envs: int,
        num_workers: int,
        obs_space: spaces.Dict,
        info_space: spaces.Dict,
        act_space: spaces.Space,
    ):
        N = num_envs
        self.fields = dict(obs_space.spaces)
        obs = {f"obs {name}": _field(N, space) for name, space in self.fields.items()}
        info = {f"info {name}": _field(N, space) for name, space in info_space.spaces.items()}
        info["info success"] = ((N,), np.dtype(np.int8))
        outputs = obs | info
        table = outputs | {f"final_{name}": field for name, field in outputs.items()}
        table["action"] = _field(N, act_space)
        for name, dtype in (("reward", np.float32), ("seed", np.int64), ("next_seed", np.int64)):
            table[name] = ((N,), np.dtype(dtype))
        for name in ("terminated", "truncated", "failed"):
            table[name] = ((N,), np.dtype(bool))
        for name in ("command", "failures"):
            table[name] = ((N,), np.dtype(np.int8))
        table["current"] = ((num_workers,), np.dtype(np.int64))
        extents = dict(zip(table, _extents(table), strict=True))
        size = max(stop for _, stop in extents.values())
        if os.fstat(file.fd).st_size < size:
            os.ftruncate(file.fd, size)
        mapping = mmap(file.fd, size)
        self.arrays = {
            name: np.frombuffer(mapping, dtype, int(np.prod(shape)), extents[name][0]).reshape(
                shape
            )
            for name, (shape, dtype) in table.items()
        }
        self.action, self.reward = self.arrays["action"], self.arrays["reward"]
        self.terminated, self.truncated = self.arrays["terminated"], self.arrays["truncated"]
        self.failed, self.failures = self.arrays["failed"], self.arrays["failures"]
        self.command, self.current = self.arrays["command"], self.arrays["current"]
        self.seed, self.next_seed = self.arrays["seed"], self.arrays["next_seed"]
        self.obs, self.info = self._group("obs"), self._group("info")
        self.final_obs, self.final_info = self._group("final_obs"), self._group("final_info")

    def _group(self, group: str) -> dict[str, np.ndarray]:
        lead = f"{group} "
        return {k.removeprefix(lead): v for k, v in self.arrays.items() if k.startswith(lead)}


Field = tuple[tuple[int, ...], np.dtype]


def _field(num_envs: int, space: spaces.Space) -> Field:
    return (num_envs, *(space.shape or ())), np.dtype(space.dtype)


def _extents(table: dict[str, Field]) -> Iterator[tuple[int, int]]:
    """Yield the first byte of each field, and the one after its last."""
    start = 0
    for shape, dtype in table.values():
        stop = start + int(np.prod(shape)) * dtype.itemsize
        yield start, stop
        start = -(-stop // _ALIGN) * _ALIGN
