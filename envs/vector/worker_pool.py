"""The worker processes of a pool: request steps, receive results, and replace workers that die."""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from firstlight.envs.faults import EnvironmentFaultError, EnvironmentRaisedError
from firstlight.envs.seeding import derive
from firstlight.envs.types import Snapshot
from firstlight.envs.vector.child_process import (
    SHUTDOWN_SECONDS,
    START_SECONDS,
    WorkerDiedError,
    end_all,
    name_of,
)
from firstlight.envs.vector.pool_memory import SharedMemory, wait_readable
from firstlight.envs.vector.pool_process import WorkerProcess
from firstlight.envs.vector.pool_worker import NO_ENV, RESET, EnvironmentFailure, WorkerTask

_REPLAY_SECONDS = 0.01  # time limit for one action of a replay

log = logging.getLogger(__name__)


class WorkerPool:
    """Worker processes that share one memory. What fails is counted and replaced.

    Args:
        context: of multiprocessing.
        tasks: one for each worker.
        timeout: time limit for one command of a worker, in seconds.
        max_restarts: number of failures after which RuntimeError is raised.

    Attributes:
        obs_space: fields of one environment.
        act_space: of one environment.
        left_out: see `VecEnv`.
        seed: of the sequences of episodes.
        episode: [N] int64, number of episodes that each environment began.
        unreported: [N] bool, environments that crashed while no result of theirs was requested; the
            next result that is requested reports it.
        restarts: number of failures so far.
        fatal_error: error that ended the pool, or None.
    """

    def __init__(
        self, context: Any, tasks: Iterable[WorkerTask], timeout: float, max_restarts: int
    ):
        self._context, self._tasks = context, [*tasks]
        self.timeout, self.max_restarts, self.restarts = timeout, max_restarts, 0
        self.fatal_error: Exception | None = None
        self._poll = select.poll()
        self.workers: list[WorkerProcess] = []
        num_envs = self._tasks[0].num_envs
        self.seed, self.episode = 0, np.zeros(num_envs, np.int64)
        self.unreported = np.zeros(num_envs, bool)
        self._worker_of = np.concatenate([[task.index] * len(task.env_ids) for task in self._tasks])

    def start(self) -> None:
        """Start all processes at once, and wait until every environment is made.

        Raises:
            EnvironmentFaultError: if the environments differ in their spaces, or break the API.
            EnvironmentRaisedError: if the factory raised.
            WorkerDiedError: if a worker dies.
        """
        for task in self._tasks:
            self.workers.append(WorkerProcess(self._context, task))
        spaces = [worker.result(START_SECONDS) for worker in self.workers]
        self.obs_space, self.act_space, self.left_out = spaces[0]
        task = self._tasks[0]
        if any(other[:2] != spaces[0][:2] for other in spaces):
            raise EnvironmentFaultError(
                f"the environments of {name_of(task.make)} differ in their spaces: expected the "
                "same observation_space and action_space in all of them"
            )
        self.memory = SharedMemory(
            task.memory,
            task.num_envs,
            len(self.workers),
            self.obs_space,
            task.info_space,
            self.act_space,
        )
        for worker in self.workers:
            self._call(worker, "attach", seconds=START_SECONDS)
        self.publish_seeds()

    @property
    def num_pending(self) -> int:
        """Number of environments with an outstanding result."""
        return sum(len(worker.pending) for worker in self.workers)

    def workers_of(self, env_ids: np.ndarray) -> list[WorkerProcess]:
        """Workers of the environments `env_ids` [M] int64."""
        return [self.workers[w] for w in np.unique(self._worker_of[env_ids])]

    def publish_seeds(self) -> None:
        """Write the seeds of all next episodes to shared memory."""
        self._publish_seeds(np.arange(len(self.episode)))

    def request(self, env_ids: np.ndarray, command: int) -> None:
        """Have the workers run `command` in the environments `env_ids` [M] int64."""
        memory = self.memory
        for worker in self.workers_of(env_ids):
            ids = worker.pending = np.intersect1d(env_ids, worker.env_ids)
            unreported = self.unreported[ids]
            if unreported.any():
                self._mark_crashed(ids[unreported])
                self.unreported[ids] = False
                ids = ids[~unreported]
            memory.command[ids] = command
            worker.stepping = ids
            if len(ids):
                for fd in worker.file_descriptors:
                    self._poll.register(fd, select.POLLIN)
                worker.command(resetting=command == RESET, seconds=self.timeout)

    def receive(self, min_envs: int) -> np.ndarray:
        """Wait for the results of at least `min_envs` environments.

        Returns:
            [M] int64, all environments whose results are there.

        Raises:
            RuntimeError: if there were more than `max_restarts` failures.
        """
        while True:
            ready = [w for w in self.workers if len(w.pending) and not w.busy]
            if sum(len(worker.pending) for worker in ready) >= min_envs:
                break
            for worker in self._wait():
                self._finish_command(worker)
        ids = [worker.pending for worker in ready]
        for worker in ready:
            worker.pending = worker.pending[:0]
        return np.concatenate(ids) if ids else np.zeros(0, np.int64)

    def call(self, worker: WorkerProcess, method: str, *args: Any) -> Any:
        """Call a method of a worker's `WorkerEnvironments`.

        Raises:
            WorkerDiedError: if the worker dies or exceeds `timeout`.
            Exception: what the method raised.
        """
        return self._call(worker, method, *args, seconds=self.timeout)

    def restore(self, snapshots: Mapping[int, Snapshot]) -> list[int]:
        """Restore episodes by replay.

        Args:
            snapshots: by number of the environment.

        Returns:
            The environments whose episodes are lost; each begins a new one.
        """
        restarted: list[int] = []
        for worker in self.workers_of(np.array([*snapshots])):
            own = {i: snapshots[i] for i in worker.task.env_ids if i in snapshots}
            actions = sum(len(one.actions) for one in own.values() if one.actions is not None)
            try:
                seconds = START_SECONDS + _REPLAY_SECONDS * actions
                lost = self._call(worker, "restore", own, seconds=seconds)
                self._advance_episodes(np.array(lost, np.int64))
            except WorkerDiedError as death:
                self._replace(worker, str(death))
                lost = [*own]
            restarted += lost
        self.unreported[[*snapshots]] = False
        return restarted

    def close(self) -> None:
        """End all workers and free the memory; may be called twice."""
        workers, self.workers = self.workers, []
        try:
            end_all(workers, SHUTDOWN_SECONDS)
        finally:
            self._tasks[0].memory.close()

    def _call(self, worker: WorkerProcess, method: str, *args: Any, seconds: float) -> Any:
        worker.call(method, *args)
        answer = worker.result(seconds)
        self._count_failures(worker)
        return answer

    def _wait(self) -> list[WorkerProcess]:
        """Wait for busy workers. Returns those that have finished, are dead, or too late.

        A worker that is dead has a `death`.
        """
        busy = [worker for worker in self.workers if worker.busy]
        first = min(worker.deadline for worker in busy)
        events = wait_readable(self._poll, first - time.monotonic())
        finished = []
        for worker in busy:
            done, pipe, sentinel = worker.file_descriptors
            if done in events:
                worker.done.wait()
            elif sentinel in events:
                worker.set_death(self._activity(worker))
            elif pipe in events:
                with contextlib.suppress(EOFError, OSError):  # it is dying; `sentinel` is next
                    worker.receive()
                continue
            elif time.monotonic() >= worker.deadline and not events:
                worker.set_death(self._activity(worker), self.timeout)
            else:
                continue
            for fd in (done, pipe, sentinel):
                self._poll.unregister(fd)
            worker.busy = False
            finished.append(worker)
        return finished

    def _finish_command(self, worker: WorkerProcess) -> None:
        """Count the episodes that a command began and the failures in it."""
        memory, ids = self.memory, worker.stepping
        if worker.death is not None:
            self._replace(worker, str(worker.death))
            return
        if count := int(memory.failures[ids].sum()):
            worker.receive_failures(count, self.timeout)
            self._count_failures(worker)
        over = memory.terminated[ids] | memory.truncated[ids] | memory.failed[ids]
        self._advance_episodes(ids if worker.resetting else ids[over])

    def _replace(self, worker: WorkerProcess, death: str) -> None:
        """Start a new process in place of a dead one, with new episodes."""
        ids, index = worker.env_ids, worker.task.index
        while True:
            self._count_restart(death)
            what = f"the open episodes of environments {ids[0]} to {ids[-1]} are lost"
            log.warning("replaced, %s: %s", what, death)
            self._advance_episodes(ids)  # no seed is tried twice: it may be what kills the worker
            self.memory.command[ids], self.memory.current[index] = 0, NO_ENV
            self.workers[index].kill()
            new = self.workers[index] = WorkerProcess(self._context, worker.task)
            try:
                new.result(START_SECONDS)
            except Exception as error:  # of the factory, or the new process is dead
                death = f"{type(error).__name__}: {error}"
                continue
            try:
                self._call(new, "attach", seconds=START_SECONDS)
                self.call(new, "reset_all")
            except WorkerDiedError as again:
                death = str(again)
                continue
            break
        self._advance_episodes(ids)
        new.pending = worker.pending
        self._mark_crashed(new.pending)
        self.unreported[ids] = True
        self.unreported[new.pending] = False

    def _mark_crashed(self, env_ids: np.ndarray) -> None:
        memory = self.memory
        memory.failed[env_ids], memory.reward[env_ids] = True, 0.0
        memory.terminated[env_ids] = memory.truncated[env_ids] = False

    def _count_failures(self, worker: WorkerProcess) -> None:
        failures, worker.failures = worker.failures, []
        for f in failures:
            if f.kind == "fault":
                self._end(EnvironmentFaultError(f.sentence))
            what = f"environment {f.env_id} (seed {f.seed}, action {f.action}) raised"
            if f.kind == "fatal":
                sentence = f"{f.sentence}, as it did before: no episode can begin"
                self._end(EnvironmentRaisedError(sentence, f.frames))
            self._count_restart(f.sentence, f)
            log.warning("%s; it is made again\n%s", what, f.traceback)

    def _count_restart(self, reason: str, failure: EnvironmentFailure | None = None) -> None:
        """Count a failure: an exception of an environment, or the death of a worker."""
        self.restarts += 1
        if self.restarts > self.max_restarts:
            beyond = f"{self.restarts} failures are more than max_restarts={self.max_restarts}"
            sentence = f"{beyond}; the last was: {reason}"
            if failure is None:
                self._end(RuntimeError(sentence))
            self._end(EnvironmentRaisedError(sentence, failure.frames))

    def _end(self, error: Exception) -> NoReturn:
        """Raise `error`, now and at every later use of the pool."""
        self.fatal_error = error
        raise error

    def _activity(self, worker: WorkerProcess) -> str:
        """What a worker was doing, for messages."""
        i = int(self.memory.current[worker.task.index])
        if i == NO_ENV:
            return "between steps"
        action = self.memory.action[i].tolist()
        return f"in environment {i} (seed {self.memory.seed[i]}, action {action})"

    def _advance_episodes(self, env_ids: np.ndarray) -> None:
        """Count the episodes that `env_ids` [M] int64 began, and write the seeds of the next."""
        if len(env_ids):
            self.episode[env_ids] += 1
            self._publish_seeds(env_ids)

    def _publish_seeds(self, env_ids: np.ndarray) -> None:
        for i in env_ids.tolist():
            episode = int(self.episode[i])
            self.memory.next_seed[i] = derive(self.seed, "episode", i, episode)
