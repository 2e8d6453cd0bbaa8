"""Collect rollouts in a thread of its own, with snapshots of the policy, into a bounded queue."""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from firstlight.agents.policy import Policy, PolicyOutput
from firstlight.agents.session.guards import copied
from firstlight.envs.runner import Actor, Runner
from firstlight.envs.types import Obs, Rollout, State

WhenFull = Literal["wait", "drop_oldest"]
PATIENCE_SECONDS = 10.0
"""Time that `ActorThread.stop` waits for an environment to return from a step."""
_TICK_SECONDS = 0.5  # longest wait of the thread before it looks again whether it is to end
_MOST_DROPPED = 3  # rollouts dropped but not yet taken, as a multiple of the queue's size

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """A rollout as the thread hands it over.

    Args:
        rollout: with the `version` of the policy that acted.
        environments: `Runner.state_dict` after its last step.
        seconds: that collecting took.
        dropped: the queue was full, so nothing is to be learnt from it. Its steps and episodes
            count all the same, and reward modules see it, because their memories of open episodes
            need every step.
    """

    rollout: Rollout
    environments: dict[str, Any]
    seconds: float
    dropped: bool = False


class _Snapshot(NamedTuple):
    version: int
    state: dict[str, Any]  # of the policy; nobody writes to its tensors


class ActorThread:
    """Steps the environments in a thread, while another thread learns.

    The learning thread calls `publish` with each new version of the policy, and `take` for the
    rollouts, which arrive in the order in which they were collected. In between the thread owns the
    runner and its environments. It acts with a policy of its own, into which it loads the newest
    snapshot before each rollout; so no tensor is written by one thread and read by the other.

    A rollout begins only if fewer than `queue_size` others have been begun and not been taken, or
    if `take` waits. So a rollout is at most `queue_size` versions old when it is taken, provided
    that each is learnt from before the next is taken; with 0 the threads alternate. With
    "drop_oldest" the thread goes on instead, and marks the oldest rollout that waits as `dropped`.

    Args:
        runner: used by the thread alone between `start` and `stop`.
        policy: copied.
        num_steps: `T` of a rollout.
        queue_size: number of rollouts that may be ahead of the rollout being learnt from.
        when_full: "wait" or "drop_oldest".
    """

    def __init__(
        self,
        runner: Runner,
        policy: Policy,
        num_steps: int,
        queue_size: int = 1,
        when_full: WhenFull = "wait",
    ):
        self.runner, self.num_steps = runner, num_steps
        self.queue_size, self.when_full = queue_size, when_full
        self._policy = copy.deepcopy(policy).to(runner.device)
        self._changed = threading.Condition()  # guards what follows
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._snapshot: _Snapshot | None = None
        self._waiting: deque[Collected] = deque()
        self._begun = self._taken = 0
        self._asked = False  # `take` waits
        self._error: BaseException | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread was started and not stopped."""
        return self._thread is not None

    def publish(self, policy: Policy, version: int) -> None:
        """Let the rollouts that begin from now on act with a copy of `policy`, as it is now."""
        snapshot = _Snapshot(version, copied(policy.state_dict()))
        with self._changed:
            self._snapshot = snapshot
            self._changed.notify_all()

    def start(self) -> None:
        """Start the thread; nothing if it runs. It waits for the first snapshot."""
        if self._thread is not None:
            return
        self._ended = threading.Event()
        self._waiting.clear()
        self._begun = self._taken = 0
        self._asked, self._error = False, None
        self._thread = threading.Thread(
            target=self._work, args=[self._ended], name="firstlight-actor", daemon=True
        )
        self._thread.start()

    def take(self) -> Collected:
        """Wait for the next rollout.

        Raises:
            BaseException: what ended the thread, after the rollouts before it.
        """
        with self._changed:
            self._asked = True
            self._changed.notify_all()
            try:
                while not self._waiting and self._error is None:
                    self._changed.wait()
            finally:
                self._asked = False
            if not self._waiting:
                assert self._error is not None
                raise self._error
            self._taken += 1
            self._changed.notify_all()
            return self._waiting.popleft()

    def stop(self) -> None:
        """End the thread before its next step, and discard the rollouts that wait.

        An environment that does not return from its step is left behind after `PATIENCE_SECONDS`,
        with a warning; the thread ends with that step.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ended.set()
        thread.join(PATIENCE_SECONDS)
        if thread.is_alive():
            log.warning("an environment has not returned from a step: its thread is left behind")
        self._waiting.clear()

    def _work(self, ended: threading.Event) -> None:
        """Collect rollouts until `ended` is set; the thread's function."""
        actor, loaded = None, None
        try:
            while (snapshot := self._next(ended)) is not None:
                began = time.perf_counter()
                if actor is None or snapshot is not loaded:
                    self._policy.load_state_dict(snapshot.state)
                    actor, loaded = _StoppableActor(self._policy.for_acting(), ended), snapshot
                rollout = self.runner.collect(actor, self.num_steps, snapshot.version)
                environments = self.runner.state_dict()
                self._put(Collected(rollout, environments, time.perf_counter() - began))
        except _StopCollectingError:
            pass
        except BaseException as error:  # raised again in `take`
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self, ended: threading.Event) -> _Snapshot | None:
        """Wait until a rollout may begin; return the policy's snapshot, or None at the end."""
        with self._changed:
            while not ended.is_set():
                if self._snapshot is not None and self._may_begin():
                    self._begun += 1
                    return self._snapshot
                self._changed.wait(_TICK_SECONDS)
        return None

    def _may_begin(self) -> bool:
        if self._asked and not self._waiting:
            return True
        ahead = self.queue_size
        if self.when_full == "drop_oldest":
            ahead += _MOST_DROPPED * self.queue_size
        return self._begun < self._taken + ahead

    def _put(self, collected: Collected) -> None:
        with self._changed:
            self._waiting.append(collected)
            if self.when_full == "drop_oldest":
                kept = [i for i, each in enumerate(self._waiting) if not each.dropped]
                for i in kept[: -self.queue_size]:
                    self._waiting[i] = dataclasses.replace(self._waiting[i], dropped=True)
            self._changed.notify_all()


class _StopCollectingError(Exception):
    """Ends a rollout before its next step."""


class _StoppableActor:
    """Call an actor; raise `_StopCollectingError` once the thread is to end."""

    def __init__(self, actor: Actor, ended: threading.Event):
        self.actor, self.ended = actor, ended

    def initial_state(self, num_envs: int) -> State:
        return self.actor.initial_state(num_envs)

    def __call__(self, obs: Obs, state: State, is_first: Tensor) -> PolicyOutput:
        if self.ended.is_set():
            raise _StopCollectingError
        return self.actor(obs, state, is_first)
