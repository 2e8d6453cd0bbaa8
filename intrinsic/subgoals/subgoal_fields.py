"""`SubgoalFields`, which shows the current subgoal to the policy and tests when it is reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import LEVEL, TARGET
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper
from firstlight.intrinsic.subgoals.planner_kernels import MOST, advance_subgoals, show_ways
from firstlight.intrinsic.subgoals.plans import UNKNOWN, Levels
from firstlight.intrinsic.subgoals.teachers import Kind, Teacher

SUBGOAL = "subgoal"
BONUS, REACHED, PLANNED = "subgoal_bonus", "subgoals_reached", "subgoals_planned"
Last = Literal["fallback", "shown", "paid"]
"""What happens when only the last subgoal is left."""

_UNIT = 4.0  # cells; so that distances of a few cells are numbers of about 1
_LARGEST_CODE = 10.0
_ASK_EVERY = 16  # steps between two questions for a plan that is not known yet


class SubgoalFields(MemoryWrapper):
    """Wrapper that adds the current subgoal as the field `subgoal`, and its reward as a channel.

    When an episode begins the teacher plans its level. The subgoals are reached in their order; see
    `planner_kernels.advance_subgoals` for when. Side channels: `subgoal_bonus` float32, the reward
    of the last step, ``1 - k / max_steps`` for a current subgoal reached k steps after the one
    before; `subgoals_reached` so far in the episode, and `subgoals_planned`.

    The fields, and what stands in them where there is no subgoal:

    ==============  =======================================================================  ==
    relative        [2] columns and rows from the agent to the subgoal, in units of 4 cells   0
    representation  [3] object, colour and state of its cell when it was planned             -1
    language        [E] embedding of its name, such as "locked red door"                      0
    ==============  =======================================================================  ==

    Args:
        vec: with the side channels `level`, `target` and `agent_pos`.
        teacher: plans levels; shared with other wrappers.
        kind: what the policy sees.
        last: when only the last subgoal is left: "fallback" shows no subgoal any more and gives no
            reward for it, "shown" shows it, "paid" also rewards it.
        egocentric: turn `relative` to the agent's heading: cells ahead, and to its right.
        hidden: do not add the field, only the rewards.
        max_steps: T_max of the reward; default the environments' time limit.
        embeddings: [X, E] float32, of each phrase and at last of none; for "language".
        phrases: [512] int64, number of the phrase of each code; for "language".

    Raises:
        ValueError: if a side channel or the time limit is missing, or `subgoal` is taken.
    """

    prefix, saved_as, what = "subgoal.", "subgoals", "a subgoal's progress"

    def __init__(
        self,
        vec: VecEnv,
        teacher: Teacher,
        *,
        kind: Kind = "relative",
        last: Last = "paid",
        egocentric: bool = True,
        hidden: bool = False,
        max_steps: int | None = None,
        embeddings: np.ndarray | None = None,
        phrases: np.ndarray | None = None,
    ):
        check_level(vec.info_space)
        if SUBGOAL in vec.obs_space.spaces:
            raise ValueError("the environment has a field 'subgoal' already: one teacher only")
        limit = max_steps or vec.max_steps
        if limit is None:
            raise ValueError("the environment has no time limit: give max_steps")
        super().__init__(vec)
        self.teacher, self.kind, self.last, self.hidden = teacher, kind, last, hidden
        self.egocentric, self._limit = egocentric, limit
        self._embeddings, self._phrases = embeddings, phrases
        shape = vec.info_space[LEVEL].shape
        assert shape is not None
        side = float(max(shape))
        self._field: OptionalBox
        if kind == "relative":
            self._field = OptionalBox(-side / _UNIT, side / _UNIT, (2,), default=0.0)
        elif kind == "representation":
            self._field = OptionalBox(-1, _LARGEST_CODE, (3,), default=-1.0)
        else:
            assert embeddings is not None
            self._field = OptionalBox(-1, 1, (embeddings.shape[1],), default=0.0)
        if not hidden:
            self.obs_space = spaces.Dict({**vec.obs_space.spaces, SUBGOAL: self._field})
        count = spaces.Box(0, MOST, (), np.int64)
        added = {BONUS: spaces.Box(0, 1, (), np.float32), REACHED: count, PLANNED: count}
        self.info_space = spaces.Dict({**vec.info_space.spaces, **added})
        N = vec.num_envs
        self._all, self._steps = np.arange(N), 0
        self._memory: dict[str, np.ndarray] = {
            "level": np.zeros((N, *shape), np.int16),
            "cells": np.zeros((N, MOST, 2), np.int16),
            "codes": np.zeros((N, MOST), np.int16),
            "length": np.zeros(N, np.int64),
            "index": np.zeros(N, np.int64),
            "since": np.zeros(N, np.int64),
            "done": np.zeros((N, MOST), np.bool_),
            "reached": np.zeros(N, np.int64),
            "bonus": np.zeros(N, np.float32),  # of the last step
            "first_level": np.zeros((N, *shape), np.int16),  # as the teacher saw it
            "first_agent": np.zeros((N, 2), np.int64),
            "target": np.zeros(N, np.int64),
        }

    @property
    def reported(self) -> tuple[str, ...]:  # type: ignore[override]
        """Also the number of subgoals reached and planned, at the end of episodes."""
        return (*super().reported, REACHED, PLANNED)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, and plan its level."""
        obs, info = self._vec.reset(seed)
        self._begin(self._all, info)
        return self._show(self._all, obs, info)

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        ends, opens = step.final_ids.numpy(), step.is_first.numpy()
        self._memory["bonus"][:] = 0
        moved = np.flatnonzero(step.valid.numpy() & ~opens)
        self._advance(moved, step.info, moved)
        if len(ends):  # the last observation, before the episode's plan is replaced
            self._advance(ends, step.final_info, np.arange(len(ends)))
        final_obs, final_info = self._show(ends, step.final_obs, step.final_info)
        if opens.any():
            self._begin(np.flatnonzero(opens), step.info)
        self._steps += 1
        if self._steps % _ASK_EVERY == 0:
            self._ask_again()
        obs, info = self._show(self._all, step.obs, step.info)
        return dataclasses.replace(
            step, obs=obs, info=info, final_obs=final_obs, final_info=final_info
        )

    def _begin(self, rows: np.ndarray, info: Obs) -> None:
        """Plan the levels of the environments `rows` [M], whose `info` is [N, ...]."""
        memory = self._memory
        memory["level"][rows] = memory["first_level"][rows] = info[LEVEL].numpy()[rows]
        memory["first_agent"][rows] = info["agent_pos"].numpy()[rows]
        memory["target"][rows] = info[TARGET].numpy()[rows]
        for name in ("index", "since", "done", "reached", "bonus"):
            memory[name][rows] = 0
        self._plan(rows)

    def _plan(self, rows: np.ndarray) -> None:
        memory = self._memory
        seen = (memory[name][rows] for name in ("first_level", "first_agent", "target"))
        plans = self.teacher.plan(Levels(*seen))
        memory["cells"][rows], memory["codes"][rows] = plans.cells, plans.codes
        memory["length"][rows] = plans.length

    def _ask_again(self) -> None:
        """Ask for the plans of running episodes that were not known when they began.

        What has changed until then counts as reached.
        """
        memory = self._memory
        rows = np.flatnonzero(memory["length"] == UNKNOWN)
        if not len(rows):
            return
        self._plan(rows)
        at = rows[:, None], *np.moveaxis(memory["cells"][rows], -1, 0)
        memory["done"][rows] = memory["level"][at] != memory["first_level"][at]
        for n in rows:
            while (
                memory["index"][n] < memory["length"][n] and memory["done"][n, memory["index"][n]]
            ):
                memory["index"][n] += 1

    def _advance(self, rows: np.ndarray, info: Obs, places: np.ndarray) -> None:
        """Count a step of the environments `rows` [M], which are at `places` [M] of `info`."""
        memory, bonus = self._memory, np.empty(len(rows), np.float32)
        level, agent = info[LEVEL].numpy()[places], info["agent_pos"].numpy()[places]
        advance_subgoals(
            rows,
            level,
            agent,
            memory["level"],
            memory["cells"],
            memory["length"],
            memory["index"],
            memory["since"],
            memory["done"],
            self._limit,
            self.last == "paid",
            bonus,
        )
        memory["bonus"][rows] = bonus
        memory["reached"][rows] += bonus > 0

    def _show(self, rows: np.ndarray, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        """Add the field and the channels to `obs` and `info` of the environments `rows` [M]."""
        memory = self._memory
        added = {
            BONUS: torch.from_numpy(memory["bonus"][rows]),
            REACHED: torch.from_numpy(memory["reached"][rows]),
            PLANNED: torch.from_numpy(np.maximum(memory["length"][rows], 0)),
        }
        if not self.hidden:
            obs = {**obs, SUBGOAL: torch.from_numpy(self._shown(rows, obs, info))}
        return obs, {**info, **added}

    def _shown(self, rows: np.ndarray, obs: Obs, info: Obs) -> np.ndarray:
        """Field of the environments `rows` [M]: [M, ...] float32."""
        memory = self._memory
        field = np.full((len(rows), *self._field.shape), self._field.default, np.float32)
        if not len(rows):
            return field
        usable = memory["length"] - (self.last == "fallback")
        if self.kind == "relative":
            heading = obs["direction"].numpy() if self.egocentric else rows
            places = info["agent_pos"].numpy(), heading, memory["cells"], memory["index"], usable
            show_ways(rows, *places, self.egocentric, _UNIT, field)
            return field
        there = memory["index"][rows] < usable[rows]
        codes = memory["codes"][rows[there], memory["index"][rows[there]]]
        if self.kind == "representation":
            field[there] = np.stack([codes & 15, codes >> 4 & 7, codes >> 7 & 3], -1)
        else:
            assert self._embeddings is not None
            assert self._phrases is not None
            field[there] = self._embeddings[self._phrases[codes & 511]]
        return field

    def _save_memory(self, n: int) -> dict[str, Tensor]:
        return {
            self.prefix + name: torch.from_numpy(np.array(array[n]))
            for name, array in self._memory.items()
        }

    def _load_memories(
        self,
        env_ids: Tensor,
        memories: Sequence[Mapping[str, Tensor]],
        obs: Obs,
        info: Obs,
        restarted: Tensor,
    ) -> tuple[Obs, Obs, Tensor]:
        """Load each environment's progress, or make a new plan where it was restarted."""
        rows = env_ids.numpy()
        new = np.flatnonzero(restarted.numpy())
        if len(new):
            wide = {
                name: torch.zeros((self.num_envs, *info[name].shape[1:]), dtype=info[name].dtype)
                for name in (LEVEL, TARGET, "agent_pos")
            }
            for name, field in wide.items():
                field[env_ids] = info[name]
            self._begin(rows[new], wide)
        for n, arrays, gone in zip(rows.tolist(), memories, restarted.tolist(), strict=True):
            if not gone:
                for name, array in self._memory.items():
                    array[n] = arrays[self.prefix + name].numpy()
        return *self._show(rows, obs, info), restarted


def check_level(info_space: spaces.Dict) -> None:
    """Raise ValueError if side channels lack what a teacher of whole levels needs."""
    if not {LEVEL, TARGET, "agent_pos"} <= {*info_space.spaces}:
        raise ValueError(
            "a teacher of subgoals needs whole levels, the side channels 'level' and 'target', "
            "which MiniGrid has with env.backend=native"
        )
