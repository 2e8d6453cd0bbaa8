"""MiniGrid environments in numba: MultiRoom, DoorKey, KeyCorridor, ObstructedMaze and Unlock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.minigrid.cells import EMPTY, LEVEL, TARGET, VIEW, position_space
from firstlight.envs.minigrid.draw import draw_grid
from firstlight.envs.minigrid.gridworld_kernels import LIGHT, advance, look_all, look_from_above
from firstlight.envs.minigrid.levels_kernels import begin_draws
from firstlight.envs.minigrid.tasks import TASKS, backends_of
from firstlight.envs.seeding import derive_many
from firstlight.envs.text import MISSION_BYTES, encode_text
from firstlight.envs.types import Obs, Snapshot, Step
from firstlight.envs.vec import VecEnv, checked_actions

_STATE = ("grid", "agent", "carrying", "elapsed", "target", "rng")


class GridWorld(VecEnv):
    """MiniGrid environments of one task, stepped by compiled loops.

    Rules, views, rewards and level generation are those of the Python package; tests compare them
    step by step and level by level. Equal seeds give other levels. Every MultiRoom level can be
    solved, which most of EnvPool's cannot (docs/multiroom.md). The level of environment n depends
    on the seed, n and the number of the episode. State can be saved.

    Policies see `image` (object, colour and state of each cell, first axis from left to right,
    second from far to near) and `direction`. Side channels: `agent_pos` (column and row) and, on
    request, `full_grid`, `mission`, `level` and `target`.

    Args:
        task: one of `minigrid.tasks.TASKS`.
        num_envs: `N`.
        view: "partial" shows the 7 x 7 cells in front of the agent as `image`, "full" the whole
            grid [W, H, 3] with the agent in it.
        full_grid: add the whole grid [W, H, 3] uint8 as a side channel.
        mission: add the task's sentence [96] uint8 as a side channel.
        level: add the side channels `level` [W, H] int16, the codes of all cells without the agent
            (`minigrid.cells`), and `target`, the code of the object to take, 0 for none.
        max_steps: of an episode; default as in the papers.

    Raises:
        ValueError: for a task that is not in `TASKS`.

    >>> vec = GridWorld("MiniGrid-MultiRoom-N7-S4-v0", num_envs=2)
    >>> obs, info = vec.reset(seed=0)
    >>> obs["image"].shape, info["agent_pos"].shape
    (torch.Size([2, 7, 7, 3]), torch.Size([2, 2]))
    """

    success_threshold = 0.0
    resume = "state"

    def __init__(
        self,
        task: str,
        *,
        num_envs: int = 64,
        view: Literal["partial", "full"] = "partial",
        full_grid: bool = False,
        mission: bool = False,
        level: bool = False,
        max_steps: int | None = None,
    ):
        if task not in TASKS:
            others = " and ".join(backends_of(task))
            raise ValueError(f"GridWorld has no task {task!r}; {others} have it: set backend")
        self.task, self.num_envs, self.view = TASKS[task], num_envs, view
        self.max_steps: int = max_steps or self.task.max_steps
        self._full, self._mission, self._level = full_grid, mission, level
        self.act_space: spaces.Space = spaces.Discrete(7)
        shape = self.task.width, self.task.height
        whole = spaces.Box(0, 255, (*shape, 3), np.uint8)
        image = whole if view == "full" else spaces.Box(0, 255, (VIEW, VIEW, 3), np.uint8)
        self.obs_space = spaces.Dict({"image": image, "direction": spaces.Discrete(4)})
        channels: dict[str, spaces.Space] = {
            "agent_pos": position_space(self.task.width, self.task.height)
        }
        if full_grid:
            channels["full_grid"] = whole
        if mission:
            channels["mission"] = spaces.Box(0, 255, (MISSION_BYTES,), np.uint8)
        if level:
            channels[LEVEL] = spaces.Box(0, np.iinfo(np.int16).max, shape, np.int16)
            channels[TARGET] = spaces.Box(0, np.iinfo(np.int16).max, (), np.int64)
        self.info_space = spaces.Dict(channels)
        self._state: dict[str, np.ndarray] = {
            "grid": np.zeros((num_envs, *shape), np.int16),
            "agent": np.zeros((num_envs, 3), np.int64),
            **{name: np.zeros(num_envs, np.int64) for name in ("carrying", "elapsed", "target")},
            "rng": np.zeros(num_envs, np.uint64),
        }
        self._all = np.arange(num_envs)
        self._missions: dict[int, np.ndarray] = {}
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; `seed` begins a new sequence of levels."""
        if seed is not None:
            halves = derive_many(seed, "gridworld", 2 * self.num_envs)
            self._seeds = halves[::2] << 31 | halves[1::2]
            self._episode = np.zeros(self.num_envs, np.int64)
        self._begin(self._all)
        return self._tensors(self._observe(self._all))

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64."""
        actions = checked_actions(action, self.act_space, self.num_envs)
        N = self.num_envs
        reward, ended, cut = np.empty(N, np.float32), np.empty(N, np.bool_), np.empty(N, np.bool_)
        state = (self._state[name] for name in _STATE)
        rules = self.task.rule, self.task.noisy, self.max_steps
        advance(actions, *rules, reward, ended, cut, *state)
        fields = self._observe(self._all)
        done = ended | cut
        ids = np.flatnonzero(done)
        final = {name: field[ids] for name, field in fields.items()}
        if len(ids):
            self._begin(ids)
            self._observe(ids, fields)
        final_obs, final_info = self._tensors(final)
        obs, info = self._tensors(fields)
        return Step(
            obs=obs,
            info=info,
            reward=torch.from_numpy(reward),
            terminated=torch.from_numpy(ended),
            truncated=torch.from_numpy(cut),
            valid=torch.ones(N, dtype=torch.bool),
            is_first=torch.from_numpy(done),
            final_ids=torch.from_numpy(ids),
            final_obs=final_obs,
            final_info=final_info,
        )

    def snapshots(self) -> list[Snapshot]:
        """Current state of each environment, for `restore`."""
        saved = self._saved()
        return [
            Snapshot(arrays={name: array[n].clone() for name, array in saved.items()})
            for n in range(self.num_envs)
        ]

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to snapshots, which always succeeds."""
        ids = env_ids.numpy()
        for n, snapshot in zip(ids.tolist(), snapshots, strict=True):
            if snapshot.arrays is None:
                raise ValueError("the snapshot has no arrays: take it from a GridWorld")
            for name, array in self._state.items():
                array[n] = snapshot.arrays[name].numpy().astype(array.dtype)
        fields = {name: field[ids] for name, field in self._observe(ids).items()}
        return *self._tensors(fields), torch.zeros(len(ids), dtype=torch.bool)

    def state_dict(self) -> dict[str, Any]:
        """State of every environment, and the seeds of its later levels."""
        return {
            **self._saved(),
            "seeds": torch.from_numpy(self._seeds.copy()),
            "episode": torch.from_numpy(self._episode.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned."""
        self._seeds, self._episode = (state[k].numpy().copy() for k in ("seeds", "episode"))
        for name, array in self._state.items():
            array[:] = state[name].numpy().astype(array.dtype)
        obs, info = self._tensors(self._observe(self._all))
        return obs, info, torch.zeros(self.num_envs, dtype=torch.bool)

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment with visible cells lit, [16 H, 16 W, 3] uint8."""
        state = self._state
        return draw_grid(
            state["grid"][env_id], state["agent"][env_id], int(state["carrying"][env_id])
        )

    def _begin(self, rows: np.ndarray) -> None:
        """Generate the next level of the environments `rows` [M] int64."""
        state, task = self._state, self.task
        state["carrying"][rows], state["elapsed"][rows], state["grid"][rows] = 0, 0, EMPTY
        for n in rows.tolist():
            rng = state["rng"][n : n + 1]
            begin_draws(rng, self._seeds[n], self._episode[n])
            level = state["grid"][n], state["agent"][n], rng
            state["target"][n] = task.recipe(*level, *task.numbers)
        self._episode[rows] += 1

    def _observe(
        self, rows: np.ndarray, fields: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Observation and info fields, each [N, ...]; of `fields` only `rows` [M] are written."""
        state, N = self._state, self.num_envs
        grid, agent = state["grid"], state["agent"]
        if fields is None:
            spaces_of = {**self.obs_space.spaces, **self.info_space.spaces}
            fields = {k: np.empty((N, *s.shape), s.dtype) for k, s in spaces_of.items()}  # type: ignore[misc]
        if self.view == "full":
            look_from_above(grid, agent, rows, fields["image"])
        else:
            look_all(grid, agent, state["carrying"], LIGHT, rows, fields["image"])
        if self._full:
            look_from_above(grid, agent, rows, fields["full_grid"])
        fields["agent_pos"][rows] = agent[rows, :2]
        fields["direction"][rows] = agent[rows, 2]
        if self._level:
            fields[LEVEL][rows], fields[TARGET][rows] = grid[rows], state["target"][rows]
        if self._mission:
            fields["mission"][rows] = [self._sentence(int(t)) for t in state["target"][rows]]
        return fields

    def _sentence(self, target: int) -> np.ndarray:
        if target not in self._missions:
            self._missions[target] = encode_text(self.task.mission_of(target))
        return self._missions[target]

    def _tensors(self, fields: dict[str, np.ndarray]) -> tuple[Obs, Obs]:
        tensors = {name: torch.from_numpy(field) for name, field in fields.items()}
        return (
            {name: tensors[name] for name in self.obs_space.spaces},
            {name: tensors[name] for name in self.info_space.spaces},
        )

    def _saved(self) -> dict[str, Tensor]:
        narrow = {**self._state, "rng": self._state["rng"].view(np.int64)}
        return {name: torch.from_numpy(array.copy()) for name, array in narrow.items()}
