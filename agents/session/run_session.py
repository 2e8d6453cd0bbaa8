"""The session around a run: directory, checkpoints, callbacks, signals, guards, stage timers."""

from __future__ import annotations

import inspect
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from firstlight.agents.policy import Policy
from firstlight.agents.session.episodes import EpisodeStatistics
from firstlight.agents.session.guards import UpdateGuard, check_state, is_out_of_memory
from firstlight.agents.session.iteration_data import IterationData, Metrics
from firstlight.agents.session.run_dir import RunDirectory
from firstlight.agents.session.signals import Signals
from firstlight.agents.session.stage_timers import StageTimers
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.seeding import global_rng_state, set_global_rng_state
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.networks.spec import SpecError, describe

log = logging.getLogger(__name__)

Callback = Callable[["RunSession", Metrics], "bool | None"]
"""Called with the session and the metrics after each iteration; may add metrics; True stops."""


class Trainable(Protocol):
    """A trainer, as the session saves and restores it."""

    @property
    def policy(self) -> Policy:
        """The policy that learns."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, without the session's own state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Restore such a state; return the environments [M] int64 whose open episode is lost."""
        ...


class RunSession:
    """Everything around the loop of a trainer that is the same for all trainers.

    A trainer's loop is::

        with session.open(total_steps, callbacks):
            while session.is_running():
                with session.iteration() as metrics:
                    metrics.update(self.iterate(total_steps))

    Args:
        trainer: what is saved and restored.
        vec: the environments that are trained on.
        run_dir: where to write metrics, checkpoints and status; None writes nothing.
        resume: continue from the newest checkpoint in `run_dir`.
        checkpoint_every: environment steps between checkpoints; None saves at the end only.
        barrier: truncate every open episode at a checkpoint, so that a run resumes bit for bit
            even with environments that cannot be restored.
        stall_after: seconds in one stage after which the stack of every thread is printed.

    Attributes:
        steps: environment steps since the run began.
        total_steps: at which the run ends.
        stopping: a callback asked for the end.
        data: of the current iteration, for callbacks. None during warm-up, and where something was
            not finite; who keeps it keeps the rollout in memory.
        directory: the run directory, or None.
        episodes: statistics of finished episodes.
        stage: times the stages of an iteration.
    """

    def __init__(
        self,
        trainer: Trainable,
        vec: VecEnv,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        checkpoint_every: int | None = None,
        barrier: bool = False,
        stall_after: float | None = 600.0,
    ):
        self.trainer, self.checkpoint_every, self.barrier = trainer, checkpoint_every, barrier
        self.steps, self.total_steps, self.stopping = 0, 0, False
        self.data: IterationData | None = None
        self.directory = None if run_dir is None else RunDirectory(run_dir, resume=resume)
        self.episodes = EpisodeStatistics(
            vec.num_envs, vec.success_threshold, reported=vec.reported
        )
        self.stage, self.guard = StageTimers(stall_after), UpdateGuard()
        self._resume_mode = "barrier" if barrier else vec.resume
        self._steps_before, self._dropped = 0, 0
        self._callbacks: list[Callback] = []
        self._warned = False
        self._signals = Signals()

    @property
    def policy(self) -> Policy:
        """The policy that learns, as it is now; the one that evaluated best is in a checkpoint."""
        return self.trainer.policy

    def is_running(self) -> bool:
        """Whether another iteration follows."""
        return self.steps < self.total_steps and not self.stopping

    def is_due(self, every: int) -> bool:
        """Whether the current iteration passed a multiple of `every` environment steps."""
        return self.steps // every > self._steps_before // every

    def checkpoint_is_due(self) -> bool:
        """Whether a checkpoint follows the current iteration."""
        return self.checkpoint_every is not None and self.is_due(self.checkpoint_every)

    @contextmanager
    def open(self, total_steps: int, callbacks: Iterable[Callback] = ()) -> Iterator[None]:
        """Run a training loop inside; save at its end, and record in ``status.json`` how it ended.

        SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 end the run after the current iteration, once it is
        saved. So does an error that means "out of memory": it is raised as a MemoryError if torch
        has no class of its own for it.

        Args:
            total_steps: environment steps since the run began at which it ends.
            callbacks: called in this order after each iteration.

        Raises:
            OSError: if the last checkpoint cannot be written.
        """
        self.total_steps, self.stopping, self._callbacks = total_steps, False, list(callbacks)
        try:
            with self._signals:
                self._write_status("running")
                if self.directory is not None:
                    self.directory.open()
                yield
                self.save(last=True)
                self._write_status("finished")
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = self._signals.dispatching or f"{type(error).__name__}: {error}"
            self._write_status("interrupted" if interrupted else "failed", reason)
            if is_out_of_memory(error):
                self.save()
                if not isinstance(error, MemoryError | torch.OutOfMemoryError):
                    raise MemoryError(str(error)) from error  # torch has no class for it on the CPU
            raise
        finally:
            if self.directory is not None:
                self.directory.close()

    @contextmanager
    def iteration(self) -> Iterator[Metrics]:
        """Run one iteration inside, then log its metrics, and save a checkpoint if one is due.

        Gives the metrics to fill. An iteration that meets something not finite is skipped.

        Raises:
            NonFiniteError: for the fifth such iteration in a row.
        """
        self._steps_before, start = self.steps, time.perf_counter()
        metrics: Metrics = {}
        try:
            yield metrics
        except NonFiniteError as error:
            metrics.clear()
            self.guard.record_failure(error, self.steps)
        self.guard.end_iteration()
        metrics |= self.episodes.metrics()
        elapsed = time.perf_counter() - start
        metrics["perf/steps_per_second"] = (self.steps - self._steps_before) / elapsed
        counts = {"train/skipped_updates": self.guard.skipped, "rollout/dropped": self._dropped}
        metrics |= {name: float(count) for name, count in counts.items() if count}
        for callback in self._callbacks:  # in order: later callbacks read `stopping`
            with self.stage(_name_of(callback)):
                self.stopping |= bool(callback(self, metrics))
        self.data = None  # so that memory holds one rollout at a time
        if self.directory is not None:
            self.directory.write(self.steps, metrics | self.stage.metrics())
        if self.checkpoint_is_due():
            with self.stage("save"):
                self.save()
        self._check_signals()

    def record(self, rollout: Rollout) -> None:
        """Count a new rollout's environment steps and episodes."""
        self.steps += int(rollout.valid.sum())
        self.episodes.update(rollout)
        if rollout.crashed is not None:
            self._dropped += int(rollout.crashed.sum())

    def save(self, *, return_mean: float | None = None, last: bool = False) -> None:
        """Write a checkpoint of everything; if that fails the old ones stay.

        Args:
            return_mean: of the best evaluation so far, to write the checkpoint ``best``.
            last: the final checkpoint, so raise instead of warning.

        Raises:
            OSError: with `last`, if it cannot be written.
            NonFiniteError: with `last`, if the state holds a NaN.
        """
        if self.directory is None:
            return
        try:
            state = self.state_dict()
            check_state("learner", state["learner"])
            check_state("state", {k: state[k] for k in ("modules", "mixer")}, infinite=True)
            if return_mean is None:
                self.directory.save(state, self.steps)
            else:
                self.directory.save_best(state, self.steps, return_mean)
        except (OSError, NonFiniteError) as error:
            if last:
                raise
            log.warning("no checkpoint at step %s: %s", f"{self.steps:,}", error)

    def restore(self) -> None:
        """Load the checkpoint that the run directory resumes from, if there is one.

        Raises:
            ValueError: if the checkpoint is of another run.
        """
        state = None if self.directory is None else self.directory.take_restored()
        if self.directory is None or state is None:
            return
        try:
            self.load_state_dict(state)
        except (RuntimeError, LookupError) as error:  # torch lists every shape that differs
            raise ValueError(
                f"the checkpoint in {self.directory.path} is of another environment or run: {error}"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Step, counts, statistics, random state, the policy's description, and the trainer's."""
        try:
            spec = describe(self.policy)
        except SpecError as error:
            spec = None  # a policy of the user's own: `load` needs it as an argument
            if not self._warned:
                log.warning("checkpoints will not hold how to make the policy: %s", error)
            self._warned = True
        return {
            "steps": self.steps,
            "dropped": self._dropped,
            "skipped": [self.guard.skipped, self.guard.in_a_row],
            "policy_spec": spec,
            **self.trainer.state_dict(),
            "episodes": self.episodes.state_dict(),
            "rng": global_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore such a state. Open episodes that cannot be restored are counted and dropped."""
        self.steps = self._steps_before = state["steps"]
        self.guard.skipped, self.guard.in_a_row = state["skipped"]
        self.episodes.load_state_dict(state["episodes"])
        lost = self.trainer.load_state_dict(state)
        if len(lost):
            self.episodes.drop(lost)
            log.warning("%d open episodes cannot be restored and are dropped", len(lost))
        self._dropped = state["dropped"] + len(lost)
        if state["rng"] is not None:
            set_global_rng_state(state["rng"])

    def _check_signals(self) -> None:
        """Save if a signal has arrived, then pass it on."""
        if self._signals.received is None:
            return
        self.save()
        self._write_status("interrupted", signal.Signals(self._signals.received).name)
        self._signals.dispatch()
        self._write_status("running")  # the previous handler lets the run continue

    def _write_status(self, status: str, error: str | None = None) -> None:
        if self.directory is not None:
            self.directory.status(status, self.steps, error, self._resume_mode)


def _name_of(callback: Callback) -> str:
    """Name the stage of a callback: its function's name, or its class's."""
    named = callback if inspect.isroutine(callback) else type(callback)
    return named.__name__.strip("<>").lower()
