"""`GoalFields`, which shows a learned teacher's goal to the policy and tests when it is reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import LEVEL
from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import VecEnv
from firstlight.envs.wrapper import MemoryWrapper
from firstlight.intrinsic.subgoals.planner_kernels import show_ways
from firstlight.intrinsic.subgoals.subgoal_fields import check_level

GOAL_FIELD = "goal"
GOAL_CELL, GOAL_IS_NEW, GOAL_STEPS = "goal_cell", "goal_is_new", "goal_steps"
_UNIT = 4.0  # cells

Propose = Callable[[Tensor, Tensor, np.ndarray], Tensor]
"""`GoalTeacher.propose`: levels [B, W, H], agents [B, 2] and seeds [B] to cells [B]."""


class GoalFields(MemoryWrapper):
    """Wrapper that asks for a goal at the beginning of an episode, and whenever one is reached.

    A goal is a cell. It is reached if its content changes or the agent stands on it. The policy
    sees the way to it as the field `goal` [2], turned to its heading: cells ahead and to the right,
    in units of 4 cells.

    Side channels: `goal_cell`, the goal from now on, column times the number of rows plus row;
    `goal_is_new`, 1 where it was proposed now; `goal_steps`, the steps that the goal before took if
    the last step reached it, -1 if the episode ended before, else 0.

    Args:
        vec: with the side channels `level` and `agent_pos`, and `direction`.
        propose: proposes goals.
        seed: of the proposals.
        shown: whether the policy sees the goal.

    Raises:
        ValueError: if a side channel is missing or `goal` is taken.
    """

    prefix, saved_as, what = "goal.", "goals", "a goal's progress"

    def __init__(self, vec: VecEnv, propose: Propose, *, seed: int = 0, shown: bool = True):
        check_level(vec.info_space)
        if GOAL_FIELD in vec.obs_space.spaces:
            raise ValueError("the environment has a field 'goal' already: one teacher only")
        super().__init__(vec)
        self.propose, self.seed, self.shown = propose, seed, shown
        shape = vec.info_space[LEVEL].shape
        assert shape is not None
        W, self._rows = shape
        side = max(shape) / _UNIT
        if shown:
            field = OptionalBox(-side, side, (2,), default=0.0)
            self.obs_space = spaces.Dict({**vec.obs_space.spaces, GOAL_FIELD: field})
        limit = np.iinfo(np.int64).max
        added: dict[str, spaces.Space] = {
            GOAL_CELL: spaces.Box(0, W * self._rows, (), np.int64),
            GOAL_IS_NEW: spaces.Box(0, 1, (), np.int64),
            GOAL_STEPS: spaces.Box(-1, limit, (), np.int64),
        }
        self.info_space = spaces.Dict({**vec.info_space.spaces, **added})
        N = vec.num_envs
        self._all = np.arange(N)
        self._memory: dict[str, np.ndarray] = {
            "level": np.zeros((N, *shape), np.int16),
            **{name: np.zeros(N, np.int64) for name in ("cell", "new", "steps", "age", "count")},
        }

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, with a goal for each."""
        obs, info = self._vec.reset(seed)
        if seed is not None:
            self._memory["count"][:] = derive(seed, "goals") << 20
        self._memory["steps"][:] = 0
        self._begin(self._all, info)
        return self._show(self._all, obs, info)

    def _transform_step(self, step: Step, action: Tensor) -> Step:
        memory = self._memory
        ends, opens = step.final_ids.numpy(), step.is_first.numpy()
        memory["new"][:], memory["steps"][:] = 0, 0
        moved = np.flatnonzero(step.valid.numpy() & ~opens)
        over = (step.terminated | step.truncated).numpy()
        reached = self._advance(moved, step.info, moved, over[moved])
        if len(ends):
            self._advance(ends, step.final_info, np.arange(len(ends)), np.ones(len(ends), bool))
        final_obs, final_info = self._show(ends, step.final_obs, step.final_info)
        memory["steps"][opens] = 0
        if len(begins := np.union1d(np.flatnonzero(opens), reached)):
            self._begin(begins, step.info)
        obs, info = self._show(self._all, step.obs, step.info)
        return dataclasses.replace(
            step, obs=obs, info=info, final_obs=final_obs, final_info=final_info
        )

    def _begin(self, rows: np.ndarray, info: Obs) -> None:
        """Propose goals for the environments `rows` [M], whose `info` is [N, ...]."""
        memory = self._memory
        level, agent = info[LEVEL][rows], info["agent_pos"][rows]
        numbers = np.array(
            [derive(self.seed, "goal", int(n), int(memory["count"][n])) for n in rows]
        )
        memory["level"][rows] = level.numpy()
        memory["cell"][rows] = self.propose(level, agent, numbers).numpy()
        memory["count"][rows] += 1
        memory["new"][rows], memory["age"][rows] = 1, 0

    def _advance(
        self, rows: np.ndarray, info: Obs, places: np.ndarray, over: np.ndarray
    ) -> np.ndarray:
        """Count a step of the environments `rows`, at `places` of `info`. Returns who reached."""
        memory = self._memory
        level = info[LEVEL].numpy()[places]
        x, y = memory["cell"][rows] // self._rows, memory["cell"][rows] % self._rows
        here = np.stack([x, y], 1)
        stands = (info["agent_pos"].numpy()[places] == here).all(1)
        m = np.arange(len(rows))
        reached = stands | (level[m, x, y] != memory["level"][rows, x, y])
        memory["age"][rows] += 1
        age = memory["age"][rows]
        memory["steps"][rows] = np.where(reached, age, np.where(over, -1, 0))
        memory["level"][rows] = level
        return rows[reached & ~over]

    def _show(self, rows: np.ndarray, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        memory = self._memory
        names = ((GOAL_CELL, "cell"), (GOAL_IS_NEW, "new"), (GOAL_STEPS, "steps"))
        added = {name: torch.from_numpy(memory[own][rows]) for name, own in names}
        if self.shown:
            field = np.zeros((len(rows), 2), np.float32)
            cell, ones = memory["cell"], np.ones(self.num_envs, np.int64)
            cells = np.stack([cell // self._rows, cell % self._rows], -1).astype(np.int16)
            places = info["agent_pos"].numpy(), obs["direction"].numpy(), cells[:, None]
            show_ways(rows, *places, 0 * ones, ones, True, _UNIT, field)
            obs = {**obs, GOAL_FIELD: torch.from_numpy(field)}
        return obs, {**info, **added}

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
        """Load the goals of environments that were not restarted; propose others for the rest."""
        rows = env_ids.numpy()
        for n, arrays in zip(rows.tolist(), memories, strict=True):
            for name, array in self._memory.items():
                array[n] = arrays[self.prefix + name].numpy()
        new = np.flatnonzero(restarted.numpy())
        if len(new):
            wide = {
                name: torch.zeros((self.num_envs, *info[name].shape[1:]), dtype=info[name].dtype)
                for name in (LEVEL, "agent_pos")
            }
            for name, field in wide.items():
                field[env_ids] = info[name]
            self._memory["steps"][rows[new]] = 0
            self._begin(rows[new], wide)
        return *self._show(rows, obs, info), restarted
