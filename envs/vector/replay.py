"""Restore episodes by replaying their seeds and actions, and detect a replay that differs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from firstlight.envs.faults import raise_for_environment
from firstlight.envs.intake import EnvIntake, Fields, check_env
from firstlight.envs.seeding import seed_process
from firstlight.envs.types import Snapshot
from firstlight.envs.vector.child_process import name_of
from firstlight.envs.vector.child_service import prepare_child_process

_NO_BYTES = "OmM"  # kinds of dtypes whose memory holds addresses, or cannot be read

log = logging.getLogger(__name__)


class Recorder(gymnasium.Wrapper):
    """Read an environment's answers through an `EnvIntake`, and record the open episode.

    The record is seed, actions, and a checksum of what the environment returned. A replay restores
    an environment whose episodes depend only on seed and actions. If they depend on anything else,
    the checksum of the replay differs.

    Args:
        env: environment that gets a seed at every reset.
        index: number of this environment in its vector environment.
        info_space: info fields to read besides success.
        observe_text: read texts in observations too, see `EnvIntake`.
        owns_process: seed the process's global generators at every reset with the episode's seed;
            only for a process that does nothing else than step environments.

    Attributes:
        left_out: see `VecEnv`.

    Raises:
        EnvironmentFaultError: if the environment or what it returns breaks Gymnasium's API.
        EnvironmentRaisedError: if the environment's code raised an exception.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        index: int = 0,
        info_space: spaces.Dict | None = None,
        *,
        observe_text: bool = False,
        owns_process: bool = False,
    ):
        name = check_env(env, index)
        super().__init__(env)
        self._intake = EnvIntake(
            name, index, env.observation_space, info_space, observe_text=observe_text
        )
        self.observation_space = self._intake.space
        self.left_out = self._intake.left_out
        self._where, self._owns_process = self._intake.where, owns_process
        self._index = index
        self._seed: int | None = None
        self._actions, self._taken = np.empty((0,)), 0
        self._digest = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Fields, Fields]:
        """Reset the environment and start a new record. Returns as `EnvIntake.reset`."""
        if self._owns_process and seed is not None:
            seed_process(seed)
        try:
            # no options: Gymnasium's vectors give an empty dict, in which NLE looks for its own
            answer = self.env.reset(seed=seed)
        except Exception as error:
            raise_for_environment(error, self._where, "in reset")
        result = self._intake.reset(answer)
        self._seed, self._taken, self._digest = seed, 0, digest(answer[0])
        return result

    def step(self, action: Any) -> tuple[Fields, float, bool, bool, Fields]:
        """Step, and record the action. Returns as `EnvIntake.step`."""
        self._record(np.asarray(action))
        try:
            answer = self.env.step(action)
        except Exception as error:
            raise_for_environment(error, self._where, "in step")
        result = self._intake.step(answer)
        self._digest = digest(answer[:4], self._digest)
        return result

    def render(self) -> Any:
        """Picture of the environment, or None."""
        try:
            return self.env.render()
        except Exception as error:
            raise_for_environment(error, self._where, "in render")

    def close(self) -> None:
        """Close the environment; an exception is logged, because the run is over then."""
        try:
            self.env.close()
        except Exception as error:
            log.warning("%s raised %s in close: %s", self._where, type(error).__name__, error)

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

    In a process other than the one that made it, it also calls `prepare_child_process`.

    Args:
        factory: makes one environment.
        index: see `Recorder`.
        info_space: see `Recorder`.
        observe_text: see `Recorder`.
    """

    def __init__(
        self,
        factory: Callable[[], gymnasium.Env],
        index: int,
        info_space: spaces.Dict | None = None,
        *,
        observe_text: bool = False,
    ):
        self.factory, self.index, self.info_space = factory, index, info_space
        self.observe_text = observe_text
        self.home = os.getpid()

    def __call__(self) -> Recorder:
        """Make the environment."""
        in_child = os.getpid() != self.home
        if in_child:
            prepare_child_process()
        return make_recorder(
            self.factory,
            self.index,
            self.info_space,
            observe_text=self.observe_text,
            owns_process=in_child,
        )


def make_recorder(
    factory: Callable[[], gymnasium.Env],
    index: int,
    info_space: spaces.Dict | None = None,
    *,
    observe_text: bool = False,
    owns_process: bool = False,
) -> Recorder:
    """Make an environment in a `Recorder`; see there for arguments and errors."""
    try:
        env = factory()
    except Exception as error:
        raise_for_environment(error, f"environment {index}", f"while {name_of(factory)} made it")
    return Recorder(env, index, info_space, observe_text=observe_text, owns_process=owns_process)


def digest(value: Any, before: int = 0) -> int:
    """Checksum of nested observations, rewards and flags, continued from the checksum `before`.

    >>> digest({"image": np.zeros(3), "mission": "go"}) == digest({"image": np.zeros(3)})
    False
    """
    kind = type(value)
    if kind is np.ndarray and value.flags.c_contiguous and value.dtype.kind not in _NO_BYTES:
        return crc32(value.data, before)
    if kind in (float, bool, str):
        return crc32(repr(value).encode(), before)
    if kind is dict or isinstance(value, Mapping):
        for key in _sorted(value):
            before = digest(value[key], crc32(str(key).encode(), before))
        return before
    if isinstance(value, list | tuple):
        for item in value:
            before = digest(item, before)
        return before
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in _NO_BYTES:
        return crc32(np.ascontiguousarray(value).data, before)
    if isinstance(value, np.ndarray):
        return digest(value.tolist(), before)
    return crc32(repr(value).encode(), before)


def _sorted(mapping: Mapping[Any, Any]) -> list[Any]:
    try:
        return sorted(mapping)
    except TypeError:  # keys of several types
        return sorted(mapping, key=repr)
