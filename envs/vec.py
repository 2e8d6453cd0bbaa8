"""The vector environment that a runner steps: one protocol for every backend."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs, Point, Step

_LAWFUL = {
    "float64": "float32",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64",
}


class VecEnv(Protocol):
    """`num_envs` environments stepped together. Tensors live on the CPU.

    Spaces describe *one* environment. `obs_space` holds what a policy may see; `info_space` what
    only reward modules and statistics may see. `success_threshold` is the backend's rule for
    success (an episode whose return exceeds it succeeded), or None where there is no such rule;
    an info channel ``"success"`` (int8: 1 yes, 0 no, -1 unknown) outranks it.

    `reported`, which may be left out, names side channels of one number each, such as the depth in
    NetHack, whose mean at the end of episodes statistics and evaluations give.

    A backend that steps in the background may also have ``send(action)`` and ``recv() -> Step``, of
    which `step` is one after the other; a runner then does its bookkeeping in between.

    `resume` names how open episodes outlive a checkpoint: "state" where they are saved, "replay"
    where they are lived again from seed and actions, "dropped" where they cannot come back; only
    the first two need `points`, `restore`, `state_dict` and `load_state_dict`. What must outlive
    even episodes that are dropped, such as numbers given to sentences, a backend gives as
    ``kept()`` and takes back by ``keep(state)``; both are optional.
    """

    num_envs: int
    obs_space: spaces.Dict
    info_space: spaces.Dict
    act_space: spaces.Space
    success_threshold: float | None

    @property
    def resume(self) -> str:
        """How open episodes come back: "state", "replay" or "dropped"; an attribute will do."""
        ...

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere. Returns obs and info, each field [N, ...]."""
        ...

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32; ValueError if one is impossible."""
        ...

    def points(self) -> list[Point]:
        """Where each environment stands; NotImplementedError, with the reason, if that is lost."""
        ...

    def restore(self, env_ids: Tensor, points: Sequence[Point]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to saved moments, or raise NotImplementedError with the reason.

        Args:
            env_ids: [M] int64.
            points: M of them.

        Returns:
            obs and info, each field [M, ...], of those environments as they stand now, and [M] bool
            where that is another moment: one that answered differently this time begins an episode.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where each environment stands, and what its later episodes depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Take such a state back. Returns what `restore` does, of every environment."""
        ...

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment, [H, W, 3] uint8."""
        ...

    def close(self) -> None:
        """Free what is held; may be called twice."""
        ...


def resume_of(vec: VecEnv) -> str:
    """Its `resume`; "dropped" for one whose class does not say, whatever it passes on."""
    return vec.resume if hasattr(type(vec), "resume") else "dropped"


def reported_of(vec: VecEnv) -> tuple[str, ...]:
    """Its `reported`; nothing for one that does not say.

    Raises:
        ValueError: for a channel that is not there, holds more than a number, or is called as
            what statistics give anyhow.
    """
    names = tuple(getattr(vec, "reported", ()))
    for name in names:
        if name in ("return", "length"):
            raise ValueError(f"{name!r} cannot be reported: statistics have a mean of that name")
        if name not in vec.info_space.spaces or vec.info_space[name].shape != ():
            raise ValueError(f"{name!r} is reported but is no side channel of one number")
    return names


def in_background(vec: VecEnv) -> bool:
    """Whether it can step in the background, by a `send` and a `recv` of its own."""
    return hasattr(type(vec), "send") and hasattr(type(vec), "recv")


def checked_actions(action: Tensor, space: spaces.Space, num_envs: int) -> np.ndarray:
    """A policy's actions as environments with the action space `space` take them.

    Policies count from 0, so a `start` is added; they know no bounds, so a Box is clipped.

    Args:
        action: [N, *space.shape], int64 or for a Box float32.
        space: of one environment.
        num_envs: `N`.

    Returns:
        [N, *space.shape] of the dtype of `space`.

    Raises:
        ValueError: for a wrong shape or kind, numbers that are not finite or name no action.
    """
    array, shape = action.numpy(), (num_envs, *(space.shape or ()))
    if array.shape != shape:
        raise ValueError(
            f"{num_envs} environments take actions of shape {shape}, got {array.shape}"
        )
    if isinstance(space, spaces.Box):
        if not np.isfinite(array).all():
            raise ValueError("an action is not finite")
        return np.clip(array, space.low, space.high).astype(space.dtype, copy=False)
    count: int | np.ndarray = 2
    start: int | np.ndarray = 0
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)
    elif isinstance(space, spaces.MultiDiscrete):
        count, start = space.nvec, space.start
    elif not isinstance(space, spaces.MultiBinary):
        raise ValueError(f"environments with actions of {space} are not supported")
    if array.dtype.kind not in "iu":
        raise ValueError(f"actions are {array.dtype}, expected int64 for {space}")
    if array.min() < 0 or (array >= count).any():
        raise ValueError(f"action outside 0..{count - 1}: {array.min()} to {array.max()}")
    return (array + start).astype(space.dtype, copy=False)


@functools.cache
def lawful(dtype: np.dtype) -> np.dtype:
    """What a field of this dtype becomes as a tensor; torch cannot compute with uint16 to uint64.

    >>> lawful(np.dtype(np.uint16)), lawful(np.dtype(np.uint8))
    (dtype('int32'), dtype('uint8'))
    """
    return np.dtype(_LAWFUL.get(dtype.name, dtype))


def leaves(space: spaces.Space, path: tuple = ()) -> Iterator[tuple[tuple, spaces.Space]]:
    """Where the fields of a nested space lie, without those that are no arrays, such as text.

    >>> [path for path, _ in leaves(spaces.Tuple([spaces.Discrete(2), spaces.Text(9)]))]
    [(0,)]
    """
    items: list[tuple[Any, spaces.Space]] = []
    if isinstance(space, spaces.Dict):
        items = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        items = list(enumerate(space.spaces))
    elif isinstance(
        space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    ):
        yield path, space
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def dotted(path: tuple) -> str:
    """Name of the field at `path`; that of a space without fields is "obs"."""
    return ".".join(map(str, path)) or "obs"


def dig(nested: Any, path: tuple) -> Any:
    """What lies at `path`."""
    for key in path:
        nested = nested[key]
    return nested
