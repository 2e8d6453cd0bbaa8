"""Gymnasium environments as a `VecEnv`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Snapshot, Step, take
from firstlight.envs.vec import VecEnv, checked_actions, dig, dotted, lawful, leaves
from firstlight.envs.vector.child_process import SHUTDOWN_SECONDS, join_all
from firstlight.envs.vector.replay import RecorderFactory

Factory = Callable[[], gymnasium.Env]


class GymVec(VecEnv):
    """Gymnasium environments stepped together; every episode has its own seed.

    Text fields are left out; a plain Box or Discrete observation becomes the field ``"obs"``,
    nested fields get dotted names, dtypes become those of `lawful`. The side channel
    ``"success"`` has the environment's ``info["success"]`` or ``info["is_success"]`` (-1 if
    it has none).

    Args:
        factories: one callable per environment; with `asynchronous` they must pickle.
        asynchronous: step each environment in its own process.
        success_threshold: see `VecEnv`.
        info_space: further info fields that become side channels, spaces of one environment.
        reported: see `VecEnv`.

    >>> vec = GymVec([lambda: gymnasium.make("CartPole-v1")] * 2)
    >>> obs, info = vec.reset(seed=0)
    >>> obs["obs"].shape
    torch.Size([2, 4])
    """

    resume = "replay"

    def __init__(
        self,
        factories: Sequence[Factory],
        *,
        asynchronous: bool = False,
        success_threshold: float | None = None,
        info_space: spaces.Dict | None = None,
        reported: Sequence[str] = (),
    ):
        if isinstance(factories, VectorEnv):
            raise _refused(factories)
        self.num_envs, self.success_threshold = len(factories), success_threshold
        self.reported = tuple(reported)
        recorded = [RecorderFactory(_Single(factory), i) for i, factory in enumerate(factories)]
        self._vec: Any = _vector(recorded, asynchronous)
        if asynchronous:
            Finalize(None, _end_at_exit, args=(weakref.ref(self._vec),), exitpriority=100)
        space = self._vec.single_observation_space
        self._fields = {dotted(path): (path, leaf) for path, leaf in leaves(space)}
        if not self._fields:
            raise ValueError(f"no field of {space} can be a tensor")
        self.obs_space = spaces.Dict({name: space for name, (_, space) in self._fields.items()})
        self._extra = dict(info_space.spaces) if info_space else {}
        self.info_space = spaces.Dict({**self._extra, "success": spaces.Box(-1, 1, (), np.int8)})
        self.act_space = self._vec.single_action_space
        self._seed = 0
        self._episode = np.zeros(self.num_envs, np.int64)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere; `seed` starts a new sequence of episode seeds."""
        if seed is not None:
            self._seed = seed
            self._episode[:] = 0
        obs, info = self._vec.reset(seed=self._next_seeds(np.ones(self.num_envs, bool)))
        return self._obs(obs), self._info(info)

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32 (clipped to the bounds)."""
        actions = checked_actions(action, self.act_space, self.num_envs)
        obs, reward, terminated, truncated, info = self._vec.step(actions)
        truncated = truncated & ~terminated
        done = terminated | truncated
        now, now_info = self._obs(obs), self._info(info)
        final_ids = torch.from_numpy(done.nonzero()[0])
        final = {k: v[final_ids] for k, v in now.items()}
        final_info = {k: v[final_ids] for k, v in now_info.items()}
        if done.any():
            obs, info = self._vec.reset(seed=self._next_seeds(done), options={"reset_mask": done})
            now, fresh = self._obs(obs), self._info(info)
            for name, field in now_info.items():
                field[final_ids] = fresh[name][final_ids]
        return Step(
            obs=now,
            info=now_info,
            reward=torch.from_numpy(np.asarray(reward, np.float32)),
            terminated=torch.from_numpy(terminated.copy()),
            truncated=torch.from_numpy(truncated),
            valid=torch.ones(self.num_envs, dtype=torch.bool),
            is_first=torch.from_numpy(done),
            final_ids=final_ids,
            final_obs=final,
            final_info=final_info,
        )

    def snapshots(self) -> list[Snapshot]:
        """Seed and actions of each open episode."""
        return list(self._vec.call("snapshot"))

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back by replaying seeds and actions, in parallel if `asynchronous`."""
        ids = env_ids.tolist()
        replayed = list(self._vec.call("replay", dict(zip(ids, snapshots, strict=True))))
        restarted = np.zeros(self.num_envs, bool)
        restarted[[i for i in ids if replayed[i] is None]] = True
        if restarted.any():
            begun = self._vec.call("reset_from", self._next_seeds(restarted))
            replayed = [new or old for old, new in zip(replayed, begun, strict=True)]
        obs = {
            name: _tensor(np.stack([dig(replayed[i][0], path) for i in ids]), space)
            for name, (path, space) in self._fields.items()
        }
        infos: dict[str, Any] = {}
        for i in ids:
            infos = self._vec._add_info(infos, replayed[i][1], i)
        return obs, take(self._info(infos), env_ids), torch.from_numpy(restarted)[env_ids]

    def state_dict(self) -> dict[str, Any]:
        """Snapshot of each environment, and the number of episodes that it began."""
        snapshots = [dataclasses.asdict(snapshot) for snapshot in self.snapshots()]
        return {"seed": self._seed, "episode": self._episode.copy(), "points": snapshots}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned, by replay. Returns what `restore` does."""
        self._seed, self._episode = state["seed"], state["episode"].copy()
        snapshots = [Snapshot(**fields) for fields in state["points"]]
        return self.restore(torch.arange(self.num_envs), snapshots)

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment made with `render_mode="rgb_array"`, [H, W, 3] uint8."""
        frames = self._vec.call("render")
        if frames[env_id] is None:
            raise RuntimeError('make the environment with render_mode="rgb_array" to render it')
        return np.asarray(frames[env_id])

    def close(self) -> None:
        """Close every environment; a worker process that does not end within 5 s is killed."""
        if isinstance(self._vec, AsyncVectorEnv):
            _end_workers(self._vec)
        else:
            self._vec.close()

    def __del__(self) -> None:
        if "_vec" in self.__dict__:
            self.close()

    def _next_seeds(self, mask: np.ndarray) -> list[int | None]:
        seeds: list[int | None] = [None] * self.num_envs
        for i in mask.nonzero()[0].tolist():
            seeds[i] = derive(self._seed, "episode", i, int(self._episode[i]))
            self._episode[i] += 1
        return seeds

    def _obs(self, obs: Any) -> Obs:
        return {n: _tensor(dig(obs, path), space) for n, (path, space) in self._fields.items()}

    def _info(self, info: dict[str, Any]) -> Obs:
        success = np.full(self.num_envs, -1, np.int8)
        for key in ("is_success", "success"):
            if key in info:
                given = info.get(f"_{key}", np.ones(self.num_envs, bool))
                success = np.where(given, np.asarray(info[key], np.float32) > 0, success).astype(
                    np.int8
                )
        channels = {"success": torch.from_numpy(success)}
        for key, space in self._extra.items():
            if key not in info:
                raise KeyError(f"the environment gave no info {key!r}; it gave {sorted(info)}")
            channels[key] = _tensor(np.stack(list(info[key])), space)
        return channels


class _Single:
    """A factory that makes one environment; pickles if `factory` does."""

    def __init__(self, factory: Factory):
        self.factory = factory

    def __call__(self) -> gymnasium.Env:
        env = self.factory()
        if isinstance(env, VectorEnv):
            raise _refused(env)
        return env


def _refused(vector: VectorEnv) -> ValueError:
    """Error for a vector environment, which resets itself and may ignore seeds."""
    return ValueError(
        f"GymVec resets and seeds single environments itself: give it a function that makes one "
        f"for each, as in GymVec([make] * 16), not a {type(vector).__name__} "
        "(EnvPool's tasks are for firstlight.envs.vector.envpool)"
    )


def _vector(factories: Sequence[Factory], asynchronous: bool) -> SyncVectorEnv | AsyncVectorEnv:
    mode = AutoresetMode.DISABLED
    if not asynchronous:
        return SyncVectorEnv(factories, autoreset_mode=mode)
    try:
        return AsyncVectorEnv(factories, autoreset_mode=mode)
    except ValueError:  # a space that shared memory cannot hold, such as MiniGrid's mission
        return AsyncVectorEnv(factories, shared_memory=False, autoreset_mode=mode)


def _end_workers(vec: AsyncVectorEnv, seconds: float = SHUTDOWN_SECONDS) -> None:
    """Ask workers to end, and kill the rest after `seconds`; Gymnasium would wait for ever."""
    if vec.closed:
        return
    vec.closed = True
    pipes = [pipe for pipe in vec.parent_pipes if pipe is not None]
    try:
        for pipe in pipes:
            with contextlib.suppress(OSError):  # of a worker that died
                pipe.send(("close", None))
        join_all(vec.processes, seconds)
    finally:  # also of another signal while waiting
        for worker in vec.processes:
            if worker.is_alive():
                worker.kill()
                worker.join()
        for pipe in pipes:
            pipe.close()


def _end_at_exit(vec: weakref.ref[AsyncVectorEnv]) -> None:
    """Kill workers that were not closed, before multiprocessing waits for them."""
    if (alive := vec()) is not None:
        _end_workers(alive, seconds=0.0)


def _tensor(array: Any, space: spaces.Space) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=lawful(np.dtype(space.dtype))))


def make(
    id: str,
    *,
    num_envs: int = 16,
    asynchronous: bool = False,
    success_threshold: float | None = None,
    **options: Any,
) -> GymVec:
    """Make `num_envs` copies of a registered Gymnasium environment.

    Args:
        id: as in `gymnasium.make`; "module:Name-v0" imports the module first.
        num_envs: `N`.
        asynchronous: step each environment in its own process.
        success_threshold: see `VecEnv`.
        **options: keywords of the environment.
    """
    factory = RegisteredEnv(id, options)
    return GymVec(
        [factory] * num_envs, asynchronous=asynchronous, success_threshold=success_threshold
    )


class RegisteredEnv:
    """A picklable factory of a registered environment."""

    def __init__(self, name: str, options: dict[str, Any]):
        self.name, self.options = name, options

    def __call__(self) -> gymnasium.Env:
        """Make one environment."""
        module, _, name = self.name.rpartition(":")
        if module:
            importlib.import_module(module)
        try:
            return gymnasium.make(name, render_mode="rgb_array", **self.options)
        except TypeError:  # an environment that knows no render_mode
            return gymnasium.make(name, **self.options)
