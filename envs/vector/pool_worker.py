"""A worker process of the pool: make environments, step them, and reset them after an episode."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import select
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from firstlight.envs.faults import EnvironmentFaultError, EnvironmentRaisedError
from firstlight.envs.intake import Fields
from firstlight.envs.seeding import derive
from firstlight.envs.types import Snapshot
from firstlight.envs.vector.buffered import attach_buffers
from firstlight.envs.vector.child_process import name_of
from firstlight.envs.vector.child_service import (
    UNREQUESTED,
    lead_process_group,
    prepare_child_process,
    reply,
    serve_call,
    serve_new,
)
from firstlight.envs.vector.pool_memory import (
    EventNotifier,
    FileHandle,
    SharedMemory,
    wait_readable,
)
from firstlight.envs.vector.replay import Recorder, make_recorder

STEP, RESET = 1, 2  # in `SharedMemory.command`
NO_ENV = -1  # in `SharedMemory.current`
_ATTEMPTS = 3  # to begin an episode, each but the first in an environment made again
_LONGEST_TRACEBACK = 4000  # characters

Factory = Callable[[], gymnasium.Env]


@dataclass(frozen=True)
class WorkerTask:
    """What a worker does: `env_ids` of `num_envs` environments, as worker `index` of `num_workers`.

    `memory` is the file of the shared memory.
    """

    make: Factory
    index: int
    env_ids: range
    num_envs: int
    num_workers: int
    info_space: spaces.Dict
    memory: FileHandle
    observe_text: bool = False


@dataclass(frozen=True)
class WorkerChannels:
    """Channels between a worker and the main process, besides the pipe for method calls.

    `start` notifies the worker of commands in shared memory, `done` the main process of their
    results. Python writes its traceback to the file `traceback` at a fatal signal. The main process
    holds the other end of the pipe `alive`, which so closes when it ends.
    """

    start: EventNotifier
    done: EventNotifier
    traceback: FileHandle
    alive: FileHandle


@dataclass(frozen=True)
class EnvironmentFailure:
    """An exception of an environment.

    `kind` is "fatal" if the environment can begin no episode at all, and "fault" if what it
    returned breaks the API, which it would do again; then the pool ends. `sentence` and `frames`
    are those of `EnvironmentRaisedError`, `traceback` is in full.
    """

    env_id: int
    seed: int
    action: str
    sentence: str
    frames: str
    traceback: str
    kind: Literal["episode", "fatal", "fault"]


class WorkerEnvironments:
    """The environments of one worker, stepped through shared memory.

    Args:
        task: which they are.
        report: called with each failure.
    """

    memory: SharedMemory

    def __init__(self, task: WorkerTask, report: Callable[[EnvironmentFailure], None]):
        self.task, self.report = task, report
        self.envs = {i: self._make_env(i) for i in task.env_ids}
        self._views: dict[int, dict[str, np.ndarray]] = {}  # rows of observations
        self._info_views: dict[int, dict[str, np.ndarray]] = {}

    @property
    def spaces_and_left_out(self) -> tuple[Any, spaces.Space, dict[str, str]]:
        """Observation space, action space and `left_out` of the first environment.

        Raises:
            EnvironmentFaultError: if another environment has other spaces.
        """
        first, *others = self.envs.values()
        for other in others:
            if (other.observation_space, other.action_space) != (
                first.observation_space,
                first.action_space,
            ):
                raise EnvironmentFaultError(
                    f"the environments of {name_of(self.task.make)} differ in their spaces: "
                    "expected the same observation_space and action_space in all of them"
                )
        return first.observation_space, first.action_space, first.left_out

    def attach(self) -> None:
        """Map the shared memory; its file must have its full size by now."""
        task, (obs_space, act_space, _) = self.task, self.spaces_and_left_out
        self.memory = SharedMemory(
            task.memory, task.num_envs, task.num_workers, obs_space, task.info_space, act_space
        )
        for i, env in self.envs.items():
            self._views[i] = {name: field[i, ...] for name, field in self.memory.obs.items()}
            self._info_views[i] = {
                name: self.memory.info[name][i, ...] for name in task.info_space.spaces
            }
            attach_buffers(env.env, self._views[i])

    def run_commands(self) -> None:
        """Run the commands in `SharedMemory.command`, one environment after the other."""
        memory = self.memory
        for i in self.task.env_ids:
            if memory.command[i]:
                self._set_current(i)
                memory.failures[i] = 0
                self._step(i) if memory.command[i] == STEP else self._reset(i)
                memory.command[i] = 0
        self._set_current(NO_ENV)

    def reset_all(self) -> None:
        """Begin an episode in every environment, from its `SharedMemory.next_seed`."""
        for i in self.task.env_ids:
            self._set_current(i)
            self._reset(i)
        self._set_current(NO_ENV)

    def snapshots(self) -> list[Snapshot]:
        """Seed and actions of each open episode."""
        return [env.snapshot() for env in self.envs.values()]

    def restore(self, snapshots: Mapping[int, Snapshot]) -> list[int]:
        """Restore episodes by replaying their seeds and actions.

        Args:
            snapshots: by number of the environment.

        Returns:
            The environments whose replay differed; they begin a new episode.
        """
        restarted = []
        for i, snapshot in snapshots.items():
            self._set_current(i)
            outputs = self.envs[i].replay({i: snapshot})
            if outputs is None:
                restarted.append(i)
                self._reset(i)
            else:
                self.memory.seed[i] = -1 if snapshot.seed is None else snapshot.seed
                self._write(i, *outputs)
        self._set_current(NO_ENV)
        return restarted

    def render(self, env_id: int) -> Any:
        """Picture of one environment, or None."""
        return self.envs[env_id].render()

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs.values():
            with contextlib.suppress(Exception):
                env.close()

    def _make_env(self, i: int) -> Recorder:
        task = self.task
        return make_recorder(
            task.make, i, task.info_space, observe_text=task.observe_text, owns_process=True
        )

    def _set_current(self, i: int) -> None:
        self.memory.current[self.task.index] = i

    def _step(self, i: int) -> None:
        memory = self.memory
        memory.failed[i] = memory.terminated[i] = memory.truncated[i] = False
        memory.reward[i] = 0.0
        action = memory.action[i]
        if isinstance(action, np.ndarray):
            action = action.copy()  # the environment may keep it
        try:
            obs, reward, terminated, truncated, info = self.envs[i].step(action)
        except Exception as error:
            memory.failed[i] = True
            self._report_failure(i, error, str(action.tolist()))
            if not isinstance(error, EnvironmentFaultError):
                self._reset(i, remake=True)
            return
        self._write(i, obs, info)
        memory.reward[i] = reward
        if terminated or truncated:
            memory.terminated[i], memory.truncated[i] = terminated, truncated and not terminated
            for fields, final in (
                (memory.obs, memory.final_obs),
                (memory.info, memory.final_info),
            ):
                for name, field in fields.items():
                    final[name][i] = field[i]
            self._reset(i)

    def _reset(self, i: int, remake: bool = False) -> None:
        """Begin an episode; an environment that raises is made again and gets another seed."""
        seed = int(self.memory.next_seed[i])
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if remake:
                    self._remake(i)
                self.memory.seed[i] = seed
                self._write(i, *self.envs[i].reset(seed=seed))
                return
            except Exception as error:
                self._report_failure(i, error, "none yet", fatal=attempt == _ATTEMPTS)
                if isinstance(error, EnvironmentFaultError):
                    return
                remake, seed = True, derive(seed, "again", attempt)

    def _remake(self, i: int) -> None:
        with contextlib.suppress(Exception):
            self.envs[i].close()
        self.envs[i] = self._make_env(i)
        attach_buffers(self.envs[i].env, self._views[i])

    def _write(self, i: int, obs: Fields, info: Fields) -> None:
        """Write an observation and its side channels to shared memory."""
        for name, view in self._views[i].items():
            if obs[name] is not view:  # else the environment has written there itself
                np.copyto(view, obs[name])
        self.memory.info["success"][i] = info.get("success", -1)
        for name, view in self._info_views[i].items():
            view[...] = info[name]

    def _report_failure(self, i: int, error: Exception, action: str, fatal: bool = False) -> None:
        self.memory.failures[i] += 1
        own = error.__cause__ if isinstance(error, EnvironmentRaisedError) else None
        text = "".join(traceback.format_exception(own or error))[-_LONGEST_TRACEBACK:]
        known = isinstance(error, EnvironmentRaisedError | EnvironmentFaultError)
        kind: Literal["episode", "fatal", "fault"] = "fatal" if fatal else "episode"
        self.report(
            EnvironmentFailure(
                i,
                int(self.memory.seed[i]),
                action,
                str(error) if known else f"environment {i} raised {type(error).__name__}: {error}",
                error.frames if isinstance(error, EnvironmentRaisedError) else "",
                text,
                "fault" if isinstance(error, EnvironmentFaultError) else kind,
            )
        )


def run_worker(pipe: Any, task: WorkerTask, channels: WorkerChannels) -> None:
    """Make the environments of `task`, and serve commands and method calls until `pipe` closes."""
    prepare_child_process()
    lead_process_group()
    _end_group_with_parent(channels.alive.fd)
    faulthandler.enable(file=channels.traceback.fd, all_threads=False)
    torch.set_num_threads(1)

    def report(failure: EnvironmentFailure) -> None:
        reply(pipe, UNREQUESTED, True, failure)

    envs = serve_new(
        pipe, lambda: WorkerEnvironments(task, report), lambda made: made.spaces_and_left_out
    )
    if envs is None:
        return
    with contextlib.suppress(EOFError, OSError):  # the main process closed the pipe, or is gone
        _serve(pipe, envs, channels)
    envs.close()


def _serve(pipe: Any, envs: WorkerEnvironments, channels: WorkerChannels) -> None:
    poll = select.poll()
    poll.register(channels.start.fd, select.POLLIN)
    poll.register(pipe.fileno(), select.POLLIN)
    while True:
        if channels.start.fd in wait_readable(poll):
            channels.start.wait()
            envs.run_commands()
            channels.done.notify()
        elif not serve_call(pipe, envs):
            return


def _end_group_with_parent(pipe: int) -> None:
    """Have the kernel end this process group when the last writer of `pipe` has ended.

    That needs neither the interpreter nor its lock, which an environment may hold for ever.

    Args:
        pipe: descriptor of its reading end.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgid(0))
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # the parent has ended already
        os._exit(1)
