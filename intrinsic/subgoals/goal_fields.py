"""`GoalFields`, which shows a learned teacher's goal to the policy and tests when it is reached."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
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
from firstlight.intrinsic.language.choices import need_text
from firstlight.intrinsic.subgoals.planner_kernels import show_ways
from firstlight.intrinsic.subgoals.sentence_teacher import WIDTH, SentenceTeacher
from firstlight.intrinsic.subgoals.subgoal_fields import check_level

GOAL_FIELD = "goal"
GOAL, GOAL_IS_NEW, GOAL_STEPS = "goal_number", "goal_is_new", "goal_steps"
_UNIT = 4.0  # cells

Propose = Callable[[Tensor, Tensor, np.ndarray], Tensor]
"""`GoalTeacher.propose`: levels [B, W, H], agents [B, 2] and seeds [B] to cells [B]."""


class GoalFields(MemoryWrapper):
    """Wrapper that asks for a goal at the beginning of an episode, and whenever one is reached.

    Subclasses say what a goal is. Side channels: `goal_number`, the goal from now on;
    `goal_is_new`, 1 where it was proposed now; `goal_steps`, the steps that the goal before took if
    the last step reached it, -1 if the episode ended before, else 0.

    Args:
        vec: vector environment.
        field: space of the field `goal`.
        largest: largest number of a goal.
        seed: of the proposals.
        shown: whether the policy sees the goal.

    Raises:
        ValueError: if `goal` is taken.
    """

    prefix, saved_as, what = "goal.", "goals", "a goal's progress"

    def __init__(
        self, vec: VecEnv, field: OptionalBox, *, largest: int, seed: int = 0, shown: bool = True
    ):
        if GOAL_FIELD in vec.obs_space.spaces:
            raise ValueError("the environment has a field 'goal' already: one teacher only")
        super().__init__(vec)
        self.seed, self.shown = seed, shown
        if shown:
            self.obs_space = spaces.Dict({**vec.obs_space.spaces, GOAL_FIELD: field})
        limit = np.iinfo(np.int64).max
        added: dict[str, spaces.Space] = {
            GOAL: spaces.Box(0, largest, (), np.int64),
            GOAL_IS_NEW: spaces.Box(0, 1, (), np.int64),
            GOAL_STEPS: spaces.Box(-1, limit, (), np.int64),
        }
        self.info_space = spaces.Dict({**vec.info_space.spaces, **added})
        N = vec.num_envs
        self._all = np.arange(N)
        self._memory: dict[str, np.ndarray] = {
            name: np.zeros(N, np.int64) for name in ("goal", "new", "steps", "age", "count")
        }

    @abstractmethod
    def _propose(
        self, rows: np.ndarray, obs: Obs, info: Obs, places: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        """Propose goals [M] for the environments `rows` [M], which are at `places` of `obs`."""

    @abstractmethod
    def _is_reached(self, rows: np.ndarray, info: Obs, places: np.ndarray) -> np.ndarray:
        """Whether the last step of each of the environments `rows` [M] reached its goal: [M]."""

    @abstractmethod
    def _field(self, rows: np.ndarray, obs: Obs, info: Obs) -> np.ndarray:
        """Field `goal` of the environments `rows` [M], whose `obs` are [M, ...]: float32."""

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment, with a goal for each."""
        obs, info = self._vec.reset(seed)
        if seed is not None:
            self._memory["count"][:] = derive(seed, "goals") << 20
        self._memory["steps"][:] = 0
        self._begin(self._all, obs, info, self._all)
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
            self._begin(begins, step.obs, step.info, begins)
        obs, info = self._show(self._all, step.obs, step.info)
        return dataclasses.replace(
            step, obs=obs, info=info, final_obs=final_obs, final_info=final_info
        )

    def _begin(self, rows: np.ndarray, obs: Obs, info: Obs, places: np.ndarray) -> None:
        """Propose goals for the environments `rows` [M], which are at `places` [M] of `obs`."""
        memory = self._memory
        seeds = np.array([derive(self.seed, "goal", int(n), int(memory["count"][n])) for n in rows])
        memory["goal"][rows] = self._propose(rows, obs, info, places, seeds)
        memory["count"][rows] += 1
        memory["new"][rows], memory["age"][rows] = 1, 0

    def _advance(
        self, rows: np.ndarray, info: Obs, places: np.ndarray, over: np.ndarray
    ) -> np.ndarray:
        """Count a step of the environments `rows`, at `places` of `info`. Returns who reached."""
        memory = self._memory
        reached = self._is_reached(rows, info, places)
        memory["age"][rows] += 1
        age = memory["age"][rows]
        memory["steps"][rows] = np.where(reached, age, np.where(over, -1, 0))
        return rows[reached & ~over]

    def _show(self, rows: np.ndarray, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        memory = self._memory
        names = ((GOAL, "goal"), (GOAL_IS_NEW, "new"), (GOAL_STEPS, "steps"))
        added = {name: torch.from_numpy(memory[own][rows]) for name, own in names}
        if self.shown:
            obs = {**obs, GOAL_FIELD: torch.from_numpy(self._field(rows, obs, info))}
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
            self._memory["steps"][rows[new]] = 0
            self._begin(rows[new], obs, info, new)
        return *self._show(rows, obs, info), restarted


class CellGoals(GoalFields):
    """Goals that are cells of a MiniGrid level.

    One is reached if its content changes or the agent stands on it. The policy sees the way to it
    as the field `goal` [2], turned to its heading: cells ahead and to the right, in units of 4
    cells. Its number is column times the number of rows plus row.

    Args:
        vec: with the side channels `level` and `agent_pos`, and `direction`.
        propose: proposes goals.
        seed: of the proposals.
        shown: whether the policy sees the goal.

    Raises:
        ValueError: if a side channel is missing or `goal` is taken.
    """

    def __init__(self, vec: VecEnv, propose: Propose, *, seed: int = 0, shown: bool = True):
        check_level(vec.info_space)
        shape = vec.info_space[LEVEL].shape
        assert shape is not None
        side = max(shape) / _UNIT
        field = OptionalBox(-side, side, (2,), default=0.0)
        super().__init__(vec, field, largest=shape[0] * shape[1], seed=seed, shown=shown)
        self.propose, self._rows = propose, shape[1]
        self._memory["level"] = np.zeros((vec.num_envs, *shape), np.int16)

    def _propose(
        self, rows: np.ndarray, obs: Obs, info: Obs, places: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        level = info[LEVEL][places]
        self._memory["level"][rows] = level.numpy()
        return self.propose(level, info["agent_pos"][places], seeds).numpy()

    def _is_reached(self, rows: np.ndarray, info: Obs, places: np.ndarray) -> np.ndarray:
        level, memory = info[LEVEL].numpy()[places], self._memory
        x, y = memory["goal"][rows] // self._rows, memory["goal"][rows] % self._rows
        stands = (info["agent_pos"].numpy()[places] == np.stack([x, y], 1)).all(1)
        m = np.arange(len(rows))
        changed = level[m, x, y] != memory["level"][rows, x, y]
        memory["level"][rows] = level
        return stands | changed

    def _field(self, rows: np.ndarray, obs: Obs, info: Obs) -> np.ndarray:
        field = np.zeros((len(rows), 2), np.float32)
        goal, ones = self._memory["goal"], np.ones(self.num_envs, np.int64)
        cells = np.stack([goal // self._rows, goal % self._rows], -1).astype(np.int16)
        places = info["agent_pos"].numpy(), obs["direction"].numpy(), cells[:, None]
        show_ways(rows, *places, 0 * ones, ones, True, _UNIT, field)
        return field


class SentenceGoals(GoalFields):
    """Goals that are sentences of steps; one is reached by a step that has it.

    The policy sees its embedding as the field `goal` [WIDTH], zeros where there is none. Its number
    is that of `SentenceTeacher`, 0 for none.

    Args:
        vec: with sentences.
        teacher: proposes goals.
        seed: of the proposals.
        shown: whether the policy sees the goal.

    Raises:
        ValueError: if the environment has no text or `goal` is taken.
    """

    def __init__(self, vec: VecEnv, teacher: SentenceTeacher, *, seed: int = 0, shown: bool = True):
        need_text(vec.info_space, vec.text_table)
        field = OptionalBox(-1, 1, (WIDTH,), default=0.0)
        super().__init__(vec, field, largest=np.iinfo(np.int64).max, seed=seed, shown=shown)
        self.teacher = teacher
        self._memory["text"] = np.zeros(vec.num_envs, np.int64)  # number in the text table
        self._memory["embedding"] = np.zeros((vec.num_envs, WIDTH), np.float32)

    def _propose(
        self, rows: np.ndarray, obs: Obs, info: Obs, places: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        seen = {name: obs[name][places] for name in self.teacher.keys}
        goals = self.teacher.propose(seen, seeds).numpy()
        table = self.text_table
        assert table is not None
        for row, goal in zip(rows, goals, strict=True):
            known = goal > 0
            text = self.teacher.sentences[goal - 1] if known else ""
            embedding = self.teacher.embeddings[goal - 1].cpu().numpy() if known else 0
            self._memory["text"][row] = table.intern(text)
            self._memory["embedding"][row] = embedding
        return goals

    def _is_reached(self, rows: np.ndarray, info: Obs, places: np.ndarray) -> np.ndarray:
        text = self._memory["text"][rows]
        return (text > 0) & (info["text_id"].numpy()[places] == text)

    def _field(self, rows: np.ndarray, obs: Obs, info: Obs) -> np.ndarray:
        return self._memory["embedding"][rows]
