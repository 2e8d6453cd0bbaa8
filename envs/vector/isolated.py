"""Environments in a child process, so that their crash does not end the run."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing import util
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.seeding import (
    derive,
    global_rng_state,
    seed_process,
    set_global_rng_state,
)
from firstlight.envs.types import Obs, Snapshot, Step, map_obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.child_process import (
    START_SECONDS,
    ChildProcess,
    WorkerDiedError,
    end_all,
    name_of,
)
from firstlight.envs.vector.child_service import (
    lead_process_group,
    prepare_child_process,
    serve_call,
    serve_new,
)

_PROCESS_CALLS: dict[str, Callable[..., Any]] = {
    "seed_process": seed_process,
    "global_rng_state": global_rng_state,
    "set_global_rng_state": set_global_rng_state,
}
"""Functions that the child calls on request, besides the methods of its environments."""
_CALM = 1000  # steps after which a death no longer counts as one more in a row

log = logging.getLogger(__name__)


class Isolated(VecEnv):
    """Any `VecEnv` in a child process; if the child dies, only its open episodes are lost.

    If the child dies in `step` (a C++ abort, a kill, no answer for `timeout` seconds), a new child
    is started, and the step is a row that is not `valid`, in which every environment begins an
    episode from a new seed and is in `Step.crashed_ids`. The runner counts the row before as
    truncated, so that no return crosses the crash. Each death is logged with its cause and counted
    in `restarts`. Exceptions of the environments, such as ValueError for an impossible action, are
    raised here.

    Data goes through a pipe, which slows small environments down. A script that uses this class
    must guard its main part by ``if __name__ == "__main__"``, as with any child process.

    Args:
        factory: makes the `VecEnv`; must pickle, so it is a function at the top of a module, a
            class, or a `functools.partial` of one.
        max_restarts: number of deaths in a row (fewer than 1,000 steps apart) that may happen.
        timeout: time limit for an answer, in seconds; a child that exceeds it prints its traceback
            and is replaced. The time limit for making the environments is five minutes.
        start_method: of multiprocessing.

    Attributes:
        restarts: number of children that were replaced.

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
        self._seed, self._steps, self._in_a_row = 0, 0, 0
        self._rendering, self._closed = False, False
        for name, value in self._start().items():
            setattr(self, name, value)  # those that `_attributes` lists

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode everywhere, in a new child if the old one is dead."""
        if seed is not None:
            self._seed = seed
        try:
            return self._reset(seed)
        except WorkerDiedError as death:
            return self._restart(death)

    def _reset(self, seed: int | None) -> tuple[Obs, Obs]:
        if seed is not None:
            self._call("seed_process", derive(seed, "process"))
        return self._call("reset", seed)

    def step(self, action: Tensor) -> Step:
        """Step with `action` [N] int64 or [N, A] float32."""
        self.send(action)
        return self.recv()

    def send(self, action: Tensor) -> None:
        """Start a step in the child."""
        self._request("step", action)

    def recv(self) -> Step:
        """Wait for the step started by `send`."""
        try:
            step = self._result(self.timeout)
        except WorkerDiedError as death:
            return self._crashed(*self._restart(death))
        self._steps += 1
        return step

    def snapshots(self) -> list[Snapshot]:
        """Snapshot of each environment."""
        return self._call("snapshots")

    def restore(self, env_ids: Tensor, snapshots: Sequence[Snapshot]) -> tuple[Obs, Obs, Tensor]:
        """Set environments back to snapshots."""
        return self._call("restore", env_ids, list(snapshots))

    def state_dict(self) -> dict[str, Any]:
        """State of the environments, and what the seed after the next death depends on."""
        state = {"envs": self._call("state_dict"), "rng": self._call("global_rng_state")}
        return state | {"seed": self._seed, "restarts": self.restarts}

    def load_state_dict(self, state: dict[str, Any]) -> tuple[Obs, Obs, Tensor]:
        """Load what `state_dict` returned. Returns what `restore` does."""
        self._seed, self.restarts = state["seed"], state["restarts"]
        loaded = self._call("load_state_dict", state["envs"])
        if "rng" in state:  # older versions did not save it
            self._call("set_global_rng_state", state["rng"])
        return loaded

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of one environment, [H, W, 3] uint8."""
        return self._call("render", env_id)

    def enable_rendering(self) -> None:
        """Prepare for `render`, also in later children."""
        self._rendering = True
        self._call("enable_rendering")

    def close(self) -> None:
        """End the child; kill it if it has not ended after 5 s."""
        self._closed = True
        self._finalizer()

    def _crashed(self, obs: Obs, info: Obs) -> Step:
        """Row in which every environment begins an episode after a crash."""
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

    def _restart(self, death: WorkerDiedError) -> tuple[Obs, Obs]:
        """Start a new child. Returns its first observations and side channels.

        Raises:
            WorkerDiedError: if children died too often in a row.
        """
        while True:
            self._in_a_row = 1 if self._steps >= _CALM else self._in_a_row + 1
            self._steps = 0
            if self._in_a_row > self.max_restarts:
                raise WorkerDiedError(f"{self._in_a_row} deaths in a row: {death}") from death
            self.restarts += 1
            log.warning("%s; a new one was started, the open episodes are lost", death)
            try:
                self._finalizer()
                self._start()
                if self._rendering:
                    self._call("enable_rendering")
                return self._reset(derive(self._seed, "restart", self.restarts))
            except WorkerDiedError as again:
                death = again

    def _start(self) -> dict[str, Any]:
        """Start a child. Returns the attributes of its environments."""
        name = name_of(self._factory)
        self._child = ChildProcess(
            self._context,
            serve,
            (self._factory,),
            factory_name=name,
            label=f"the process of {name}",
        )
        # when Python ends, this runs before multiprocessing waits for its children
        self._finalizer = util.Finalize(self, end_all, args=([self._child],), exitpriority=10)
        return self._result(START_SECONDS)

    def _call(self, name: str, *args: Any) -> Any:
        self._request(name, *args)
        return self._result(self.timeout)

    def _request(self, name: str, *args: Any) -> None:
        if self._closed:
            raise ValueError(f"{name_of(self._factory)} is closed")
        self._child.call(name, *args)

    def _result(self, seconds: float | None) -> Any:
        try:
            return self._child.result(seconds)
        finally:
            if self._child.death is not None:
                self._finalizer()  # end what the dead child started


def serve(pipe: Any, factory: Callable[[], VecEnv]) -> None:
    """Make environments and answer calls of their methods until `pipe` closes.

    Args:
        pipe: to the process that trains.
        factory: of the environments.
    """
    prepare_child_process()
    lead_process_group()
    faulthandler.enable()
    torch.set_num_threads(1)
    vec = serve_new(pipe, factory, _attributes)
    if vec is None:
        return
    with contextlib.suppress(EOFError, OSError):  # the parent closed the pipe, or is gone
        while serve_call(pipe, vec, _PROCESS_CALLS):
            pass
    vec.close()


def _attributes(vec: VecEnv) -> dict[str, Any]:
    """The attributes of `vec` that `Isolated` has too."""
    names = (
        *("num_envs", "obs_space", "info_space", "act_space"),
        *("success_threshold", "resume", "reported"),
    )
    return {name: getattr(vec, name) for name in names} | {"left_out": dict(vec.left_out)}
