"""What the process pool shares: nameless memory, bells, and descriptors that reach workers."""

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

from firstlight.envs.vec import dotted, leaves

_SPIN = 20e-6  # seconds of asking again and again before going to sleep
_RING = (1).to_bytes(8, sys.byteorder)
_ALIGN = 64  # bytes: no two fields share a cache line


class Handle:
    """A file descriptor that a worker process is given among its arguments."""

    def __init__(self, fd: int):
        self.fd = fd

    def __reduce__(self) -> Any:
        return _received, (reduction.DupFd(self.fd),)

    def close(self) -> None:
        """Close it, once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _received(travelled: Any) -> Handle:
    return Handle(travelled.detach())


def nameless() -> Handle:
    """An empty file that is gone when nobody holds it any more, however they end."""
    if hasattr(os, "memfd_create"):
        return Handle(os.memfd_create("firstlight"))
    with tempfile.TemporaryFile() as file:  # macOS
        return Handle(os.dup(file.fileno()))


class Bell:
    """One process rings, another hears it: an event that `select.poll` can wait for.

    What was written to shared memory before the ring is there after it was heard.
    """

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._in = self._out = Handle(os.eventfd(0))
        else:  # macOS
            self._in, self._out = map(Handle, os.pipe())

    @property
    def fd(self) -> int:
        """Readable once the bell was rung."""
        return self._in.fd

    def ring(self) -> None:
        """Wake whoever waits."""
        os.write(self._out.fd, _RING)

    def hear(self) -> None:
        """Take note of a ring; waits for one if there was none."""
        os.read(self._in.fd, 8)

    def close(self) -> None:
        """Close this process's ends."""
        self._in.close()
        self._out.close()


def listen(poll: select.poll, seconds: float | None = None) -> set[int]:
    """Descriptors that something happened to, in so many seconds: spins shortly, then sleeps."""
    began = time.perf_counter()
    while not (found := poll.poll(0)) and time.perf_counter() - began < _SPIN:
        pass
    if not found:
        found = poll.poll(None if seconds is None else max(0.0, 1000 * seconds))
    return {fd for fd, _ in found}


class Memory:
    """Everything that is said in a step, as arrays over one shared mapping. Row n: environment n.

    Fields keep the dtypes of the spaces. `command` is what the worker is asked to do with a row,
    `failed` where an exception cost the episode, `complaints` how many exceptions were reported,
    `next_seed` what the next episode is to be begun with, `seed` what the open one was.

    Args:
        file: the same in all processes.
        num_envs: `N`.
        num_workers: `W`.
        obs_space: of one environment, nested as it is.
        info_space: of the info fields carried besides success.
        act_space: of one environment.
    """

    def __init__(
        self,
        file: Handle,
        num_envs: int,
        num_workers: int,
        obs_space: spaces.Space,
        info_space: spaces.Dict,
        act_space: spaces.Space,
    ):
        N = num_envs
        self.paths = {dotted(path): path for path, _ in leaves(obs_space)}
        self.fields = {dotted(path): leaf for path, leaf in leaves(obs_space)}
        obs = {f"obs {dotted(path)}": _field(N, leaf) for path, leaf in leaves(obs_space)}
        info = {f"info {name}": _field(N, space) for name, space in info_space.spaces.items()}
        info["info success"] = ((N,), np.dtype(np.int8))
        shown = obs | info
        table = shown | {f"final_{name}": field for name, field in shown.items()}
        table["action"] = _field(N, act_space)
        for name, dtype in (("reward", np.float32), ("seed", np.int64), ("next_seed", np.int64)):
            table[name] = ((N,), np.dtype(dtype))
        for name in ("terminated", "truncated", "failed"):
            table[name] = ((N,), np.dtype(bool))
        for name in ("command", "complaints"):
            table[name] = ((N,), np.dtype(np.int8))
        table["current"] = ((num_workers,), np.dtype(np.int64))
        places = dict(zip(table, _places(table), strict=True))
        size = max(stop for _, stop in places.values())
        if os.fstat(file.fd).st_size < size:
            os.ftruncate(file.fd, size)
        mapping = mmap(file.fd, size)
        self.arrays = {
            name: np.frombuffer(mapping, dtype, int(np.prod(shape)), places[name][0]).reshape(shape)
            for name, (shape, dtype) in table.items()
        }
        self.action, self.reward = self.arrays["action"], self.arrays["reward"]
        self.terminated, self.truncated = self.arrays["terminated"], self.arrays["truncated"]
        self.failed, self.complaints = self.arrays["failed"], self.arrays["complaints"]
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


def _places(table: dict[str, Field]) -> Iterator[tuple[int, int]]:
    """First byte of each field, and the one after its last."""
    start = 0
    for shape, dtype in table.values():
        stop = start + int(np.prod(shape)) * dtype.itemsize
        yield start, stop
        start = -(-stop // _ALIGN) * _ALIGN
