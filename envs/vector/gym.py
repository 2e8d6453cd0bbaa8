"""Gymnasium environments as a `VecEnv`."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker
from gymnasium.vector.utils import iterate
from torch import Tensor

from firstlight.envs.faults import EnvironmentFaultError, EnvironmentRaisedError
from firstlight.envs.intake import check_env
from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Snapshot, Step, take
from firstlight.envs.vec import VecEnv, checked_actions, lawful
from firstlight.envs.vector.child_process import SHUTDOWN_SECONDS, join_all
from firstlight.envs.vector.registered import RegisteredEnv, check_registered
from firstlight.envs.vector.replay import RecorderFactory

Factory = Callable[[], gymnasium.Env]


class GymVec(VecEnv):
    """Gymnasium environments stepped together; every episode has its own seed.

    Fields that are not arrays are left out, also texts unless they are asked for; a plain Box or
    Discrete observation becomes the field ``"obs"``, nested fields get dotted names, dtypes become
    those of `lawful`. The side channel ``"success"`` has the environment's ``info["success"]`` or
    ``info["is_success"]`` (-1 if it has none). What the environments return is read by
    `EnvIntake`, which says what is accepted.

    Args:
        factories: one callable per environment; with `asynchronous` they must pickle.
        asynchronous: step each environment in its own process.
        success_threshold: see `VecEnv`.
        info_space: further info fields that become side channels, spaces of one environment.
        reported: see `VecEnv`.
        observe_text: observe texts too, as the bytes of `TextBytes`, which `encoder=auto` reads.

    Raises:
        EnvironmentFaultError: if an environment, or what it returns, breaks Gymnasium's API.
        EnvironmentRaisedError: if an environment's code raised an exception.

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
        observe_text: bool = False,
    ):
        if isinstance(factories, VectorEnv):
            check_env(factories, 0)
        self.num_envs, self.success_threshold = len(factories), success_threshold
        self.reported = tuple(reported)
        recorded = [
            RecorderFactory(make, i, info_space, observe_text=observe_text)
            for i, make in enumerate(factories)
        ]
        self._vec: Any = _vector(recorded, asynchronous)
        if asynchronous:
            Finalize(None, _end_at_exit, args=(weakref.ref(self._vec),), exitpriority=100)
        self.obs_space = self._vec.single_observation_space
        self.left_out = self._vec.call("left_out")[0]
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
        obs = self._obs({k: np.stack([replayed[i][0][k] for i in ids]) for k in self.obs_space})
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

    def _obs(self, obs: Mapping[str, np.ndarray]) -> Obs:
        return {name: _tensor(obs[name], space) for name, space in self.obs_space.items()}

    def _info(self, info: dict[str, Any]) -> Obs:
        success = np.full(self.num_envs, -1, np.int8)
        if "success" in info:
            success = np.where(info["_success"], info["success"], -1).astype(np.int8)
        channels = {"success": torch.from_numpy(success)}
        return channels | {key: _tensor(info[key], space) for key, space in self._extra.items()}


class _SyncVector(SyncVectorEnv):
    """Gymnasium's vector environment with less work in a step, for the fields of `EnvIntake`."""

    def step(self, actions: Any) -> Any:
        infos: dict[str, Any] = {}
        observations: Any = self._observations
        for i, action in enumerate(iterate(self.action_space, actions)):
            obs, reward, terminated, truncated, info = self.envs[i].step(action)
            self._rewards[i], self._env_obs[i] = reward, obs
            self._terminations[i], self._truncations[i] = terminated, truncated
            for name, array in observations.items():
                array[i] = obs[name]
            if info:
                infos = self._add_info(infos, info, i)
        self._autoreset_envs = self._terminations | self._truncations
        ends = self._terminations.copy(), self._truncations.copy()  # `reset` changes them
        return observations, self._rewards, *ends, infos


class _AsyncVector(AsyncVectorEnv):
    """Gymnasium's vector, whose errors are raised once, without tracebacks from the workers."""

    def __init__(self, factories: Sequence[RecorderFactory], **options: Any):
        super().__init__(factories, worker=_work, **options)

    def _raise_if_errors(self, successes: Sequence[bool]) -> None:
        failed = [self.error_queue.get() for succeeded in successes if not succeeded]
        pipes: list[Any] = self.parent_pipes
        for index, *_ in failed:
            pipes[index].close()
            pipes[index] = None
        if failed:
            self._state = AsyncState.DEFAULT
            _, kind, error, _ = min(failed, key=lambda one: one[0])
            raise error if isinstance(error, kind) else kind(error)


def _work(*args: Any) -> None:
    """Gymnasium's worker, which ends in silence if its parent did not wait for the answer."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _async_worker(*args)


def _vector(factories: Sequence[RecorderFactory], asynchronous: bool) -> Any:
    """Gymnasium's vector environment, whose observations have the fields of `EnvIntake`."""
    options: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "copy": False}
    try:
        if not asynchronous:
            return _SyncVector(factories, **options)
        try:
            return _AsyncVector(factories, **options)
        except (ValueError, TypeError) as error:
            if isinstance(error, EnvironmentFaultError):
                raise
            # fields that no shared memory can hold: of float16, or without numbers
            return _AsyncVector(factories, shared_memory=False, **options)
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, EnvironmentRaisedError):
            raise
        raise EnvironmentFaultError(
            "the environments differ in their spaces: expected the same observation_space and "
            "action_space in all of them"
        ) from error


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
    observe_text: bool = False,
    **options: Any,
) -> GymVec:
    """Make `num_envs` copies of a registered Gymnasium environment.

    Args:
        id: as in `gymnasium.make`; "module:Name-v0" imports the module first.
        num_envs: `N`.
        asynchronous: step each environment in its own process.
        success_threshold: see `VecEnv`.
        observe_text: see `GymVec`.
        **options: keywords of the environment.
    """
    check_registered(id)
    factory = RegisteredEnv(id, options)
    return GymVec(
        [factory] * num_envs,
        asynchronous=asynchronous,
        success_threshold=success_threshold,
        observe_text=observe_text,
    )
