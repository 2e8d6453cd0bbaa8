"""Begin some episodes at stored states of the environment instead of its true starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import generator
from firstlight.envs.types import Obs, Snapshot, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper

RESET_POINT = "reset_point"
"""Side channel: 1 in episodes that began at a reset point, whose statistics are kept apart."""

RESET_POINTS = "reset_points"
"""Key of the points in the persistent state of environments."""


class ResetPoints(MemoryWrapper):
    """Begins a share of the episodes at reset points, for training.

    As in training from demonstrations (Salimans & Chen 2018) and from an archive (Ecoffet et al.
    2021). An episode goes on from the state of its point, with the steps that led there counted by
    the environment's own time limit. A snapshot holds the random state, too: where an environment
    is stochastic, each episode from a point meets the same noise. Evaluations use environments
    without this wrapper.

    Args:
        vec: the environments, which can be restored.
        points: snapshots of such environments; each is as likely as another.
        share: probability that an episode begins at a point. The choices follow from the seed of
            `reset`.

    Raises:
        ValueError: for environments that cannot be restored, no points, or a share outside of 0 to
            1.
    """

    prefix, saved_as, what = "reset_point.", "reset_point", "reset points"

    def __init__(self, vec: VecEnv, points: Sequence[Snapshot], *, share: float = 0.5):
        super().__init__(vec)
        check_restorable(vec)
        if not points or not 0 <= share <= 1:
            raise ValueError(
                f"there are {len(points)} reset points and share is {share}, expected at least one "
                "point and a share from 0 to 1"
            )
        self.points, self.share = list(points), share
        flag = spaces.Box(0, 1, (), np.int8)
        self.info_space = spaces.Dict({**vec.info_space.spaces, RESET_POINT: flag})
        self._generator = generator(0, "reset_points")
        self._from_point = torch.zeros(vec.num_envs, dtype=torch.int8)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, at a point or a true start."""
        if seed is not None:
            self._generator = generator(seed, "reset_points")
        obs, info = self._vec.reset(seed)
        return self._begin(torch.ones(self.num_envs, dtype=torch.bool), obs, info)

    def state_dict(self) -> dict[str, Any]:
        """State of the environments, and the random state of choices."""
        return super().state_dict() | {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        if "points" in state:  # of older versions
            self.points = load_points(state["points"])
        self._generator.set_state(state["generator"])
        return super().load_state_dict(state)

    def persistent_state(self) -> dict[str, Any]:
        """The points: a resumed run need not collect them again."""
        fields = [field.name for field in dataclasses.fields(Snapshot)]
        points = [{name: getattr(point, name) for name in fields} for point in self.points]
        return {**super().persistent_state(), RESET_POINTS: points}

    def load_persistent_state(self, state: dict[str, Any]) -> None:
        """Load what `persistent_state` returned."""
        super().load_persistent_state(state)
        if RESET_POINTS in state:  # else of older versions
            self.points = load_points(state[RESET_POINTS])

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        final_info = {**step.final_info, RESET_POINT: self._from_point[step.final_ids]}
        obs, info = self._begin(step.is_first, step.obs, step.info)
        return dataclasses.replace(step, obs=obs, info=info, final_info=final_info)

    def _begin(self, opens: Tensor, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        """Begin the episodes `opens` [N] bool; returns `obs` and `info` [N, ...] of all."""
        if opens.any():
            at_point = opens & (torch.rand(self.num_envs, generator=self._generator) < self.share)
            which = torch.randint(len(self.points), (self.num_envs,), generator=self._generator)
            ids = at_point.nonzero()[:, 0]
            if len(ids):
                chosen = [self.points[i] for i in which[ids].tolist()]
                own_obs, own_info, lost = self._vec.restore(ids, chosen)
                at_point[ids[lost]] = False  # these have a new episode at a true start
                obs = {name: _with_rows(field, ids, own_obs[name]) for name, field in obs.items()}
                info = {n: _with_rows(field, ids, own_info[n]) for n, field in info.items()}
            self._from_point = torch.where(opens, at_point.to(torch.int8), self._from_point)
        return obs, {**info, RESET_POINT: self._from_point.clone()}

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        return {f"{self.prefix}flag": self._from_point[n].clone()}

    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        flags = torch.stack([torch.as_tensor(m[f"{self.prefix}flag"]) for m in memories])
        flags = torch.where(restarted, 0, flags).to(torch.int8)
        self._from_point = _with_rows(self._from_point, env_ids, flags)
        return obs, {**info, RESET_POINT: flags}, restarted


def load_points(saved: Sequence[Mapping[str, Any]]) -> list[Snapshot]:
    """Return the points in the persistent state of environments."""
    return [Snapshot(**fields) for fields in saved]


def check_restorable(vec: VecEnv) -> None:
    """Raise ValueError if the environments `vec` cannot be set back to a snapshot."""
    if vec.resume == "dropped":
        raise ValueError(
            f"{type(vec).__name__} cannot be set back to earlier states: use environments whose "
            "open episodes continue after a checkpoint (resume 'state' or 'replay')"
        )


def _with_rows(field: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Copy `field` [N, ...] with `rows` [M, ...] at `ids` [M]."""
    out = field.clone()
    out[ids] = rows
    return out
