"""Gymnasium environments in a pool of worker processes with shared memory."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from multiprocessing import util
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs, Snapshot, Step
from firstlight.envs.vec import VecEnv, checked_actions, lawful
from firstlight.envs.vector.pool_memory import memfd
from firstlight.envs.vector.pool_worker import RESET, STEP, Factory, WorkerTask
from firstlight.envs.vector.registered import RegisteredEnv, check_registered
from firstlight.envs.vector.worker_pool import WorkerPool


class PoolVec(VecEnv):
    """`num_envs` environments in `num_workers` processes, for environments that hold Python's lock.

    Steps are the same as those of `GymVec` with the same seeds, bit for bit, if what environments
    return depends on seeds and actions only. Observations, rewards, flags and actions are in shared
    memory; a step notifies each worker once and is notified once by each. A `BufferedEnv` gets its
    rows of that memory, under the names of `obs_space`, and so saves the copy of its observations.

    An environment that raises loses its episode and is made again. A worker that dies, or exceeds
    `timeout`, is replaced, and all its open episodes are lost. An environment with a lost episode
    begins a new one in a row that is not `valid` and is in `Step.crashed_ids`; a warning names the
    environment, the seed of the episode, the last action and the traceback. `restarts` counts these
    failures. RuntimeError is raised beyond `max_restarts`, `EnvironmentRaisedError` if an
    environment raises three times in a row where it should begin an episode, and at once
    `EnvironmentFaultError` if what an environment returns breaks Gymnasium's API.

    Besides `send` and `recv` there are `send_to`, which steps some environments, and `recv_ready`,
    which receives those that are ready first. The environments of a worker are received together
    and may then be sent to again, in one call for all environments of one worker.

    A script that uses this class must guard its main part by ``if __name__ == "__main__"``.

    Args:
        make: makes one environment; must pickle, so it is a function at the top of a module, a
            class, or a `functools.partial` of one.
        num_envs: `N`.
        num_workers: number of processes; default one for each available CPU.
        timeout: time limit for one step of all environments of a worker, in seconds. The time
            limit for making them is five minutes.
        max_restarts: number of failures that may happen.
        success_threshold: see `VecEnv`.
        info_space: info fields that become side channels, spaces of one environment.
        reported: see `VecEnv`.
        observe_text: see `GymVec`.
        start_method: of multiprocessing.

    >>> import contextlib, functools, gymnasium
    >>> make = functools.partial(gymnasium.make, "CartPole-v1")
    >>> with contextlib.closing(PoolVec(make, num_envs=3, num_workers=2)) as vec:
    ...     obs, info = vec.reset(seed=0)
    >>> obs["obs"].shape
    torch.Size([3, 4])
    """

    resume = "replay"

    def __init__(
        self,
        make: Factory,
        *,
        num_envs: int,
        num_workers: int | None = None,
        timeout: float = 60.0,
        max_restarts: int = 100,
        success_threshold: float | None = None,
        info_space: spaces.Dict | None = None,
        reported: Sequence[str] = (),
        observe_text: bool = False,
        start_method: Literal["forkserver", "spawn"] = "forkserver",
    ):
        for name, count in (("num_envs", num_envs), ("num_workers", num_workers)):
            if count is not None and count < 1:
                raise ValueError(f"{name} is {count}, expected at least 1")
        self.num_envs, self.success_threshold = num_envs, success_threshold
        self.reported = tuple(reported)
        self.num_workers = min(num_envs, num_workers or available_cores())
        self._closed, extra = False, info_space or spaces.Dict({})
        context: Any = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            context.set_forkserver_preload([__name__])  # so that torch is imported once
        file, shares = memfd(), np.array_split(np.arange(num_envs), self.num_workers)
        number = self.num_workers
        tasks = [
            WorkerTask(
                make, w, range(ids[0], ids[-1] + 1), num_envs, number, extra, file, observe_text
            )
            for w, ids in enumerate(shares)
        ]
        self._pool = WorkerPool(context, tasks, timeout, max_restarts)
        # when Python ends, this runs before multiprocessing waits for its children
        self._finalizer = util.Finalize(self, self._pool.close, exitpriority=10)
        try:
            self._pool.start()
        except BaseException:
            self.close()
            raise
        self._memory, self.act_space = self._pool.memory, self._pool.act_space
        self.obs_space = spaces.Dict(self._memory.fields)
        self.left_out = self._pool.left_out
        self.info_space = spaces.Dict({**extra.spaces, "success": spaces.Box(-1, 1, (), np.int8)})
        self._everyone = np.arange(num_envs)

    @property
    def restarts(self) -> int:
        """Number of failures of environments and workers so far."""
        return self._pool.restarts

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere; `seed` starts a new sequence of episode seeds."""
        pool = self._ready()
        pool.receive(pool.num_pending)  # steps that were sent and not received
        if seed is not None:
            pool.seed, pool.episode[:] = seed, 0
            pool.publish_seeds()
        pool.unreported[:] = False
        pool.request(self._everyone, RESET)
        pool.receive(self.num_envs)
        return self._shown(self._everyone)

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32 (clipped to the bounds)."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Start a step of all environments."""
        self.send_to(torch.arange(self.num_envs), action)

    def recv(self) -> Step:
        """Wait for the step started by `send`."""
        return self.recv_ready(self.num_envs)[1]

    def send_to(self, env_ids: Tensor, action: Tensor) -> None:
        """Start a step of some environments.

        Args:
            env_ids: [M] int64, all different, of workers without a step that is not received.
            action: [M] int64 or [M, A] float32.
        """
        pool, ids = self._ready(), env_ids.numpy()
        if not len(ids) or len({*ids.tolist()} & {*range(self.num_envs)}) < len(ids):
            raise ValueError(
                f"env_ids are {ids}, expected different ones of 0..{self.num_envs - 1}"
            )
        actions = checked_actions(action, self.act_space, len(ids))
        for worker in pool.workers_of(ids):
            if len(worker.pending):
                raise RuntimeError(
                    f"environments {worker.pending.tolist()} were sent to and not received: call "
                    "recv_ready() before sending to environments of the same worker"
                )
        self._memory.action[ids] = actions
        pool.request(ids, STEP)

    def recv_ready(self, min_envs: int = 1) -> tuple[Tensor, Step]:
        """Wait for `min_envs` environments and receive all that are ready.

        Returns:
            env_ids [M] int64, ascending, and a step whose fields are [M, ...]: row m is environment
            ``env_ids[m]``. `final_ids` and `crashed_ids` name environments, not rows.
        """
        pool, memory = self._ready(), self._memory
        if not 0 < min_envs <= pool.num_pending:
            raise RuntimeError(
                f"{pool.num_pending} environments were sent to and not received; {min_envs} cannot "
                "be received"
            )
        ids = pool.receive(min_envs)
        at = slice(None) if len(ids) == self.num_envs else ids
        flags = (memory.terminated, memory.truncated, memory.failed)
        terminated, truncated, crashed = (field[at].copy() for field in flags)
        over = terminated | truncated
        obs, info = self._shown(ids)
        step = Step(
            obs=obs,
            info=info,
            reward=torch.from_numpy(memory.reward[at].copy()),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(~crashed),
            is_first=torch.from_numpy(over | crashed),
            final_ids=torch.from_numpy(ids[over]),
            final_obs=_tensors(memory.final_obs, ids[over]),
            final_info=_tensors(memory.final_info, ids[over]),
            crashed_ids=torch.from_numpy(ids[crashed]),
        )
        return torch.from_numpy(ids), step

    def snapshots(self) -> list[Snapshot]:
        """Seed and actions of each open episode."""
        pool = self._idle()
        return [one for worker in pool.workers for one in pool.call(worker, "snapshots")]

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back by replaying seeds and actions."""
        by_env = dict(zip(env_ids.tolist(), snapshots, strict=True))
        restarted = self._idle().restore(by_env)
        return *self._shown(env_ids.numpy()), torch.isin(env_ids, torch.tensor(restarted))

    def state_dict(self) -> dict[str, Any]:
        """Snapshot of each environment, the number of episodes it began, and the restarts."""
        snapshots, pool = [dataclasses.asdict(one) for one in self.snapshots()], self._pool
        state = {"seed": pool.seed, "episode": pool.episode.copy(), "points": snapshots}
        return state | {"owed": pool.unreported.copy(), "restarts": pool.restarts}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned, by replay. Returns what `restore` does."""
        pool = self._idle()
        pool.seed, pool.episode[:] = state["seed"], state["episode"]
        pool.restarts = state["restarts"]
        pool.publish_seeds()
        snapshots = [Snapshot(**fields) for fields in state["points"]]
        obs, info, restarted = self.restore(torch.from_numpy(self._everyone), snapshots)
        return obs, info, restarted | torch.from_numpy(state["owed"])

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment made with `render_mode="rgb_array"`, [H, W, 3] uint8."""
        pool = self._idle()
        (worker,) = pool.workers_of(np.array([env_id]))
        frame = pool.call(worker, "render", env_id)
        if frame is None:
            raise RuntimeError('make the environment with render_mode="rgb_array" to render it')
        return np.asarray(frame)

    def close(self) -> None:
        """End the workers; kill those that have not ended after 5 s."""
        self._closed = True
        self._finalizer()

    def _ready(self) -> WorkerPool:
        if self._closed:
            raise ValueError("the pool is closed")
        if self._pool.fatal_error is not None:
            raise self._pool.fatal_error
        return self._pool

    def _idle(self) -> WorkerPool:
        if self._ready().num_pending:
            raise RuntimeError("a step was sent and not received: call recv() first")
        return self._pool

    def _shown(self, ids: np.ndarray) -> tuple[Obs, Obs]:
        return _tensors(self._memory.obs, ids), _tensors(self._memory.info, ids)


def _tensors(fields: Mapping[str, np.ndarray], ids: np.ndarray) -> Obs:
    """Copy rows of shared memory; all rows of a field at once if all are wanted."""
    return {
        name: torch.from_numpy(
            (field if len(ids) == len(field) else field[ids]).astype(lawful(field.dtype))
        )
        for name, field in fields.items()
    }


def available_cores() -> int:
    """Count the processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def make(
    id: str,
    *,
    num_envs: int = 16,
    num_workers: int | None = None,
    timeout: float = 60.0,
    max_restarts: int = 100,
    success_threshold: float | None = None,
    observe_text: bool = False,
    **options: Any,
) -> PoolVec:
    """Make `num_envs` copies of a registered Gymnasium environment in a pool of processes.

    Args:
        id: as in `gymnasium.make`; "module:Name-v0" imports the module first.
        num_envs: `N`.
        num_workers: number of processes; default one for each available CPU.
        timeout: time limit for one step of all environments of a worker, in seconds.
        max_restarts: number of failures that may happen.
        success_threshold: see `VecEnv`.
        observe_text: see `GymVec`.
        **options: keywords of the environment.
    """
    check_registered(id)
    return PoolVec(
        RegisteredEnv(id, options),
        num_envs=num_envs,
        num_workers=num_workers,
        timeout=timeout,
        max_restarts=max_restarts,
        success_threshold=success_threshold,
        observe_text=observe_text,
    )
