"""EnvPool's native environments as a `VecEnv`."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import envpool
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from firstlight.envs.seeding import derive_many
from firstlight.envs.types import Obs, Step, map_obs
from firstlight.envs.vec import NOT_CHOSEN, TEXT, VecEnv, checked_actions, dotted, lawful, leaves
from firstlight.envs.vector.envpool_threads import ClosedPool, threads, wait_asleep
from firstlight.envs.vector.isolated import Isolated

_NO_IDS = torch.zeros(0, dtype=torch.int64)
_BOOKKEEPING = {"env_id", "players", "elapsed_step", "reward"}
_TEXT = {"mission"}  # bytes of a sentence
_SUCCESS = ("success", "is_success")


def make(
    id: str,
    *,
    num_envs: int = 64,
    num_threads: int = 0,
    isolated: bool = False,
    **options: Any,
) -> VecEnv:
    """Make `num_envs` native environments of one EnvPool task.

    Args:
        id: see `EnvPoolVec`.
        num_envs: `N`.
        num_threads: threads of EnvPool; 0 lets it choose.
        isolated: run them in a child process, so that an abort in C++ does not end the run.
        **options: further keywords of `EnvPoolVec`.
    """
    factory = functools.partial(
        EnvPoolVec, id, num_envs=num_envs, num_threads=num_threads, **options
    )
    return Isolated(factory) if isolated else factory()


class EnvPoolVec(VecEnv):
    """`num_envs` native environments of one EnvPool task.

    EnvPool resets an environment in the call *after* the end of its episode. The row of that call
    is not `valid`, and the observation before it is the true last one. Actions are checked here,
    because an impossible one aborts the process inside EnvPool. Each environment has its own seed,
    derived from the run's. EnvPool takes seeds at construction only, so `reset(seed)` makes a new
    pool (some milliseconds).

    Steps read the arrays of EnvPool's C++ by their names, without its conversion to nested
    dictionaries, which takes a tenth of a step of 64 small environments.

    Nested observations get dotted names, int32 becomes int64 and float64 float32, action boxes of
    integers become MultiDiscrete, and an info field `success` or `is_success` becomes the side
    channel "success". docs/environments.md lists the fields of each family of tasks.

    Args:
        id: EnvPool's name of the task, such as "MiniGrid-DoorKey-8x8-v0".
        num_envs: `N`.
        num_threads: threads of EnvPool; 0 lets it choose.
        obs_keys: observation fields; default all but MiniGrid's `mission`, which is text.
        info_keys: info fields that become side channels; default every numeric one.
        success_threshold: see `VecEnv`.
        **options: EnvPool's own keywords, such as `max_episode_steps`.

    Raises:
        ValueError: for an unknown task or field, or a task with several players.
    """

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
        self._pool: Any = ClosedPool()
        self._build(0)
        players = self._pool.config["max_num_players"]
        if players > 1:
            raise ValueError(f"{id} has {players} players in each environment, expected one")
        found = {dotted(path): (path, s) for path, s in leaves(self._pool.observation_space)}
        shown = obs_keys or [name for name, (path, _) in found.items() if not _TEXT & {*path}]
        shown = _known(id, "observation", shown, found)
        self.left_out = {
            name: TEXT if _TEXT & {*path} else NOT_CHOSEN
            for name, (path, _) in found.items()
            if name not in shown
        }
        self.obs_space = spaces.Dict({name: _obs_space(found[name][1]) for name in shown})
        self.act_space = _action_space(self._pool.action_space)
        _, info = self._pool.reset()
        fields = {
            k: v for k, v in info.items() if k not in _BOOKKEEPING and isinstance(v, np.ndarray)
        }
        carried = _known(id, "info", fields if info_keys is None else info_keys, fields)
        channels: dict[str, spaces.Space] = {
            key: _space_of(fields[key]) for key in carried if key not in _SUCCESS
        }
        success = next((key for key in _SUCCESS if key in carried), None)
        if success is not None:
            channels["success"] = spaces.Box(-1, 1, (), np.int8)
        self.info_space = spaces.Dict(channels)
        row = {_path(key): i for i, key in enumerate(self._pool._state_keys)}
        self._done, self._truncated, self._reward = row["done",], row["trunc",], row["reward",]
        only = next(i for path, i in row.items() if path[0] == "obs")
        self._obs = {
            name: row["obs", *found[name][0]] if found[name][0] else only for name in shown
        }
        self._info = {key: row["info", key] for key in channels if key != "success"}
        self._success = None if success is None else row["info", success]
        self._env_ids = self._pool.all_env_ids
        self._action_dtype = [*self._pool.spec.action_array_spec.values()][-1].dtype

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere, in a new pool if `seed` is given."""
        if seed is not None:
            self._build(seed)
        self._pool._reset(self._env_ids)
        self._over = np.zeros(self.num_envs, bool)
        now = self._fields(self._pool._recv())
        self._nothing = [map_obs(lambda field: field[:0].clone(), fields) for fields in now]
        return now

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32 (clipped to the bounds)."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Start a step in EnvPool's threads."""
        array = checked_actions(action, self.act_space, self.num_envs)
        array = array.astype(self._action_dtype, order="C", copy=False)
        self._pool._send([self._env_ids, self._env_ids, array])

    def recv(self) -> Step:
        """Wait for the step started by `send`."""
        fields = self._pool._recv()
        done, truncated = fields[self._done], fields[self._truncated]
        started, self._over = self._over, done | truncated
        reward = fields[self._reward].astype(np.float32)
        reward[started] = 0  # some tasks give a reward for the reset itself
        obs, info = self._fields(fields)
        return Step(
            obs=obs,
            info=info,
            reward=torch.from_numpy(reward),
            terminated=torch.from_numpy(done & ~truncated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(~started),
            is_first=torch.from_numpy(started),
            final_ids=_NO_IDS,
            final_obs=self._nothing[0],
            final_info=self._nothing[1],
        )

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment, [H, W, 3] uint8. Call `enable_rendering` before `reset`."""
        if not self._rendering:
            raise RuntimeError(
                "EnvPool prepares rendering at construction: call enable_rendering() before reset()"
            )
        return self._pool.render(env_ids=[env_id])[0]

    def enable_rendering(self) -> None:
        """Make a new pool that can render."""
        self._rendering = True
        self.reset(self._seed)

    def close(self) -> None:
        """Free the pool. May be called again."""
        if not isinstance(self._pool, ClosedPool):
            wait_asleep(self._threads)
            self._pool = ClosedPool()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if "_pool" in self.__dict__ and not is_finalizing():  # then even names of modules are gone
            self.close()

    def _build(self, seed: int) -> None:
        self.close()
        self._seed = seed
        seeds = [int(s) for s in derive_many(seed, "envpool", self.num_envs)]
        mode = {"render_mode": "rgb_array"} if self._rendering else {}
        before = threads()
        self._pool = envpool.make_gymnasium(**self._make, **mode, seed=seeds)
        self._threads = threads() - before
        if self._pool.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise ValueError(
                f"the autoreset mode must be NEXT_STEP, its metadata are {self._pool.metadata}"
            )

    def _fields(self, arrays: list[np.ndarray]) -> tuple[Obs, Obs]:
        """Observations and side channels from the arrays of EnvPool's C++."""
        obs = {name: _tensor(arrays[i]) for name, i in self._obs.items()}
        info = {name: _tensor(arrays[i]) for name, i in self._info.items()}
        if self._success is not None:
            info["success"] = torch.from_numpy((arrays[self._success] > 0).astype(np.int8))
        return obs, info


def _path(key: str) -> tuple[str, ...]:
    """Path in EnvPool's nested dictionaries of a field of its C++, such as "info:agent_pos"."""
    return tuple(key.replace(":", ".").split("."))


def _known(
    id: str, kind: str, wanted: Sequence[str] | dict, found: dict[str, Any]
) -> tuple[str, ...]:
    if missing := set(wanted) - set(found):
        raise ValueError(f"{id} has no {kind} {sorted(missing)}; it has {sorted(found)}")
    return tuple(wanted)


@functools.cache
def _dtype(dtype: np.dtype) -> np.dtype:
    """Dtype of the tensor of a field."""
    return np.dtype(np.int64) if dtype == np.int32 else lawful(dtype)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(_dtype(array.dtype), copy=False))


def _bounds(box: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of a box; EnvPool gives its smallest positive or largest number for no bound."""
    if box.dtype.kind != "f":
        return box.low, box.high
    limits = np.finfo(box.dtype)
    none = (box.low == limits.tiny) | (box.low == limits.min)
    low = np.where(none, -np.inf, box.low)
    return low, np.where(box.high == limits.max, np.inf, box.high)


def _obs_space(space: Any) -> spaces.Space:
    """Space of an observation field as a tensor."""
    if not isinstance(space, spaces.Box):
        return space
    dtype: Any = _dtype(np.dtype(space.dtype))
    low, high = (bound.astype(dtype) for bound in _bounds(space))
    return spaces.Box(low, high, space.shape, dtype.type)


def _action_space(space: Any) -> spaces.Space:
    """Space of a policy's actions."""
    if not isinstance(space, spaces.Box):
        return space
    dtype: Any = np.dtype(space.dtype)
    if dtype.kind == "f":
        low, high = (bound.astype(dtype) for bound in _bounds(space))
        return spaces.Box(low, high, space.shape, dtype.type)
    return spaces.MultiDiscrete(space.high - space.low + 1, dtype.type, start=space.low)


def _space_of(array: np.ndarray) -> spaces.Box:
    """Box of one environment's info field, bounded by its dtype only."""
    dtype: Any = _dtype(array.dtype)
    limits: Any = np.finfo(np.float32)
    if dtype.kind != "f":
        limits = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    high = 1 if dtype.kind == "b" else limits.max
    return spaces.Box(limits.min, high, array.shape[1:], dtype.type)
