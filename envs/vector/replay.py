"""Restore episodes by replaying their seeds and actions, and detect a replay that differs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import gymnasium
import numpy as np
import torch

from firstlight.envs.types import Snapshot
from firstlight.envs.vector.child_service import prepare_child_process


class Recorder(gymnasium.Wrapper):
    """Record seed and actions of the open episode, and a checksum of what the environment returned.

    A replay restores an environment whose episodes depend only on seed and actions. If they depend
    on anything else, the checksum of the replay differs.

    Args:
        env: environment that gets a seed at every reset.
        index: number of this environment in its vector environment.
    """

    def __init__(self, env: gymnasium.Env, index: int = 0):
        super().__init__(env)
        self._index = index
        self._seed: int | None = None
        self._actions, self._taken = np.empty((0,)), 0
        self._digest = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment and start a new record."""
        # Gymnasium's vectors hand an empty dict on, in which NLE looks for options of its own
        obs, info = self.env.reset(seed=seed, options=options or None)
        self._seed, self._taken, self._digest = seed, 0, digest(obs)
        return obs, info

    def step(self, action: Any) -> Any:
        """Step, and record the action."""
        self._record(np.asarray(action))
        answer = self.env.step(action)
        self._digest = digest(answer[:4], self._digest)
        return answer

    def snapshot(self) -> Snapshot:
        """Return seed, actions and checksum of the open episode."""
        actions = torch.from_numpy(self._actions[: self._taken].copy()) if self._taken else None
        return Snapshot(seed=self._seed, actions=actions, digest=self._digest)

    def replay(self, snapshots: Mapping[int, Snapshot]) -> tuple[Any, Any] | None:
        """Replay the snapshot of this environment.

        Args:
            snapshots: by number of the environment.

        Returns:
            Last obs and info of the replay; None if there is no snapshot, or the replay differs.
        """
        if self._index not in snapshots:
            return None
        snapshot = snapshots[self._index]
        try:
            obs, info = self.reset(seed=snapshot.seed)
            for action in [] if snapshot.actions is None else snapshot.actions.numpy():
                obs, _, _, _, info = self.step(action)
        except Exception:  # an environment may raise anything in a state that it should not be in
            return None
        return (obs, info) if snapshot.digest in (None, self._digest) else None

    def _record(self, action: np.ndarray) -> None:
        if self._taken >= len(self._actions):  # no list: an episode may be millions of steps long
            more = np.empty((max(64, 2 * self._taken), *action.shape), action.dtype)
            if self._taken:
                more[: self._taken] = self._actions
            self._actions = more
        self._actions[self._taken] = action
        self._taken += 1

    def reset_from(self, seeds: Sequence[int | None]) -> tuple[Any, Any] | None:
        """Begin an episode and return obs and info; None if this environment has no seed."""
        seed = seeds[self._index]
        return None if seed is None else self.reset(seed=seed)


class RecorderFactory:
    """A factory of an environment in a `Recorder`; pickles if `factory` does.

    In a worker process it also calls `prepare_child_process`.
    """

    def __init__(self, factory: Callable[[], gymnasium.Env], index: int):
        self.factory, self.index, self.home = factory, index, os.getpid()

    def __call__(self) -> gymnasium.Env:
        """Make the environment."""
        if os.getpid() != self.home:
            prepare_child_process()
        return Recorder(self.factory(), self.index)


def digest(value: Any, before: int = 0) -> int:
    """Checksum of nested observations, rewards and flags, continued from the checksum `before`.

    >>> digest({"image": np.zeros(3), "mission": "go"}) == digest({"image": np.zeros(3)})
    False
    """
    if type(value) is np.ndarray and value.flags.c_contiguous:  # most of what there is to read
        return crc32(value.data, before)
    if type(value) in (float, bool, str):
        return crc32(repr(value).encode(), before)
    if isinstance(value, Mapping):
        for key in sorted(value):
            before = digest(value[key], crc32(str(key).encode(), before))
        return before
    if isinstance(value, list | tuple):
        for item in value:
            before = digest(item, before)
        return before
    if isinstance(value, np.ndarray | np.generic):
        return crc32(np.ascontiguousarray(value).data, before)
    return crc32(repr(value).encode(), before)
