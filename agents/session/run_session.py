"""The session around a run: directory, checkpoints, callbacks, signals, guards, stage timers."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from firstlight.agents.policy import Policy
from firstlight.agents.session.agreement import agree_on_end, mean_metrics
from firstlight.agents.session.episodes import Episode, EpisodeStatistics
from firstlight.agents.session.guards import UpdateGuard, check_state, is_out_of_memory
from firstlight.agents.session.iteration_data import IterationData, Metrics
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.run_dir import RunDirectory
from firstlight.agents.session.signals import Interrupted, Signals
from firstlight.agents.session.stage_timers import StageTimers
from firstlight.agents.session.watchdog import Watchdog
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.seeding import global_rng_state, set_global_rng_state
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.networks import collective
from firstlight.networks.collective import CollectiveError
from firstlight.networks.spec import SpecError, describe

log = logging.getLogger(__name__)

Callback = Callable[["RunSession", Metrics], "bool | None"]
"""Called with the session and the metrics after each iteration; may add metrics; True stops."""


_BOUNDARY_SECONDS = 5.0  # least time between copies of the state at iteration boundaries
_BOUNDARY_SHARE = 0.01  # largest share of time that these copies take


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

    In a run of several processes each has a session. Rank 0 alone has a directory and calls the
    callbacks; steps and episodes are those of all, other metrics are means over the processes, and
    all stop after the same iteration.

    Args:
        trainer: what is saved and restored.
        vec: the environments that are trained on.
        run_dir: where to write metrics, checkpoints and status; None writes nothing.
        resume: continue from the newest checkpoint in `run_dir`.
        checkpoint_every: environment steps between checkpoints; None saves at the end only.
        barrier: truncate every open episode at a checkpoint, so that a run resumes bit for bit
            even with environments that cannot be restored.
        stall_after: seconds in one stage after which the stack of every thread is printed, again
            and again, and ``status.json`` says `stalled` (`Watchdog`); None or 0: never.
        resume_mode: how the run resumes, for ``status.json``; default that of `vec`.

    Attributes:
        steps: environment steps since the run began, of all processes.
        total_steps: at which the run ends.
        stopping: a callback asked for the end.
        data: of the current iteration, for callbacks. None during warm-up, and where something was
            not finite; who keeps it keeps the rollout in memory.
        directory: the run directory, or None; of rank 0 alone.
        episodes: statistics of finished episodes.
        stage: times the stages of an iteration.
        watchdog: reports stages that stall.
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
        resume_mode: str | None = None,
    ):
        self.trainer, self.checkpoint_every, self.barrier = trainer, checkpoint_every, barrier
        self.steps, self.total_steps, self.stopping = 0, 0, False
        self.data: IterationData | None = None
        self.directory: RunDirectory | None = None
        if run_dir is not None and collective.rank() == 0:
            self.directory = RunDirectory(run_dir, resume=resume)
        self.episodes = EpisodeStatistics(
            vec.num_envs, vec.success_threshold, reported=vec.reported
        )
        self.stage, self.guard = StageTimers(), UpdateGuard()
        if barrier and collective.size() > 1:
            raise ValueError(
                f"barrier is True, but a run of {collective.size()} processes does not resume bit "
                "for bit: leave it out"
            )
        self._resume_mode = "barrier" if barrier else resume_mode or vec.resume
        if collective.size() > 1:
            self._resume_mode = "dropped"
        self._steps_before, self._dropped = 0, 0
        self._callbacks: list[Callback] = []
        self._warned = False
        self._signals = Signals(self._force_end)
        self._saved_steps = 0
        self._boundary: dict[str, Any] | None = None  # state to save if an iteration is abandoned
        self._next_boundary = float("-inf")
        self._unreported: Metrics | None = None  # of an iteration whose callbacks are not done
        directory = None if self.directory is None else self.directory.path
        self.watchdog = Watchdog(self.stage, stall_after, directory)

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
        saved. An iteration that does not end within `signals.GRACE_SECONDS` is abandoned, and the
        state before it is saved. An error that means "out of memory" ends the run once it is saved
        too: it is raised as a MemoryError if torch has no class of its own for it.

        Args:
            total_steps: environment steps since the run began at which it ends.
            callbacks: called in this order after each iteration, by rank 0.

        Raises:
            OSError: if the last checkpoint cannot be written.
            CollectiveError: if another process ends before the run does; the state before the
                iteration is saved.
        """
        self.total_steps, self.stopping = total_steps, False
        self._callbacks = list(callbacks) if collective.rank() == 0 else []
        self._boundary, self._next_boundary = None, float("-inf")
        try:
            with self._signals:
                self._write_status("running")
                if self.directory is not None:
                    self.directory.open()
                with self.watchdog:
                    try:
                        with self._saving_without_others():
                            if self._unreported is not None:  # resumed: they were interrupted
                                self._finish_iteration(self._unreported)
                            yield
                    except Interrupted:
                        self._end_interrupted()
                    self.save(last=True)
                self._write_status("finished")
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = self._signals.dispatching or f"{type(error).__name__}: {error}"
            out_of_memory = is_out_of_memory(error)
            if out_of_memory:
                self.save()
            self._write_status("interrupted" if interrupted else "failed", reason)
            if out_of_memory and not isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise MemoryError(str(error)) from error  # torch has no class for it on the CPU
            raise
        finally:
            self._boundary = None
            if self.directory is not None:
                self.directory.close()

    @contextmanager
    def iteration(self) -> Iterator[Metrics]:
        """Run one iteration inside, then log its metrics, and save a checkpoint if one is due.

        Gives the metrics to fill. An iteration that meets something not finite is skipped.

        Raises:
            NonFiniteError: for the fifth such iteration in a row.
        """
        self._remember_boundary()
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
        self._finish_iteration(mean_metrics(metrics))

    def _finish_iteration(self, metrics: Metrics) -> None:
        """Call the callbacks, log, save a checkpoint if one is due, and end on a signal."""
        self._unreported = dict(metrics)  # the state is complete: only the callbacks are missing
        while True:
            try:
                for callback in self._callbacks:  # in order: later callbacks read `stopping`
                    with self.stage(_name_of(callback)):
                        self.stopping |= bool(callback(self, metrics))
                break
            except Interrupted:
                self._save_for_signal()  # with `_unreported`: a resumed run calls them again
        self.data = None  # so that memory holds one rollout at a time
        with self._signals.hold():
            if self.directory is not None:
                self.directory.write(self.steps, metrics | self.stage.metrics())
            self._unreported = None
            if self.checkpoint_is_due():
                with self.stage("save"):
                    self.save()
        # a signal that comes after this waits for the next iteration: the others do not know of it
        self.stopping, signum = agree_on_end(self.stopping, self._signals.received)
        if signum is not None:
            self._signals.received = self._signals.received or signum
            self._save_for_signal()

    def check_signals(self) -> None:
        """End a loop in a callback, such as an evaluation, if a signal has arrived.

        What was trained is saved, and a resumed run calls the callbacks of this iteration again.

        Raises:
            Interrupted: handled by the session.
        """
        self._signals.check()

    def record(self, rollout: Rollout) -> None:
        """Count a new rollout's environment steps and episodes."""
        self.steps += collective.total(int(rollout.valid.sum()))
        self.episodes.update(rollout)
        crashed = 0 if rollout.crashed is None else int(rollout.crashed.sum())
        self._dropped += collective.total(crashed)

    def record_episodes(self, steps: int, episodes: Sequence[Episode]) -> None:
        """Count environment steps, and episodes that began and ended within them."""
        self.steps += steps
        self.episodes.add_finished(episodes)

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
        with self._signals.hold():
            try:
                self._save(self.state_dict(), return_mean)
            except (OSError, NonFiniteError) as error:
                if last:
                    raise
                log.warning("no checkpoint at step %s: %s", f"{self.steps:,}", error)

    def _save(self, state: dict[str, Any], return_mean: float | None = None) -> None:
        """Write a checkpoint of `state`, and its step into ``status.json``."""
        assert self.directory is not None
        check_state("learner", state["learner"])
        check_state("state", {k: state[k] for k in ("modules", "mixer")}, infinite=True)
        if return_mean is not None:
            state = {**state, "unreported": None}  # no run is resumed from the best checkpoint
            self.directory.save_best(state, state["steps"], return_mean)
            return
        self.directory.save(state, state["steps"])
        self._saved_steps = state["steps"]
        self._write_status("running")

    def restore(self) -> None:
        """Load the checkpoint that the run directory resumes from, if there is one.

        Raises:
            ValueError: if the checkpoint is of another run.
        """
        own = None if self.directory is None else self.directory.take_restored()
        state = checkpoint.broadcast(own)
        if state is None:
            return
        try:
            self.load_state_dict(state)
        except (RuntimeError, LookupError) as error:  # torch lists every shape that differs
            path = "the run directory"
            if self.directory is not None:
                self.directory.close()
                path = str(self.directory.path)
            raise ValueError(
                f"the checkpoint in {path} is of another environment or run: {error}"
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
            "processes": collective.size(),
            "dropped": self._dropped,
            "skipped": [self.guard.skipped, self.guard.in_a_row],
            "policy_spec": spec,
            "unreported": None
            if self._unreported is None
            else [self._steps_before, self._unreported],
            **self.trainer.state_dict(),
            "episodes": self.episodes.state_dict(),
            "rng": global_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore such a state. Open episodes that cannot be restored are counted and dropped."""
        self.steps = self._steps_before = self._saved_steps = state["steps"]
        if unreported := state.get("unreported"):  # not in checkpoints of older versions
            self._steps_before, self._unreported = unreported
        self.guard.skipped, self.guard.in_a_row = state["skipped"]
        several = max(collective.size(), state.get("processes", 1)) > 1
        if several:
            self.episodes.load_finished(state["episodes"])
        else:
            self.episodes.load_state_dict(state["episodes"])
        lost = self.trainer.load_state_dict(state)
        number = len(lost)
        if several and number:  # those of all processes of that run
            number = len(state["episodes"]["open_return"])
        elif number:
            self.episodes.drop(lost)
        if number and collective.rank() == 0:
            log.warning("%d open episodes cannot be restored and are dropped", number)
        self._dropped = state["dropped"] + number
        if state["rng"] is not None:
            set_global_rng_state(state["rng"])

    def _save_for_signal(self) -> None:
        """Save the state after an iteration because of a signal, then pass the signal on."""
        assert self._signals.received is not None
        self.save()
        self._write_status("interrupted", signal.Signals(self._signals.received).name)
        self._signals.dispatch()
        self._write_status("running")  # the previous handler lets the run continue

    def _remember_boundary(self) -> None:
        """Keep a copy of the state before an iteration, in case a signal ends it half-way.

        Copies are some seconds apart and cost at most one per cent of the time, so iterations that
        are quick, which end in time after a signal, hardly have any.
        """
        began = time.monotonic()
        if self.directory is None or not self._signals.caught or began < self._next_boundary:
            return
        if self.steps == self._saved_steps:
            return
        self._boundary = copy.deepcopy(self.state_dict())
        cost = time.monotonic() - began
        self._next_boundary = began + max(_BOUNDARY_SECONDS, cost / _BOUNDARY_SHARE)

    def _end_interrupted(self) -> NoReturn:
        """Save the state before the iteration that was abandoned, then pass the signal on."""
        signum = self._signals.received
        assert signum is not None
        with self._signals.hold():
            self._save_boundary(signum)
        self._signals.dispatch()
        raise SystemExit(128 + signum)  # the previous handler returned: the iteration is lost

    @contextmanager
    def _saving_without_others(self) -> Iterator[None]:
        """Save the state before the iteration if another process ends inside."""
        try:
            yield
        except CollectiveError:
            with self._signals.hold():
                if self._signals.received is None:
                    self._save_boundary()
                    raise
            raise Interrupted from None  # by a signal that the other process got as well

    def _save_boundary(self, signum: int | None = None) -> None:
        """Save the state before the iteration; after a signal, write ``status.json`` as well."""
        if self._boundary is not None and self._boundary["steps"] > self._saved_steps:
            try:
                self._save(self._boundary)
            except (OSError, NonFiniteError) as error:
                log.warning("no checkpoint at step %s: %s", self._boundary["steps"], error)
        if signum is not None:
            self._write_status("interrupted", signal.Signals(signum).name)

    def _force_end(self, signum: int) -> None:
        """End the process from another thread: the main thread does not come back from C++."""
        self._save_boundary(signum)
        os._exit(128 + signum)

    def _write_status(self, status: str, error: str | None = None) -> None:
        if self.directory is not None:
            with self.watchdog.reporter_stopped():
                self.directory.status(status, self._saved_steps, error, self._resume_mode)


def _name_of(callback: Callback) -> str:
    """Name the stage of a callback: its function's name, or its class's."""
    named = callback if inspect.isroutine(callback) else type(callback)
    return named.__name__.strip("<>").lower()
