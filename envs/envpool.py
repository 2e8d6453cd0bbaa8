"""EnvPool's native environments as a `VecEnv`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import envpool
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive_many
from firstlight.envs.types import Obs, Point, Step, map_obs
from firstlight.envs.vec import checked_actions

_NO_IDS = torch.zeros(0, dtype=torch.int64)
_LOST = "EnvPool keeps its state in C++ and cannot be set back to a point"
_BOOKKEEPING = {"env_id", "players", "elapsed_step", "reward"}


class EnvPoolVec:
    """`num_envs` native environments of one EnvPool task.

    EnvPool resets on the call *after* an episode's end: that call's row is not `valid`, the
    observation before it is the true last one, so nothing is ever hidden. Actions are checked
    here because an impossible one aborts the process inside EnvPool. Each environment has a seed
    of its own derived from the run's; EnvPool fixes seeds at construction, so `reset(seed)` builds
    the pool anew (some milliseconds).

    Args:
        id: EnvPool's name of the task, such as "MiniGrid-DoorKey-8x8-v0".
        num_envs: `N`.
        num_threads: of EnvPool; 0 lets it choose.
        obs_keys: observation fields to show; default all.
        info_keys: info fields to carry as side channels; default every numeric one.
        success_threshold: see `VecEnv`.
        **options: EnvPool's own keywords, such as `max_episode_steps`.
    """

    resume = "dropped"

    def __init__(
        self,
        id: str,
        *,
        num_envs: int = 64,
        num_threads: int = 0,
        obs_keys: Sequence[str] | None = None,
        info_keys: Sequence[str] | None = None,
        success_threshold: float | None = None,
        **options: Any,
    ):
        known = envpool.list_all_envs()
        if id not in known:
            close = difflib.get_close_matches(id, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"EnvPool has no task {id!r}{hint}")
        self.num_envs, self.success_threshold = num_envs, success_threshold
        self._make = {"task_id": id, "num_envs": num_envs, "num_threads": num_threads, **options}
        self._rendering = False
        self._seed = 0
        self._pool = self._build(0)
        space = _as_dict(self._pool.observation_space)
        self._obs_keys = tuple(obs_keys or space.spaces)
        if missing := set(self._obs_keys) - set(space.spaces):
            raise ValueError(
                f"{id} has no observation {sorted(missing)}; it has {sorted(space.spaces)}"
            )
        self.obs_space = spaces.Dict({key: space[key] for key in self._obs_keys})
        self.act_space = self._pool.action_space
        _, info = self._pool.reset()
        fields = {
            k: v for k, v in info.items() if k not in _BOOKKEEPING and isinstance(v, np.ndarray)
        }
        self._info_keys = tuple(fields if info_keys is None else info_keys)
        if missing := set(self._info_keys) - set(fields):
            raise ValueError(f"{id} has no info {sorted(missing)}; it has {sorted(fields)}")
        self.info_space = spaces.Dict({key: _space_of(fields[key]) for key in self._info_keys})
        self._over = np.zeros(num_envs, bool)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere, on a pool built from `seed` if one is given."""
        if seed is not None:
            self._seed = seed
            self._pool.close()
            self._pool = self._build(seed)
        obs, info = self._pool.reset()
        self._over = np.zeros(self.num_envs, bool)
        now = self._obs(obs), self._info(info)
        self._nothing = [map_obs(lambda field: field[:0].clone(), fields) for fields in now]
        return now

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32 (clipped to the bounds)."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Begin a step in EnvPool's threads."""
        self._pool.send(checked_actions(action, self.act_space, self.num_envs))

    def recv(self) -> Step:
        """Wait for the step begun by `send`."""
        obs, reward, terminated, truncated, info = self._pool.recv()
        started = self._over
        self._over = terminated | truncated
        return Step(
            obs=self._obs(obs),
            info=self._info(info),
            reward=torch.from_numpy(reward.astype(np.float32, copy=False)),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(~started),
            is_first=torch.from_numpy(started),
            final_ids=_NO_IDS,
            final_obs=self._nothing[0],
            final_info=self._nothing[1],
        )

    def points(self) -> list[Point]:
        """EnvPool cannot say where it stands."""
        raise NotImplementedError(_LOST)

    def restore(self, env_ids: Tensor, points: Sequence[Point]) -> tuple[Obs, Obs, Tensor]:
        """EnvPool cannot be set back."""
        raise NotImplementedError(_LOST)

    def state_dict(self) -> dict[str, Any]:
        """EnvPool cannot say where it stands."""
        raise NotImplementedError(_LOST)

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """EnvPool cannot be set back."""
        raise NotImplementedError(_LOST)

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment, [H, W, 3] uint8. Call `enable_rendering` before `reset`."""
        if not self._rendering:
            raise RuntimeError(
                "call enable_rendering() before reset(); EnvPool decides at construction"
            )
        return self._pool.render(env_ids=[env_id])[0]

    def enable_rendering(self) -> None:
        """Build the pool anew, able to render."""
        self._rendering = True
        self.reset(self._seed)

    def close(self) -> None:
        """Free the pool."""
        self._pool.close()

    def _build(self, seed: int) -> Any:
        seeds = [int(s) for s in derive_many(seed, "envpool", self.num_envs)]
        mode = {"render_mode": "rgb_array"} if self._rendering else {}
        return envpool.make_gymnasium(**self._make, **mode, seed=seeds)

    def _obs(self, obs: Any) -> Obs:
        fields = obs if isinstance(obs, dict) else {"obs": obs}
        return {key: _tensor(fields[key]) for key in self._obs_keys}

    def _info(self, info: dict[str, Any]) -> Obs:
        return {key: _tensor(info[key]) for key in self._info_keys}


def _as_dict(space: spaces.Space) -> spaces.Dict:
    return space if isinstance(space, spaces.Dict) else spaces.Dict({"obs": space})


def _dtype(dtype: np.dtype) -> np.dtype:
    """What a field of this dtype becomes."""
    changed: dict[str, np.dtype] = {"int32": np.dtype(np.int64), "float64": np.dtype(np.float32)}
    return changed.get(dtype.name, dtype)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(_dtype(array.dtype), copy=False))


def _space_of(array: np.ndarray) -> spaces.Box:
    """Box of one environment's info field, unbounded within its dtype."""
    dtype = _dtype(array.dtype)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(np.float32)
    return spaces.Box(limits.min, limits.max, array.shape[1:], dtype.type)
