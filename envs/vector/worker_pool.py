"""All workers of the pool: who is asked for what, whoever answers first, and who is replaced."""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from firstlight.envs.seeding import derive
from firstlight.envs.types import Snapshot
from firstlight.envs.vector.isolated import WorkerDiedError
from firstlight.envs.vector.pool_memory import Memory, listen
from firstlight.envs.vector.pool_process import GRACE, START, Worker
from firstlight.envs.vector.pool_worker import BEGIN, NOBODY, Task

_PER_ACTION = 0.01  # seconds that one action of a replay may take

log = logging.getLogger(__name__)


class Crew:
    """Workers that share one memory; whatever of them fails is made anew.

    Args:
        context: of multiprocessing.
        tasks: one for each worker.
        timeout: seconds that a worker may take for one answer.
        max_restarts: failures after which RuntimeError is raised.

    Attributes:
        obs_space: of one environment, nested as it is.
        act_space: of one environment.
        seed: of the sequences of episodes.
        episode: [N] int64, how many each environment began.
        owed: [N] bool, episodes lost while nothing was asked, told when something is.
        restarts: failures so far.
        given_up: why, if one was too many.
    """

    def __init__(self, context: Any, tasks: Iterable[Task], timeout: float, max_restarts: int):
        self._context, self._tasks = context, [*tasks]
        self.timeout, self.max_restarts, self.restarts = timeout, max_restarts, 0
        self.given_up: str | None = None
        self._poll = select.poll()
        self.workers: list[Worker] = []
        num_envs = self._tasks[0].num_envs
        self.seed, self.episode = 0, np.zeros(num_envs, np.int64)
        self.owed = np.zeros(num_envs, bool)
        self._worker_of = np.concatenate([[task.index] * len(task.rows) for task in self._tasks])

    def start(self) -> None:
        """Begin all processes at once, and wait until every environment is made."""
        for task in self._tasks:
            self.workers.append(Worker(self._context, task))
        told = [worker.made() for worker in self.workers]
        self.obs_space, self.act_space = told[0]
        task = self._tasks[0]
        if any(other != told[0] for other in told):
            raise ValueError(f"the environments of {self.workers[0].name} differ in their spaces")
        self.memory = Memory(
            task.memory, task.num_envs, len(told), self.obs_space, task.info_space, self.act_space
        )
        if not self.memory.obs:
            raise ValueError(f"no field of {self.obs_space} can be a tensor")
        for worker in self.workers:
            worker.call(START, "attach")
        self.offer()

    @property
    def outstanding(self) -> int:
        """How many environments were asked and not received."""
        return sum(len(worker.asked) for worker in self.workers)

    def workers_of(self, ids: np.ndarray) -> list[Worker]:
        """Whose environments `ids` are."""
        return [self.workers[w] for w in np.unique(self._worker_of[ids])]

    def offer(self) -> None:
        """Put out the seeds that the next episodes are to be begun with."""
        self._offer(np.arange(len(self.episode)))

    def ask(self, ids: np.ndarray, command: int) -> None:
        """Have the workers of `ids` [M] int64 do `command` with them."""
        memory = self.memory
        for worker in self.workers_of(ids):
            own = worker.asked = worker.stepped = np.intersect1d(ids, worker.ids)
            owed = self.owed[own]
            if owed.any():
                self._mark_lost(own[owed])
                self.owed[own] = False
                worker.stepped = own[~owed]
            memory.command[worker.stepped] = command
            worker.begins = command == BEGIN
            if len(worker.stepped):
                worker.busy, worker.deadline = True, time.monotonic() + self.timeout
                for fd in worker.ears:
                    self._poll.register(fd, select.POLLIN)
                worker.go.ring()

    def receive(self, min_envs: int) -> np.ndarray:
        """Wait for answers of so many. Returns the ids [M] int64 of all that have answered."""
        while True:
            ready = [w for w in self.workers if len(w.asked) and not w.busy]
            if sum(len(worker.asked) for worker in ready) >= min_envs:
                break
            for worker in self._wait():
                self._settle(worker)
        ids = [worker.asked for worker in ready]
        for worker in ready:
            worker.asked = worker.asked[:0]
        return np.concatenate(ids) if ids else np.zeros(0, np.int64)

    def call(self, worker: Worker, name: str, *args: Any, seconds: float | None = None) -> Any:
        """What a method of a worker's `Rows` answers; `timeout` unless it is given `seconds`."""
        answer = worker.call(seconds or self.timeout, name, *args)
        self._hear(worker)
        return answer

    def restore(self, goals: Mapping[int, Snapshot]) -> list[int]:
        """Live the episodes of `goals` again. Returns the environments that lost theirs."""
        lost: list[int] = []
        for worker in self.workers_of(np.array([*goals])):
            own = {i: goals[i] for i in worker.task.rows if i in goals}
            actions = sum(len(p.actions) for p in own.values() if p.actions is not None)
            try:
                seconds = START + _PER_ACTION * actions
                gone = self.call(worker, "restore", own, seconds=seconds)
                self._began(np.array(gone, np.int64))
            except WorkerDiedError as death:
                self._replace(worker, str(death))
                gone = [*own]
            lost += gone
        self.owed[[*goals]] = False
        return lost

    def close(self, seconds: float = GRACE) -> None:
        """Ask all to end, wait so long for all together, kill the rest. May be called again."""
        workers, self.workers = self.workers, []
        deadline = time.monotonic() + seconds
        try:
            for worker in workers:
                with contextlib.suppress(OSError):  # it is dead
                    worker.pipe.send(("close", ()))
            for worker in workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:  # also of a signal while waiting
            for worker in workers:
                worker.kill()
            self._tasks[0].memory.close()

    def _wait(self) -> list[Worker]:
        """Workers that were asked and have answered, or are dead: then `death` says of what."""
        busy = [worker for worker in self.workers if worker.busy]
        heard = listen(self._poll, min(worker.deadline for worker in busy) - time.monotonic())
        over = []
        for worker in busy:
            bell, pipe, sentinel = worker.ears
            if bell in heard:
                worker.done.hear()
            elif sentinel in heard:
                worker.death = worker.cause(None)
            elif pipe in heard:
                with contextlib.suppress(EOFError, OSError):  # dying; the sentinel will tell
                    worker.complaints.append(worker.pipe.recv())
                continue
            elif time.monotonic() >= worker.deadline and not heard:
                worker.death = worker.cause(self.timeout)
            else:
                continue
            for fd in (bell, pipe, sentinel):
                self._poll.unregister(fd)
            worker.busy = False
            over.append(worker)
        return over

    def _settle(self, worker: Worker) -> None:
        """Note what has begun and what has failed."""
        memory, ids = self.memory, worker.stepped
        if worker.death is not None:
            self._replace(worker, worker.death + self._doing(worker) + worker.last_words())
            return
        if count := int(memory.complaints[ids].sum()):
            worker.read(count, self.timeout)
            self._hear(worker)
        over = memory.terminated[ids] | memory.truncated[ids] | memory.failed[ids]
        self._began(ids if worker.begins else ids[over])

    def _replace(self, worker: Worker, death: str) -> None:
        """Have a new process do what a dead one did, from new episodes on."""
        ids, index = worker.ids, worker.task.index
        while True:
            self._count(death)
            what = f"the open episodes of environments {ids[0]} to {ids[-1]} are lost"
            log.warning("replaced, %s: %s", what, death)
            self._began(ids)  # not the same seeds again: one of them may be deadly
            self.memory.command[ids], self.memory.current[index] = 0, NOBODY
            self.workers[index].kill()
            fresh = self.workers[index] = Worker(self._context, worker.task)
            try:
                fresh.made()
            except Exception as error:
                death = f"{type(error).__name__}: {error}"
                continue
            try:
                fresh.call(START, "attach")
                self.call(fresh, "begin")
            except WorkerDiedError as again:
                death = str(again)
                continue
            break
        self._began(ids)
        fresh.asked = worker.asked
        self._mark_lost(fresh.asked)
        self.owed[ids] = True
        self.owed[fresh.asked] = False

    def _mark_lost(self, ids: np.ndarray) -> None:
        memory = self.memory
        memory.failed[ids], memory.reward[ids] = True, 0.0
        memory.terminated[ids] = memory.truncated[ids] = False

    def _hear(self, worker: Worker) -> None:
        """Deal with complaints."""
        complaints, worker.complaints = worker.complaints, []
        for said in complaints:
            what = f"environment {said.env_id} (seed {said.seed}, action {said.action}) raised"
            if said.hopeless:
                self._give_up(f"{what}, as it did before: no episode can begin\n{said.text}")
            self._count(f"{what}\n{said.text}")
            log.warning("%s; it is made anew\n%s", what, said.text)

    def _count(self, failure: str) -> None:
        self.restarts += 1
        if self.restarts > self.max_restarts:
            beyond = f"{self.restarts} failures are more than max_restarts={self.max_restarts}"
            self._give_up(f"{beyond}; the last was: {failure}")

    def _give_up(self, reason: str) -> NoReturn:
        """Nothing that is asked from now on has an answer."""
        self.given_up = reason
        raise RuntimeError(reason)

    def _doing(self, worker: Worker) -> str:
        i = int(self.memory.current[worker.task.index])
        if i == NOBODY:
            return " between steps"
        action = self.memory.action[i].tolist()
        return f" in environment {i} (seed {self.memory.seed[i]}, action {action})"

    def _began(self, ids: np.ndarray) -> None:
        """Count episodes of `ids` that used their seeds up."""
        if len(ids):
            self.episode[ids] += 1
            self._offer(ids)

    def _offer(self, ids: np.ndarray) -> None:
        for i in ids.tolist():
            episode = int(self.episode[i])
            self.memory.next_seed[i] = derive(self.seed, "episode", i, episode)
