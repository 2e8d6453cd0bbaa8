"""Base class of environments whose state is arrays: autoreset, snapshots and saving."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.types import Obs, Snapshot, Step, take
from firstlight.envs.vec import VecEnv, checked_actions

Autoreset = Literal["same_step", "next_step"]


class ArrayBacked(VecEnv):
    """Base class of environments whose state is arrays with a row for each environment.

    A subclass implements `_advance`, `_begin` and `_observe`, and calls `_begin_all` in `reset`.

    Args:
        num_envs: `N`.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Attributes:
        _saved: names of the attributes [N, ...] that form the state, without their underscore.

    Raises:
        ValueError: for another `autoreset`.
    """

    resume = "state"
    _saved: ClassVar[tuple[str, ...]]

    def __init__(self, num_envs: int, autoreset: Autoreset = "same_step"):
        if autoreset not in ("same_step", "next_step"):
            raise ValueError(f"autoreset is {autoreset!r}, expected 'same_step' or 'next_step'")
        self.num_envs, self.autoreset = num_envs, autoreset
        self._over = torch.zeros(num_envs, dtype=torch.bool)  # reset in the next call of `step`
        self._all = torch.arange(num_envs)
        self._no_rows: tuple[Obs, Obs] | None = None  # of a step in which no episode ends

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32."""
        actions = checked_actions(action, self.act_space, self.num_envs)
        valid = ~self._over
        reward, terminated, truncated = self._advance(actions, valid)
        if self.autoreset == "next_step":
            reward = torch.where(valid, reward, 0.0)
            terminated, truncated = terminated & valid, truncated & valid
            self._begin(self._over.nonzero()[:, 0])
        done = terminated | truncated
        obs, info = self._observe(self._all)
        if self.autoreset == "next_step":
            is_first, self._over, final_ids = ~valid, done, self._all[:0]
        else:
            is_first, final_ids = done, torch.from_numpy(np.flatnonzero(done.numpy()))
        if len(final_ids):
            final_obs, final_info = take(obs, final_ids), take(info, final_ids)
            self._begin(final_ids)
            obs, info = self._observe(self._all)
        else:
            if self._no_rows is None:
                self._no_rows = take(obs, final_ids), take(info, final_ids)
            final_obs, final_info = (dict(part) for part in self._no_rows)
        return Step(
            obs=obs,
            info=info,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            is_first=is_first,
            final_ids=final_ids,
            final_obs=final_obs,
            final_info=final_info,
        )

    def snapshots(self) -> list[Snapshot]:
        """Current state of each environment, for `restore`."""
        rows = self._tensors()
        return [
            Snapshot(arrays={name: row[n].clone() for name, row in rows.items()})
            for n in range(self.num_envs)
        ]

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to snapshots, which always succeeds."""
        for name, whole in self._tensors().items():
            whole = whole.clone()  # tensors made in inference mode cannot be written to
            for n, snapshot in zip(env_ids.tolist(), snapshots, strict=True):
                if snapshot.arrays is None:
                    raise ValueError(
                        f"the snapshot has no arrays, but {type(self).__name__} is restored from "
                        "arrays: take it from an environment of the same class"
                    )
                whole[n] = snapshot.arrays[name]
            self._set(name, whole)
        return *self._observe(env_ids), torch.zeros(len(env_ids), dtype=torch.bool)

    def state_dict(self) -> dict[str, Any]:
        """State of every environment."""
        return {"points": [dataclasses.asdict(snapshot) for snapshot in self.snapshots()]}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        return self.restore(self._all, [Snapshot(**arrays) for arrays in state["points"]])

    @abstractmethod
    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step every environment.

        Args:
            actions: of the shape and dtype of the action space.
            valid: [N] bool; the others are reset afterwards, and their results are not used.

        Returns:
            reward [N] float32, terminated and truncated [N] bool, never both.
        """

    @abstractmethod
    def _begin(self, ids: Tensor) -> None:
        """Begin an episode in the environments `ids` [M] int64."""

    @abstractmethod
    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        """Observations and side channels of the environments `ids` [M], in new tensors."""

    def _begin_all(self) -> tuple[Obs, Obs]:
        """Begin an episode in every environment. Returns as `reset`."""
        self._over = torch.zeros(self.num_envs, dtype=torch.bool)
        self._begin(self._all)
        return self._observe(self._all)

    def _tensors(self) -> dict[str, Tensor]:
        """State as tensors that share memory with it."""
        return {name: torch.as_tensor(getattr(self, f"_{name}")) for name in self._saved}

    def _set(self, name: str, value: Tensor) -> None:
        """Replace one of the arrays; tensors stay tensors and numpy arrays numpy arrays."""
        is_tensor = isinstance(getattr(self, f"_{name}"), Tensor)
        setattr(self, f"_{name}", value if is_tensor else value.numpy())
