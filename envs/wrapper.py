"""What every wrapper of vector environments passes on."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs, Point, Step
from firstlight.envs.vec import VecEnv, in_background, reported_of, resume_of


class VecWrapper:
    """Vector environments in others' clothes: a base of `VecEnv`s that change what is shown.

    A subclass says in `_changed` what it makes of a step. It resumes as what is inside does, so one
    with a memory of its own saves that too.

    Args:
        vec: what is inside.
    """

    resume: str = "dropped"
    info_space: spaces.Dict

    def __init__(self, vec: VecEnv):
        self._vec = vec
        self.num_envs, self.success_threshold = vec.num_envs, vec.success_threshold
        self.act_space, self.resume = vec.act_space, resume_of(vec)
        self._background = in_background(vec)
        self._action = torch.zeros(vec.num_envs, dtype=torch.int64)

    @property
    def reported(self) -> tuple[str, ...]:
        """What is inside reports, less what the wrapper leaves out."""
        return tuple(name for name in reported_of(self._vec) if name in self.info_space.spaces)

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Begin a step, in the background where the environments can."""
        if self._background:
            self._vec.send(action)  # type: ignore[attr-defined]
        self._action = action.clone()

    def recv(self) -> Step:
        """Wait for the step begun by `send`."""
        vec: Any = self._vec
        step = vec.recv() if self._background else vec.step(self._action)
        return self._changed(step, self._action)

    def kept(self) -> dict[str, Any]:
        """What outlives episodes that are dropped, see `VecEnv`."""
        return self._vec.kept() if hasattr(self._vec, "kept") else {}

    def keep(self, state: dict[str, Any]) -> None:
        """Take back what `kept` gave."""
        if hasattr(self._vec, "keep"):
            self._vec.keep(state)

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment as it is inside, [H, W, 3] uint8."""
        return self._vec.render(env_id)

    def enable_rendering(self) -> None:
        """Have the environments made able to render, where that takes something; then `reset`."""
        if hasattr(self._vec, "enable_rendering"):
            self._vec.enable_rendering()

    def close(self) -> None:
        """Close the environments."""
        self._vec.close()

    def _changed(self, step: Step, action: Tensor) -> Step:
        """What is shown of a step that `action` led to."""
        return step


class MemoryWrapper(VecWrapper, ABC):
    """One with a memory of each environment's episode, saved beside where that stands.

    Attributes:
        prefix: of the memory's arrays among those of a `Point`.
        saved_as: name of the memories in `state_dict`.
        what: it is, for those who give a point that has none.
    """

    prefix: str
    saved_as: str
    what: str

    def points(self) -> list[Point]:
        """Where each environment stands, and its memory."""
        return [
            dataclasses.replace(point, arrays={**(point.arrays or {}), **self._saved(n)})
            for n, point in enumerate(self._vec.points())
        ]

    def restore(self, env_ids: Tensor, points: Sequence[Point]) -> tuple[Obs, Obs, Tensor]:
        """Set environments and memories back to saved `points`; who is lost begins an empty one."""
        inner, saved = [], []
        for point in points:
            arrays = dict(point.arrays or {})
            own = {name: arrays.pop(name) for name in [*arrays] if name.startswith(self.prefix)}
            if not own:
                raise ValueError(f"the point has no map: it was taken without {self.what}")
            inner.append(dataclasses.replace(point, arrays=arrays or None))
            saved.append(own)
        return self._back(env_ids, saved, *self._vec.restore(env_ids, inner))

    def state_dict(self) -> dict[str, Any]:
        """That of the environments, and the memories."""
        memories = [*map(self._saved, range(self.num_envs))]
        return {"vec": self._vec.state_dict(), self.saved_as: memories}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Take such a state back."""
        everyone = torch.arange(self.num_envs)
        return self._back(everyone, state[self.saved_as], *self._vec.load_state_dict(state["vec"]))

    @abstractmethod
    def _saved(self, n: int) -> dict[str, Tensor]:
        """One environment's memory, under names that begin with `prefix`."""

    @abstractmethod
    def _back(
        self,
        env_ids: Tensor,
        saved: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        lost: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        """Take saved memories back, of those that are not `lost`. Returns what `restore` does."""
