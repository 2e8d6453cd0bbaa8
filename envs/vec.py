"""Base class of vector environments, and helpers for spaces and actions."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.text import TextTable, is_text, text_bytes
from firstlight.envs.types import Obs, Snapshot, Step

_LAWFUL = {
    "float64": "float32",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64",
    "float128": "float32",
    "longdouble": "float32",
}
TEXT = "text"
NOT_CHOSEN = "not among obs_keys"
"""Reasons in `VecEnv.left_out` that everybody expects."""

_REASONS = {
    spaces.Text: TEXT,
    spaces.Sequence: "a sequence of any length",
    spaces.Graph: "a graph",
    spaces.OneOf: "one of several spaces",
}


class VecEnv(ABC):
    """Base class of `num_envs` environments stepped together. Tensors live on the CPU.

    A subclass sets the first four attributes and implements `reset` and `step`; everything else has
    a default. Spaces describe *one* environment.

    Attributes:
        num_envs: `N`.
        obs_space: observations of a policy.
        info_space: side channels for reward modules and statistics.
        act_space: actions of a policy.
        success_threshold: an episode with a return above it is a success; None if not defined.
            A side channel ``"success"`` (int8: 1 yes, 0 no, -1 unknown) takes precedence.
        resume: how open episodes continue after a checkpoint is loaded: "state" from saved arrays,
            "replay" from their seed and actions, "dropped" if they cannot. The first two need
            `snapshots`, `restore`, `state_dict` and `load_state_dict`.
        reported: side channels of one number each, such as the depth in NetHack, whose mean at the
            end of episodes is part of statistics and evaluations.
        text_table: sentences behind text ids in the side channels; None if there are no such ids.
        left_out: observation fields of the environments that are not in `obs_space`, name to
            reason, such as ``{"mission": "text"}``.
        max_steps: time limit of an episode; None if it is not known.
    """

    num_envs: int
    obs_space: spaces.Dict
    info_space: spaces.Dict
    act_space: spaces.Space
    success_threshold: float | None = None
    resume: str = "dropped"
    reported: tuple[str, ...] = ()
    text_table: TextTable | None = None
    left_out: Mapping[str, str] = MappingProxyType({})
    max_steps: int | None = None

    _sent: Tensor | None = None

    @abstractmethod
    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment. Returns obs and info, each field [N, ...]."""

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Step with `action` [N, *action], int64 or for a Box float32.

        Raises:
            ValueError: for an invalid action.
        """

    def send(self, action: Tensor) -> None:
        """Start a step.

        The default keeps `action` for `recv`. Environments that step in the background override
        `step`, `send` and `recv`, so that a runner can work in the meantime.
        """
        self._sent = action

    def recv(self) -> Step:
        """Wait for the step started by `send`. The default calls `step`."""
        if self._sent is None:
            raise RuntimeError("recv() without send(): no step was started")
        action, self._sent = self._sent, None
        return self.step(action)

    def snapshots(self) -> list[Snapshot]:
        """Current state of each environment, for `restore`."""
        raise NotImplementedError(_cannot(self, "take snapshots of open episodes"))

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to snapshots.

        Args:
            env_ids: [M] int64.
            snapshots: M of them.

        Returns:
            obs and info, each field [M, ...], of those environments as they are now, and [M] bool,
            True where a replay gave other results, so that a new episode was begun instead.
        """
        raise NotImplementedError(_cannot(self, "restore open episodes"))

    def state_dict(self) -> dict[str, Any]:
        """State of all environments, including what determines their later episodes."""
        raise NotImplementedError(_cannot(self, "save open episodes"))

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned. Returns as `restore`, for every environment."""
        raise NotImplementedError(_cannot(self, "load open episodes"))

    def persistent_state(self) -> dict[str, Any]:
        """State that is kept even when open episodes are dropped, such as ids of sentences."""
        return {}

    def load_persistent_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Load what `persistent_state` returned."""

    def share_texts(self, table: TextTable) -> None:  # noqa: B027
        """Take text ids from another table, such as that of the training environments."""

    def enable_rendering(self) -> None:  # noqa: B027
        """Prepare for `render`, where it needs preparation. Call it before `reset`."""

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment, [H, W, 3] uint8."""
        raise NotImplementedError(_cannot(self, "render"))

    def close(self) -> None:  # noqa: B027
        """Free resources. May be called more than once."""


def _cannot(vec: VecEnv, what: str) -> str:
    return f"{type(vec).__name__} (resume={vec.resume!r}) cannot {what}"


def check_reported(vec: VecEnv) -> None:
    """Raise ValueError if `vec.reported` names anything but side channels of one number."""
    for name in vec.reported:
        if name in ("return", "length"):
            raise ValueError(
                f"{name!r} cannot be reported: statistics already have a mean of that name"
            )
        if name not in vec.info_space.spaces or vec.info_space[name].shape != ():
            raise ValueError(f"{name!r} is reported but is not a side channel of one number")


def checked_actions(action: Tensor, space: spaces.Space, num_envs: int) -> np.ndarray:
    """Convert a policy's actions to those of the action space `space`, and check them.

    Discrete actions of policies count from 0, so `start` is added; those of a Box are clipped, and
    rounded if it is one of integers.

    Args:
        action: [N, *space.shape], int64 or for a Box float32.
        space: of one environment.
        num_envs: `N`.

    Returns:
        [N, *space.shape] of the dtype of `space`.

    Raises:
        ValueError: for a wrong shape or dtype, or actions that are not finite or out of range.
    """
    array, shape = action.numpy(), (num_envs, *(space.shape or ()))
    if array.shape != shape:
        raise ValueError(
            f"{num_envs} environments take actions of shape {shape}, got {array.shape}"
        )
    if isinstance(space, spaces.Box):
        if not np.isfinite(array).all():
            raise ValueError("an action is NaN or infinite")
        clipped = np.clip(array, space.low, space.high)
        if np.dtype(space.dtype).kind != "f":
            clipped = np.rint(clipped)  # a cast would cut 0.9 to 0
        return clipped.astype(space.dtype, copy=False)
    count: int | np.ndarray = 2
    start: int | np.ndarray = 0
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)
    elif isinstance(space, spaces.MultiDiscrete):
        count, start = space.nvec, space.start
    elif not isinstance(space, spaces.MultiBinary):
        raise ValueError(f"no support for actions of {space}: use a Box or (multi-)discrete ones")
    if array.dtype.kind not in "iu":
        raise ValueError(f"actions are {array.dtype}, expected int64 for {space}")
    if array.min() < 0 or (array >= count).any():
        raise ValueError(f"action outside 0..{count - 1}: {array.min()} to {array.max()}")
    return (array + start).astype(space.dtype, copy=False)


@functools.cache
def lawful(dtype: np.dtype) -> np.dtype:
    """Dtype of a field as a tensor; torch cannot compute with uint16, uint32 and uint64.

    >>> lawful(np.dtype(np.uint16)), lawful(np.dtype(np.uint8))
    (dtype('int32'), dtype('uint8'))
    """
    return np.dtype(_LAWFUL.get(dtype.name, dtype))


def leaves(
    space: spaces.Space, path: tuple = (), *, texts: bool = False
) -> Iterator[tuple[tuple, spaces.Space]]:
    """Paths and spaces of the fields of a nested space, without those that are not arrays.

    With `texts` also those of texts, as `TextBytes`.

    >>> nested = spaces.Tuple([spaces.Discrete(2), spaces.Text(9)])
    >>> [*leaves(nested)], [*leaves(nested, texts=True)]
    ([((0,), Discrete(2))], [((0,), Discrete(2)), ((1,), TextBytes(9))])
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
    elif texts and is_text(space):
        yield path, text_bytes(space)
    for key, inner in items:
        yield from leaves(inner, (*path, key), texts=texts)


def left_out(space: spaces.Space, path: tuple = (), *, texts: bool = False) -> dict[str, str]:
    """Fields of a nested space that `leaves` does not yield, dotted name to reason.

    >>> left_out(spaces.Dict({"mission": spaces.Text(9), "image": spaces.Box(0, 1, (2,))}))
    {'mission': 'text'}
    """
    known = {path for path, _ in leaves(space, path, texts=texts)}
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        found = [left_out(inner, (*path, key), texts=texts) for key, inner in named]
        return {name: reason for one in found for name, reason in one.items()}
    reasons = [reason for kind, reason in _REASONS.items() if isinstance(space, kind)]
    return {} if path in known else {dotted(path): (reasons or [f"a {type(space).__name__}"])[0]}


def dotted(path: tuple) -> str:
    """Name of the field at `path`; "obs" for a space without fields."""
    return ".".join(map(str, path)) or "obs"
