"""A worker's side of the process pool: it makes environments, steps them, begins their episodes."""

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
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from firstlight.envs.seeding import derive
from firstlight.envs.types import Snapshot
from firstlight.envs.vec import dig
from firstlight.envs.vector.isolated_child import _portable, _say, pack, unpack
from firstlight.envs.vector.pool_memory import Bell, Handle, Memory, listen
from firstlight.envs.vector.replay import Recorder, _become_worker

STEP, BEGIN = 1, 2  # in `Memory.command`
NOBODY = -1  # in `Memory.current`
_ATTEMPTS = 3  # to begin an episode, each but the first in an environment made anew
_LONGEST = 4000  # characters of a traceback that are told
_TRANSPARENT = ("OrderEnforcing", "PassiveEnvChecker", "TimeLimit")  # as `gymnasium.make` puts on

Factory = Callable[[], gymnasium.Env]


@dataclass(frozen=True)
class Task:
    """What a worker does: `rows` of `num_envs` environments, as worker `index` of `num_workers`."""

    make: Factory
    index: int
    rows: range
    num_envs: int
    num_workers: int
    info_space: spaces.Dict
    memory: Handle


@dataclass(frozen=True)
class Line:
    """How a worker is reached: `pipe` for all but steps, `life` ends with the process that trains.

    `go` asks for what `Memory.command` says, `done` answers, `stack` takes the last words.
    """

    pipe: Any
    go: Bell
    done: Bell
    stack: Handle
    life: Handle


@dataclass(frozen=True)
class Complaint:
    """An exception of an environment; `hopeless` if it cannot even begin an episode."""

    env_id: int
    seed: int
    action: str
    text: str
    hopeless: bool


class Rows:
    """The environments of one worker.

    Args:
        task: which they are.
        tell: takes each `Complaint`.
    """

    memory: Memory

    def __init__(self, task: Task, tell: Callable[[Complaint], None]):
        self.task, self.tell = task, tell
        self.envs = {i: Recorder(self._single(), i) for i in task.rows}
        self._views: dict[int, dict[str, np.ndarray]] = {}

    @property
    def spaces(self) -> tuple[spaces.Space, spaces.Space]:
        """Of observations and actions; those of the first environment."""
        env = self.envs[self.task.rows[0]]
        return env.observation_space, env.action_space

    def attach(self) -> None:
        """Map the memory, which is large enough by now."""
        task, (obs_space, act_space) = self.task, self.spaces
        self.memory = Memory(
            task.memory, task.num_envs, task.num_workers, obs_space, task.info_space, act_space
        )
        for i, env in self.envs.items():
            self._views[i] = {name: field[i, ...] for name, field in self.memory.obs.items()}
            lend(env.env, self._views[i])

    def answer(self) -> None:
        """Do what is commanded, row by row."""
        memory, index = self.memory, self.task.index
        for i in self.task.rows:
            if memory.command[i]:
                memory.current[index] = i
                memory.complaints[i] = 0
                self._step(i) if memory.command[i] == STEP else self._begin(i)
                memory.command[i] = 0
        memory.current[index] = NOBODY

    def begin(self) -> None:
        """Begin an episode everywhere, each from its `Memory.next_seed`."""
        for i in self.task.rows:
            self.memory.current[self.task.index] = i
            self._begin(i)
        self.memory.current[self.task.index] = NOBODY

    def points(self) -> list[Snapshot]:
        """Seed and actions of each open episode."""
        return [env.recorded() for env in self.envs.values()]

    def restore(self, points: Mapping[int, Snapshot]) -> list[int]:
        """Live the episodes of `points` again. Returns those that are lost and begun anew."""
        lost = []
        for i, point in points.items():
            self.memory.current[self.task.index] = i
            answer = self.envs[i].replay({i: point})
            if answer is None:
                lost.append(i)
                self._begin(i)
            else:
                self.memory.seed[i] = -1 if point.seed is None else point.seed
                self._show(i, *answer)
        self.memory.current[self.task.index] = NOBODY
        return lost

    def render(self, env_id: int) -> Any:
        """Picture of one environment, or None."""
        return self.envs[env_id].render()

    def close(self) -> None:
        """Close them all."""
        for env in self.envs.values():
            with contextlib.suppress(Exception):
                env.close()

    def _single(self) -> gymnasium.Env:
        env = self.task.make()
        if isinstance(env, VectorEnv) or not isinstance(env, gymnasium.Env):
            raise TypeError(
                f"the factory of a pool makes one Gymnasium environment, not a {type(env).__name__}"
            )
        return env

    def _step(self, i: int) -> None:
        memory = self.memory
        memory.failed[i] = memory.terminated[i] = memory.truncated[i] = False
        memory.reward[i] = 0.0
        action = memory.action[i]
        if isinstance(action, np.ndarray):
            action = action.copy()  # the environment may keep it
        try:
            obs, reward, terminated, truncated, info = self.envs[i].step(action)
            self._show(i, obs, info)
            memory.reward[i] = reward
            terminated, truncated = bool(terminated), bool(truncated)
        except Exception as error:
            memory.reward[i], memory.failed[i] = 0.0, True
            self._complain(i, error, str(action.tolist()))
            self._begin(i, anew=True)
            return
        if terminated or truncated:
            memory.terminated[i], memory.truncated[i] = terminated, truncated and not terminated
            for shown, final in (
                (memory.obs, memory.final_obs),
                (memory.info, memory.final_info),
            ):
                for name, field in shown.items():
                    final[name][i] = field[i]
            self._begin(i)

    def _begin(self, i: int, anew: bool = False) -> None:
        """Begin an episode; an environment that cannot is made anew, and given another seed."""
        seed = int(self.memory.next_seed[i])
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if anew:
                    self._renew(i)
                self.memory.seed[i] = seed
                self._show(i, *self.envs[i].reset(seed=seed))
                return
            except Exception as error:
                self._complain(i, error, "none yet", hopeless=attempt == _ATTEMPTS)
                anew, seed = True, derive(seed, "again", attempt)

    def _renew(self, i: int) -> None:
        with contextlib.suppress(Exception):
            self.envs[i].close()
        self.envs[i] = Recorder(self._single(), i)
        lend(self.envs[i].env, self._views[i])

    def _show(self, i: int, obs: Any, info: Mapping[str, Any]) -> None:
        for name, path in self.memory.paths.items():
            _write(name, dig(obs, path), self._views[i][name])
        success = -1
        for key in ("is_success", "success"):  # the second outranks the first
            if key in info:
                success = int(np.float32(info[key]) > 0)
        self.memory.info["success"][i] = success
        for name in self.task.info_space.spaces:
            if name not in info:
                raise KeyError(f"the environment gave no info {name!r}; it gave {sorted(info)}")
            _write(name, info[name], self.memory.info[name][i, ...])

    def _complain(self, i: int, error: Exception, action: str, hopeless: bool = False) -> None:
        self.memory.complaints[i] += 1
        text = "".join(traceback.format_exception(error))[-_LONGEST:]
        self.tell(Complaint(i, int(self.memory.seed[i]), action, text, hopeless))


def lend(env: gymnasium.Env, views: dict[str, np.ndarray]) -> None:
    """Offer `views` to an environment that has a method `set_buffers`, to write into directly.

    It may lie under the wrappers of `gymnasium.make`; others may show something else than what is
    written, so they must have the method themselves.
    """
    while not hasattr(type(env), "set_buffers") and type(env).__name__ in _TRANSPARENT:
        env = env.env  # type: ignore[attr-defined]
    if hasattr(type(env), "set_buffers"):
        env.set_buffers(views)  # type: ignore[attr-defined]


def _write(name: str, value: Any, view: np.ndarray) -> None:
    if value is view:  # written there in the first place
        return
    array = np.asarray(value)
    if array.shape != view.shape:
        raise ValueError(f"{name!r} has shape {array.shape}, its space says {view.shape}")
    np.copyto(view, array)


def serve(task: Task, line: Line) -> None:
    """Make the environments of `task`, say what they are like, and answer until `line` is cut."""
    _become_worker()
    os.setpgid(0, 0)  # what the environments start belongs to the same group, and ends with it
    _die_with(line.life.fd)
    faulthandler.enable(file=line.stack.fd, all_threads=False)
    torch.set_num_threads(1)
    try:
        rows = Rows(task, line.pipe.send)
        _say(line.pipe, 0, True, rows.spaces)
    except Exception as error:
        _say(line.pipe, 0, False, _portable(error))
        return
    with contextlib.suppress(EOFError, OSError):  # nobody asks any more
        _answer(rows, line)
    rows.close()


def _answer(rows: Rows, line: Line) -> None:
    poll = select.poll()
    poll.register(line.go.fd, select.POLLIN)
    poll.register(line.pipe.fileno(), select.POLLIN)
    while True:
        if line.go.fd in listen(poll):
            line.go.hear()
            rows.answer()
            line.done.ring()
            continue
        name, args = line.pipe.recv()
        if name == "close":
            return
        try:
            answer = True, pack(getattr(rows, name)(*unpack(args)))
        except Exception as error:
            answer = False, _portable(error)
        _say(line.pipe, 0, *answer)


def _die_with(life: int) -> None:
    """Have the kernel end this group when the last writer of the pipe `life` ends, however it does.

    That needs neither the interpreter nor its lock, which an environment may hold for ever.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgid(0))
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # it has ended already
        os._exit(1)
