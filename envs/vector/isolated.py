"""Environments in a process of their own, whose death is not the run's."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import reprlib
import signal
from collections.abc import Callable, Sequence
from multiprocessing import connection, util
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Snapshot, Step, map_obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.isolated_child import end, name_of, pack, serve, unpack

_CALM = 1000  # steps after which a death no longer counts as one more in a row
_START = 300.0  # seconds that environments may take to be made

log = logging.getLogger(__name__)


class WorkerDiedError(ChildProcessError):
    """The process that ran the environments is dead: too often in a row, or outside of a step."""


class Isolated(VecEnv):
    """Any `VecEnv` in a child process; if the child dies, its open episodes do and no more.

    A death in `step` (a C++ abort, a kill, no answer for `timeout` seconds) is answered by a child
    begun anew and a row that is not `valid`, in which every environment opens an episode from a new
    seed and is among `Step.crashed_ids`: the runner counts the row before as truncated, so nothing
    bootstraps across. Each death is logged with its cause, and counted in `restarts`. Exceptions
    of the environments, such as ValueError for an impossible action, are raised here as they are.

    Data goes through a pipe, which costs small environments some of their speed. A script that uses
    this must guard its main part by ``if __name__ == "__main__"``, as with any such process.

    Args:
        factory: makes the `VecEnv`; must pickle, so it is a function at the top of a module, a
            class, or a `functools.partial` of one.
        max_restarts: deaths in a row (fewer than 1,000 steps apart) that are got over.
        timeout: seconds after which a child that has not answered is ended; its stack is shown. To
            make the environments it has five minutes.
        start_method: of multiprocessing.

    Attributes:
        restarts: how often the child was begun anew.

    >>> import functools
    >>> from firstlight.envs.worlds.chain import Chain
    >>> with contextlib.closing(Isolated(functools.partial(Chain, 2, length=4))) as vec:
    ...     obs, info = vec.reset(seed=0)
    >>> obs["obs"].shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        factory: Callable[[], VecEnv],
        *,
        max_restarts: int = 5,
        timeout: float | None = 120.0,
        start_method: Literal["forkserver", "spawn"] = "forkserver",
    ):
        self.max_restarts, self.timeout, self.restarts = max_restarts, timeout, 0
        self._factory, self._context = factory, multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            self._context.set_forkserver_preload([__name__])  # so that torch is imported once
        self._seed, self._steps, self._in_a_row, self._asked = 0, 0, 0, 0
        self._rendering, self._closed = False, False
        self._dead: WorkerDiedError | None = None
        for name, value in self._start().items():
            setattr(self, name, value)  # as `isolated_child.ATTRIBUTES` lists them

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere; in a new child if the old one is dead."""
        if seed is not None:
            self._seed = seed
        try:
            return self._call("reset", seed)
        except WorkerDiedError as death:
            return self._begin_anew(death)

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Let the child begin a step."""
        self._ask("step", action)

    def recv(self) -> Step:
        """Wait for the step begun by `send`."""
        try:
            step = self._answer()
        except WorkerDiedError as death:
            return self._lost(*self._begin_anew(death))
        self._steps += 1
        return step

    def snapshots(self) -> list[Snapshot]:
        """Where each environment stands."""
        return self._call("snapshots")

    def restore(self, env_ids: Tensor, points: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to saved moments."""
        return self._call("restore", env_ids, list(points))

    def state_dict(self) -> dict[str, Any]:
        """Where the environments stand, and what decides the seed after the next death."""
        return {"envs": self._call("state_dict"), "seed": self._seed, "restarts": self.restarts}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Take such a state back."""
        self._seed, self.restarts = state["seed"], state["restarts"]
        return self._call("load_state_dict", state["envs"])

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment, [H, W, 3] uint8."""
        return self._call("render", env_id)

    def enable_rendering(self) -> None:
        """Make ready for `render`, where that has to be said beforehand."""
        self._rendering = True
        self._call("enable_rendering")

    def close(self) -> None:
        """End the child; one that has not ended within 5 s is killed."""
        self._closed = True
        self._finalizer()

    def _lost(self, obs: Obs, info: Obs) -> Step:
        """The row in which every environment begins again."""
        no = torch.zeros(self.num_envs, dtype=torch.bool)
        return Step(
            obs=obs,
            info=info,
            reward=torch.zeros(self.num_envs),
            terminated=no,
            truncated=no.clone(),
            valid=no.clone(),
            is_first=~no,
            final_ids=torch.zeros(0, dtype=torch.int64),
            final_obs=map_obs(lambda field: field[:0].clone(), obs),
            final_info=map_obs(lambda field: field[:0].clone(), info),
            crashed_ids=torch.arange(self.num_envs),
        )

    def _begin_anew(self, death: WorkerDiedError) -> tuple[Obs, Obs]:
        """First observations and info from a new child.

        Raises:
            WorkerDiedError: if children died too often in a row.
        """
        while True:
            self._in_a_row = 1 if self._steps >= _CALM else self._in_a_row + 1
            self._steps = 0
            if self._in_a_row > self.max_restarts:
                raise WorkerDiedError(f"{self._in_a_row} deaths in a row: {death}") from death
            self.restarts += 1
            log.warning("%s; begun anew, its open episodes are lost", death)
            try:
                self._finalizer()
                self._start()
                if self._rendering:
                    self._call("enable_rendering")
                return self._call("reset", derive(self._seed, "restart", self.restarts))
            except WorkerDiedError as again:
                death = again

    def _start(self) -> dict[str, Any]:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(  # type: ignore[attr-defined]
            target=serve, args=(theirs, self._factory), name=f"firstlight: {self._name}"
        )
        try:
            self._process.start()
        except Exception as error:  # of whatever kind: that of the pickle module, and others
            if isinstance(error, OSError):
                raise
            raise ValueError(f"a process cannot be given {self._name}: {error}") from error
        finally:
            theirs.close()
        # multiprocessing waits for its children when Python ends; this comes before
        self._finalizer = util.Finalize(
            self, end, args=(self._process, self._pipe), exitpriority=10
        )
        self._doing, self._asked, self._dead = "being made", 0, None
        return self._answer(_START)

    def _call(self, name: str, *args: Any) -> Any:
        self._ask(name, *args)
        return self._answer()

    def _ask(self, name: str, *args: Any) -> None:
        if self._closed:
            raise ValueError(f"{self._name} is closed")
        self._asked += 1
        self._doing, self._args = name, args
        with contextlib.suppress(OSError):  # of a dead child; `_answer` finds out
            self._pipe.send((self._asked, name, pack(args)))

    def _answer(self, seconds: float | None = None) -> Any:
        """What the child says to the last question, within so many seconds or `timeout`.

        Raises:
            WorkerDiedError: naming what it died of and what it was doing.
            Exception: whatever the environments raised.
        """
        if self._dead is not None:
            raise self._dead
        number, timeout = -1, seconds or self.timeout
        while number != self._asked:  # one that was given up may have been answered since
            ready = connection.wait([self._pipe, self._process.sentinel], timeout)
            try:
                if self._pipe not in ready:
                    raise EOFError
                number, fine, answer = self._pipe.recv()
            except (EOFError, OSError):
                self._dead = self._death(None if ready else timeout)
                raise self._dead from None
        if not fine:
            raise answer
        return unpack(answer)

    def _death(self, waited: float | None) -> WorkerDiedError:
        """End what is dead, or has not answered in `waited` seconds, and say what it died of."""
        if waited is not None:
            os.kill(self._process.pid, signal.SIGABRT)  # faulthandler shows where it stood
        end(self._process, self._pipe)
        code = self._process.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        cause += "" if waited is None else f", for it gave no answer in {waited:g} s"
        what = self._doing
        if what == "step":
            what += f" with actions {reprlib.repr(self._args[0].tolist())}"
        return WorkerDiedError(f"the process of {self._name} died of {cause} in {what}")

    @property
    def _name(self) -> str:
        """Of the factory: "EnvPoolVec('Pong-v5', num_envs=8)"."""
        return name_of(self._factory)
