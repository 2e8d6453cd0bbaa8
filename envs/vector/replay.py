"""Living an episode again: seed and actions are remembered, and what was answered is checked."""

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
    """Remembers the seed and the actions of its open episode, and a digest of every answer.

    An environment whose episodes follow from seed and actions alone can so be brought back to
    where another copy of it stood. One that also depends on something else answers differently
    sooner or later, and the digest tells.

    Args:
        env: to be reset with a seed whenever an episode begins.
        index: of this copy among the others.
    """

    def __init__(self, env: gymnasium.Env, index: int = 0):
        super().__init__(env)
        self._index = index
        self._seed: int | None = None
        self._actions, self._taken = np.empty((0,)), 0
        self._digest = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode; what the last one was is forgotten."""
        # Gymnasium's vectors hand an empty dict on, in which NLE looks for options of its own
        obs, info = self.env.reset(seed=seed, options=options or None)
        self._seed, self._taken, self._digest = seed, 0, digest(obs)
        return obs, info

    def step(self, action: Any) -> Any:
        """Step, and remember it."""
        self._remember(np.asarray(action))
        answer = self.env.step(action)
        self._digest = digest(answer[:4], self._digest)
        return answer

    def recorded(self) -> Snapshot:
        """How the open episode came to where it stands."""
        actions = torch.from_numpy(self._actions[: self._taken].copy()) if self._taken else None
        return Snapshot(seed=self._seed, actions=actions, digest=self._digest)

    def replay(self, points: Mapping[int, Snapshot]) -> tuple[Any, Any] | None:
        """Go to the point of this copy. Returns obs and info there.

        None if there is no such point, or the environment answered differently this time.
        """
        if self._index not in points:
            return None
        point = points[self._index]
        try:
            obs, info = self.reset(seed=point.seed)
            for action in [] if point.actions is None else point.actions.numpy():
                obs, _, _, _, info = self.step(action)
        except Exception:  # whatever a foreign environment raises when it has lost its way
            return None
        return (obs, info) if point.digest in (None, self._digest) else None

    def _remember(self, action: np.ndarray) -> None:
        if self._taken >= len(self._actions):  # no list: an episode may be millions of steps long
            more = np.empty((max(64, 2 * self._taken), *action.shape), action.dtype)
            if self._taken:
                more[: self._taken] = self._actions
            self._actions = more
        self._actions[self._taken] = action
        self._taken += 1

    def begin(self, seeds: Sequence[int | None]) -> tuple[Any, Any] | None:
        """Begin an episode if there is a seed for this copy. Returns obs and info."""
        seed = seeds[self._index]
        return None if seed is None else self.reset(seed=seed)


class RecorderFactory:
    """A factory of an environment with a `Recorder` around it; pickles if `factory` does.

    In a worker process it also makes sure that the worker leaves signals to the process that trains
    (a terminal sends Ctrl-C to both) and does not outlive it.
    """

    def __init__(self, factory: Callable[[], gymnasium.Env], index: int):
        self.factory, self.index, self.home = factory, index, os.getpid()

    def __call__(self) -> gymnasium.Env:
        """Make one."""
        if os.getpid() != self.home:
            prepare_child_process()
        return Recorder(self.factory(), self.index)


def digest(value: Any, before: int = 0) -> int:
    """A checksum of nested observations, rewards and flags, going on from `before`.

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
