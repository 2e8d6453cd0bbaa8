"""Worlds of our own that save and set back where they stand."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from firstlight.envs.types import Obs, Snapshot
from firstlight.envs.vec import VecEnv


class Saved(VecEnv):
    """A world whose state is some tensors or arrays with a row for each environment.

    Attributes:
        num_envs: `N`.
        _rows: names of the attributes [N, ...] that are the state, without their underscore.
    """

    resume = "state"
    _rows: ClassVar[tuple[str, ...]]

    def snapshots(self) -> list[Snapshot]:
        """Where each environment stands, for `restore`."""
        rows = {name: torch.as_tensor(getattr(self, f"_{name}")) for name in self._rows}
        return [
            Snapshot(arrays={name: row[i].clone() for name, row in rows.items()})
            for i in range(self.num_envs)
        ]

    def restore(self, env_ids: Tensor, points: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to saved `points`; none is ever lost."""
        for name in self._rows:
            before = getattr(self, f"_{name}")
            whole = torch.as_tensor(before).clone()  # also of what inference mode has left
            for i, point in zip(env_ids.tolist(), points, strict=True):
                if point.arrays is None:
                    kind = type(self).__name__
                    raise ValueError(f"{kind} goes back to saved arrays, and the point has none")
                whole[i] = point.arrays[name]
            setattr(self, f"_{name}", whole if isinstance(before, Tensor) else whole.numpy())
        return *self._shown(env_ids), torch.zeros(len(env_ids), dtype=torch.bool)

    def state_dict(self) -> dict[str, Any]:
        """Where each environment stands."""
        return {"points": [dataclasses.asdict(point) for point in self.snapshots()]}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Take such a state back."""
        return self.restore(torch.arange(self.num_envs), [Snapshot(**p) for p in state["points"]])

    @abstractmethod
    def _shown(self, ids: Tensor) -> tuple[Obs, Obs]:
        """Observation and side channels of the environments `ids` [M], as they stand."""
