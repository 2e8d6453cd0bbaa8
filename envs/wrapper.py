"""Base classes for wrappers around vector environments."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.envs.types import Obs, Snapshot, Step
from firstlight.envs.vec import VecEnv


class VecWrapper(VecEnv):
    """Base class for wrappers around vector environments.

    A subclass that only adds or changes fields sets `obs_space` or `info_space` after
    ``super().__init__(vec)`` and overrides `_transform`. One that needs the action or has a state
    overrides `_transform_step`, `reset`, and the methods that save and restore that state.

    Args:
        vec: the wrapped environments.
    """

    def __init__(self, vec: VecEnv):
        self._vec = vec
        self.num_envs, self.act_space = vec.num_envs, vec.act_space
        self.obs_space, self.info_space = vec.obs_space, vec.info_space
        self.success_threshold, self.resume = vec.success_threshold, vec.resume
        self.text_table, self.left_out = vec.text_table, vec.left_out
        self.max_steps = vec.max_steps
        self._action = torch.zeros(vec.num_envs, dtype=torch.int64)

    def share_texts(self, table: TextTable) -> None:
        """Take text ids from another table, here and inside."""
        self._vec.share_texts(table)
        self.text_table = self._vec.text_table

    @property
    def reported(self) -> tuple[str, ...]:  # type: ignore[override]  # follows `info_space`
        """Channels reported by the wrapped environments that the wrapper does not remove."""
        return tuple(name for name in self._vec.reported if name in self.info_space.spaces)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment."""
        return self._transform(*self._vec.reset(seed))

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Start a step, in the background if the environments can."""
        self._vec.send(action)
        self._action = action.clone()

    def recv(self) -> Step:
        """Wait for the step started by `send`."""
        return self._transform_step(self._vec.recv(), self._action)

    def snapshots(self) -> list[Snapshot]:
        """Current state of each environment, for `restore`."""
        return self._vec.snapshots()

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to snapshots."""
        obs, info, restarted = self._vec.restore(env_ids, snapshots)
        return *self._transform(obs, info), restarted

    def state_dict(self) -> dict[str, Any]:
        """State of the wrapped environments."""
        return {"vec": self._vec.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        obs, info, restarted = self._vec.load_state_dict(state["vec"])
        return *self._transform(obs, info), restarted

    def persistent_state(self) -> dict[str, Any]:
        """State that is kept even when open episodes are dropped."""
        return self._vec.persistent_state()

    def load_persistent_state(self, state: dict[str, Any]) -> None:
        """Load what `persistent_state` returned."""
        self._vec.load_persistent_state(state)

    def enable_rendering(self) -> None:
        """Prepare for `render`, where it needs preparation. Call it before `reset`."""
        self._vec.enable_rendering()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one wrapped environment, [H, W, 3] uint8."""
        return self._vec.render(env_id)

    def close(self) -> None:
        """Close the wrapped environments."""
        self._vec.close()

    def _transform(self, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        """Change observations and side channels of any number of environments."""
        return obs, info

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        """Change a step taken with `action` [N, ...]; the default calls `_transform`."""
        obs, info = self._transform(step.obs, step.info)
        final_obs, final_info = self._transform(step.final_obs, step.final_info)
        return dataclasses.replace(
            step, obs=obs, info=info, final_obs=final_obs, final_info=final_info
        )


class MemoryWrapper(VecWrapper):
    """Base class for wrappers with a memory of each environment's episode, saved in snapshots.

    Attributes:
        prefix: of the memory's arrays in a `Snapshot`.
        saved_as: key of the memories in `state_dict`.
        what: name of the memory in messages, with its article.
    """

    prefix: str
    saved_as: str
    what: str

    def snapshots(self) -> list[Snapshot]:
        """Current state of each environment and its memory, for `restore`."""
        return [
            dataclasses.replace(inner, arrays={**(inner.arrays or {}), **self._save_memory(n)})
            for n, inner in enumerate(self._vec.snapshots())
        ]

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments and memories back to snapshots."""
        inner, memories = [], []
        for snapshot in snapshots:
            arrays = dict(snapshot.arrays or {})
            own = {name: arrays.pop(name) for name in [*arrays] if name.startswith(self.prefix)}
            if not own:
                raise ValueError(
                    f"the snapshot holds no arrays of {self.what}: take it from environments "
                    f"wrapped in {type(self).__name__}"
                )
            inner.append(dataclasses.replace(snapshot, arrays=arrays or None))
            memories.append(own)
        return self._load_memories(env_ids, memories, *self._vec.restore(env_ids, inner))

    def state_dict(self) -> dict[str, Any]:
        """State of the wrapped environments, and the memories."""
        return {
            "vec": self._vec.state_dict(),
            self.saved_as: [*map(self._save_memory, range(self.num_envs))],
        }

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        result = self._vec.load_state_dict(state["vec"])
        return self._load_memories(torch.arange(self.num_envs), state[self.saved_as], *result)

    @abstractmethod
    def _save_memory(self, n: int) -> dict[str, Tensor]:
        """Memory of environment n, with names that begin with `prefix`."""

    @abstractmethod
    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        """Load memories of the environments `env_ids` [M]; those `restarted` get an empty one.

        Returns:
            As `restore`, `obs` and `info` with the memory in them.
        """
