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
    """Begins a share of the episodes at reset points, for training, ever earlier in a trajectory.

    A trajectory is a list of points on the way to a reward. Episodes of a trajectory begin at its
    last point at first. One with a return above 0 moves the start of the next ones earlier, by half
    of the points; one without moves it back and halves this stride, down to a single point. Before
    the first point is the true start. So episodes soon begin where about every second one succeeds,
    neither where the reward is certain nor where it is out of reach (backwards as by Salimans &
    Chen 2018, Florensa et al. 2017).

    An episode goes on from the state of its point, with the steps that led there counted by the
    environment's own time limit. A snapshot holds the random state, too: where an environment is
    stochastic, each episode from a point meets the same noise. Evaluations use environments without
    this wrapper.

    Args:
        vec: the environments, which can be restored.
        trajectories: lists of snapshots of such environments, in the order of time; each is as
            likely as another.
        share: probability that an episode is one of a trajectory. The choices follow from the seed
            of `reset`.

    Attributes:
        positions: [M] int64, number of the point at which episodes of a trajectory begin; -1 is the
            true start.
        strides: [M] int64, number of points that the next episode moves it by.

    Raises:
        ValueError: for environments that cannot be restored, no points, or a share outside of 0 to
            1.
    """

    prefix, saved_as, what = "reset_point.", "reset_point", "reset points"

    def __init__(
        self, vec: VecEnv, trajectories: Sequence[Sequence[Snapshot]], *, share: float = 0.9
    ):
        super().__init__(vec)
        check_restorable(vec)
        if not trajectories or not all(trajectories) or not 0 <= share <= 1:
            raise ValueError(
                f"there are {len(trajectories)} trajectories and share is {share}, expected at "
                "least one, none without a reset point, and a share from 0 to 1"
            )
        self.trajectories, self.share = [list(points) for points in trajectories], share
        self._begin_anew()
        flag = spaces.Box(0, 1, (), np.int8)
        self.info_space = spaces.Dict({**vec.info_space.spaces, RESET_POINT: flag})
        self._generator = generator(0, "reset_points")
        self._episodes = {
            "trajectory": torch.full((vec.num_envs,), -1),  # of the episode; -1 is none
            "point": torch.full((vec.num_envs,), -1),  # at which it began
            "return": torch.zeros(vec.num_envs),  # so far
        }

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; with a seed, all trajectories at their ends."""
        if seed is not None:
            self._generator = generator(seed, "reset_points")
            self._begin_anew()
        obs, info = self._vec.reset(seed)
        return self._begin(torch.ones(self.num_envs, dtype=torch.bool), obs, info)

    def state_dict(self) -> dict[str, Any]:
        """State of the environments, positions, and the random state of choices."""
        return super().state_dict() | {
            "positions": self.positions.clone(),
            "strides": self.strides.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        self.positions, self.strides = state["positions"].clone(), state["strides"].clone()
        self._generator.set_state(state["generator"])
        return super().load_state_dict(state)

    def persistent_state(self) -> dict[str, Any]:
        """The points: a resumed run need not collect them again."""
        saved = [[_fields(point) for point in points] for points in self.trajectories]
        return {**super().persistent_state(), RESET_POINTS: saved}

    def load_persistent_state(self, state: dict[str, Any]) -> None:
        """Load what `persistent_state` returned."""
        super().load_persistent_state(state)
        self.trajectories = load_trajectories(state[RESET_POINTS])
        self._begin_anew()

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        self._episodes["return"] = self._episodes["return"] + step.reward * step.valid
        self._move_starts((step.terminated | step.truncated) & step.valid)
        final_info = {**step.final_info, RESET_POINT: self._flags()[step.final_ids]}
        obs, info = self._begin(step.is_first, step.obs, step.info)
        return dataclasses.replace(step, obs=obs, info=info, final_info=final_info)

    def _move_starts(self, ended: Tensor) -> None:
        """Move the starts of trajectories whose episodes `ended` [N] bool."""
        positions, strides, last = self.positions, self.strides, self._last_points()
        for n in (ended & (self._episodes["trajectory"] >= 0)).nonzero()[:, 0].tolist():
            way, point = (int(self._episodes[name][n]) for name in ("trajectory", "point"))
            if self._episodes["return"][n] > 0:
                positions[way] = positions[way].clamp(max=max(point - int(strides[way]), -1))
            else:
                later = min(point + int(strides[way]), int(last[way]))
                positions[way] = positions[way].clamp(min=later)
                strides[way] = (strides[way] // 2).clamp(min=1)

    def _begin(self, opens: Tensor, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        """Begin the episodes `opens` [N] bool; returns `obs` and `info` [N, ...] of all."""
        if opens.any():
            chosen = torch.rand(self.num_envs, generator=self._generator) < self.share
            ways = torch.randint(len(self.trajectories), chosen.shape, generator=self._generator)
            ways = torch.where(chosen, ways, -1)
            points = torch.where(chosen, self.positions[ways], -1)
            ids = (opens & (points >= 0)).nonzero()[:, 0]
            if len(ids):
                starts = [self.trajectories[ways[n]][points[n]] for n in ids.tolist()]
                own_obs, own_info, lost = self._vec.restore(ids, starts)
                ways[ids[lost]] = points[ids[lost]] = -1  # these have a new episode
                obs = {name: _with_rows(field, ids, own_obs[name]) for name, field in obs.items()}
                info = {n: _with_rows(field, ids, own_info[n]) for n, field in info.items()}
            begun = {"trajectory": ways, "point": points, "return": torch.zeros(self.num_envs)}
            self._episodes = {
                name: torch.where(opens, begun[name], field)
                for name, field in self._episodes.items()
            }
        return obs, {**info, RESET_POINT: self._flags()}

    def _flags(self) -> Tensor:
        """Whether the open episodes began at a point, [N] int8."""
        return (self._episodes["point"] >= 0).to(torch.int8)

    def _begin_anew(self) -> None:
        """Let every trajectory begin at its last point."""
        self.positions = self._last_points()
        self.strides = ((self.positions + 1) // 2).clamp(min=1)

    def _last_points(self) -> Tensor:
        return torch.tensor([len(points) - 1 for points in self.trajectories])

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        return {f"{self.prefix}{name}": f[n].clone() for name, f in self._episodes.items()}

    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        for name, empty in (("trajectory", -1), ("point", -1), ("return", 0.0)):
            saved = torch.stack([torch.as_tensor(m[f"{self.prefix}{name}"]) for m in memories])
            saved = torch.where(restarted, empty, saved).to(self._episodes[name].dtype)
            self._episodes[name] = _with_rows(self._episodes[name], env_ids, saved)
        return obs, {**info, RESET_POINT: self._flags()[env_ids]}, restarted


def load_trajectories(saved: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Snapshot]]:
    """Return the trajectories in the persistent state of environments, under `RESET_POINTS`."""
    return [[Snapshot(**fields) for fields in points] for points in saved]


def _fields(point: Snapshot) -> dict[str, Any]:
    return {field.name: getattr(point, field.name) for field in dataclasses.fields(point)}


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
