"""A pool of processes that step Gymnasium environments through shared memory."""

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
from firstlight.envs.vector.gym import RegisteredEnv
from firstlight.envs.vector.pool_memory import memfd
from firstlight.envs.vector.pool_worker import RESET, STEP, Factory, WorkerTask
from firstlight.envs.vector.worker_pool import WorkerPool


class PoolVec(VecEnv):
    """`num_envs` environments in `num_workers` processes, several in each, for what holds the GIL.

    Says what `GymVec` says for the same seeds, bit for bit. Observations, rewards, flags and
    actions lie in shared memory without a name; a step is a ring of a bell for each worker and one
    back. An environment with a method ``set_buffers(views: dict[str, np.ndarray])`` is given its
    own rows there, under the names of `obs_space`, and may return them as its observation from then
    on: what is returned is not copied then. The others' observations are copied row by row.

    An environment that raises loses its episode and is made anew. A worker that dies, or gives no
    answer for `timeout` seconds, is replaced, and all its open episodes are lost. What is lost
    opens a new episode in a row that is not `valid` and is among `Step.crashed_ids`; a warning
    names the environment, the episode's seed, the last action and the stack. All that is counted in
    `restarts`. RuntimeError is raised beyond `max_restarts`, and for an environment that cannot
    begin an episode three times in a row.

    Besides `send` and `recv`, `send_to` acts on some environments and `recv_ready` takes whichever
    answer first. The environments of a worker answer together: those that `recv_ready` returned may
    be sent to again, in one call for those of one worker.

    A script that uses this must guard its main part by ``if __name__ == "__main__"``.

    Args:
        make: makes one environment; must pickle, so it is a function at the top of a module, a
            class, or a `functools.partial` of one.
        num_envs: `N`.
        num_workers: processes; default is one for each CPU that may be used.
        timeout: seconds that a worker may take for one step of all its environments. To make
            them it has five minutes.
        max_restarts: failures that are got over.
        success_threshold: see `VecEnv`.
        info_space: info fields to carry as side channels, one environment's spaces.
        reported: see `VecEnv`.
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
        start_method: Literal["forkserver", "spawn"] = "forkserver",
    ):
        for name, count in (("num_envs", num_envs), ("num_workers", num_workers)):
            if count is not None and count < 1:
                raise ValueError(f"{name} is {count}, expected at least 1")
        self.num_envs, self.success_threshold = num_envs, success_threshold
        self.reported = tuple(reported)
        self.num_workers = min(num_envs, num_workers or _cpus())
        self._closed, extra = False, info_space or spaces.Dict({})
        context: Any = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            context.set_forkserver_preload([__name__])  # so that torch is imported once
        file, shares = memfd(), np.array_split(np.arange(num_envs), self.num_workers)
        tasks = [
            WorkerTask(make, w, range(ids[0], ids[-1] + 1), num_envs, self.num_workers, extra, file)
            for w, ids in enumerate(shares)
        ]
        self._pool = WorkerPool(context, tasks, timeout, max_restarts)
        # multiprocessing waits for its children when Python ends; this comes before
        self._finalizer = util.Finalize(self, self._pool.close, exitpriority=10)
        try:
            self._pool.start()
        except BaseException:
            self.close()
            raise
        self._memory, self.act_space = self._pool.memory, self._pool.act_space
        self.obs_space = spaces.Dict(self._memory.fields)
        self.info_space = spaces.Dict({**extra.spaces, "success": spaces.Box(-1, 1, (), np.int8)})
        self._everyone = np.arange(num_envs)

    @property
    def restarts(self) -> int:
        """How many environments and workers were made anew."""
        return self._pool.restarts

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere; `seed` begins a new sequence of episode seeds."""
        pool = self._ready()
        pool.receive(pool.num_pending)  # steps that nobody waited for
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
        """Let the workers begin a step of all environments."""
        self.send_to(torch.arange(self.num_envs), action)

    def recv(self) -> Step:
        """Wait for the step begun by `send`."""
        return self.recv_ready(self.num_envs)[1]

    def send_to(self, env_ids: Tensor, action: Tensor) -> None:
        """Let some environments begin a step.

        Args:
            env_ids: [M] int64, no two alike, of workers that have nothing else to do.
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
                    f"environments {worker.pending.tolist()} have an answer to be received before "
                    "others of the same worker are sent to"
                )
        self._memory.action[ids] = actions
        pool.request(ids, STEP)

    def recv_ready(self, min_envs: int = 1) -> tuple[Tensor, Step]:
        """Wait for so many environments and take all that have answered.

        Returns:
            env_ids [M] int64, ascending, and a step whose fields are [M, ...]: row m is environment
            ``env_ids[m]``. `final_ids` and `crashed_ids` name environments, not rows.
        """
        pool, memory = self._ready(), self._memory
        if not 0 < min_envs <= pool.num_pending:
            raise RuntimeError(
                f"{pool.num_pending} environments were sent to and not received; {min_envs} cannot "
                "answer"
            )
        ids = pool.receive(min_envs)
        at = slice(None) if len(ids) == self.num_envs else ids
        flags = (memory.terminated, memory.truncated, memory.failed)
        terminated, truncated, lost = (field[at].copy() for field in flags)
        over = terminated | truncated
        obs, info = self._shown(ids)
        step = Step(
            obs=obs,
            info=info,
            reward=torch.from_numpy(memory.reward[at].copy()),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(~lost),
            is_first=torch.from_numpy(over | lost),
            final_ids=torch.from_numpy(ids[over]),
            final_obs=_tensors(memory.final_obs, ids[over]),
            final_info=_tensors(memory.final_info, ids[over]),
            crashed_ids=torch.from_numpy(ids[lost]),
        )
        return torch.from_numpy(ids), step

    def snapshots(self) -> list[Snapshot]:
        """Seed and actions of each open episode."""
        pool = self._idle()
        return [point for worker in pool.workers for point in pool.call(worker, "snapshots")]

    def restore(self, env_ids: Tensor, points: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Live the episodes of `points` again; each worker does its own."""
        goals = dict(zip(env_ids.tolist(), points, strict=True))
        lost = self._idle().restore(goals)
        return *self._shown(env_ids.numpy()), torch.isin(env_ids, torch.tensor(lost))

    def state_dict(self) -> dict[str, Any]:
        """Where each environment stands, the episodes it began, and the restarts."""
        points, pool = [dataclasses.asdict(point) for point in self.snapshots()], self._pool
        state = {"seed": pool.seed, "episode": pool.episode.copy(), "points": points}
        return state | {"owed": pool.unreported.copy(), "restarts": pool.restarts}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Take such a state back, episode by episode."""
        pool = self._idle()
        pool.seed, pool.episode[:] = state["seed"], state["episode"]
        pool.restarts = state["restarts"]
        pool.publish_seeds()
        points = [Snapshot(**point) for point in state["points"]]
        obs, info, lost = self.restore(torch.from_numpy(self._everyone), points)
        return obs, info, lost | torch.from_numpy(state["owed"])

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment made with `render_mode="rgb_array"`, [H, W, 3] uint8."""
        pool = self._idle()
        (worker,) = pool.workers_of(np.array([env_id]))
        frame = pool.call(worker, "render", env_id)
        if frame is None:
            raise RuntimeError('make the environment with render_mode="rgb_array" to render it')
        return np.asarray(frame)

    def close(self) -> None:
        """End the workers; those that have not ended within 5 s are killed."""
        self._closed = True
        self._finalizer()

    def _ready(self) -> WorkerPool:
        if self._closed:
            raise ValueError("the pool is closed")
        if self._pool.fatal_error is not None:
            raise RuntimeError(self._pool.fatal_error)
        return self._pool

    def _idle(self) -> WorkerPool:
        if self._ready().num_pending:
            raise RuntimeError("a step was sent and not received")
        return self._pool

    def _shown(self, ids: np.ndarray) -> tuple[Obs, Obs]:
        return _tensors(self._memory.obs, ids), _tensors(self._memory.info, ids)


def _tensors(fields: Mapping[str, np.ndarray], ids: np.ndarray) -> Obs:
    """Copies of rows of shared memory; a whole field is copied at once."""
    return {
        name: torch.from_numpy(
            (field if len(ids) == len(field) else field[ids]).astype(lawful(field.dtype))
        )
        for name, field in fields.items()
    }


def _cpus() -> int:
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
    **options: Any,
) -> PoolVec:
    """`num_envs` copies of a registered Gymnasium environment in a pool of processes.

    Args:
        id: as in `gymnasium.make`; "module:Name-v0" imports the module first.
        num_envs: `N`.
        num_workers: processes; default is one for each CPU that may be used.
        timeout: seconds that a worker may take for one step of all its environments.
        max_restarts: failures that are got over.
        success_threshold: see `VecEnv`.
        **options: keywords of the environment.
    """
    return PoolVec(
        RegisteredEnv(id, options),
        num_envs=num_envs,
        num_workers=num_workers,
        timeout=timeout,
        max_restarts=max_restarts,
        success_threshold=success_threshold,
    )
