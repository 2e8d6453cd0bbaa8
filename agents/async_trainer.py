"""Training while collecting: the parts of `Trainer` under an asynchronous schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from firstlight.agents.actor_thread import ActorThread, WhenFull
from firstlight.agents.learner import Learner, default_num_steps
from firstlight.agents.session.iteration_data import Metrics
from firstlight.agents.trainer import Trainer
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import RewardMixer
from firstlight.networks import collective


class AsyncTrainer(Trainer):
    """Asynchronous training: a thread collects the next rollouts while this one learns.

    Rollouts are counted, rewarded and learnt from in the thread that calls `run`, in the order in
    which they were collected, so episodic memories, visit tables and statistics are those of one
    sequence of steps. Checkpoints are those of `Trainer`: they hold the environments as they were
    after the last rollout that was learnt from, and a resumed run collects again what came after.
    The thread has ended when `run` returns.

    Args:
        vec, learner, modules, mixer, seed, device, run_dir, resume, checkpoint_every, stall_after:
            see `Trainer`.
        num_steps: `T` of a rollout; default 32, a quarter of `Trainer`'s, because an update is
            learnt from only after the next rollout. With few environments more.
        queue_size: number of rollouts that may be ahead of the rollout being learnt from. A rollout
            is at most so many updates old ("wait"). With 0 the threads alternate, and training is
            that of `Trainer`, bit for bit.
        when_full: what happens once so many are ahead. "wait": the next rollout begins later, with
            a newer policy. "drop_oldest": it begins at once, and nothing is learnt from the oldest
            rollout that waits; its steps and episodes count, and reward modules see it.
        barrier: not possible here; True is refused.

    Raises:
        ValueError: for a `queue_size` or `when_full` out of range, for `barrier`, for "drop_oldest"
            in several processes, and as `Trainer`.
    """

    def __init__(
        self,
        vec: VecEnv,
        learner: Learner,
        modules: Mapping[str, IntrinsicModule] | None = None,
        mixer: RewardMixer | None = None,
        *,
        queue_size: int = 1,
        when_full: WhenFull = "wait",
        num_steps: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        run_dir: str | Path | None = None,
        resume: bool = False,
        checkpoint_every: int | None = None,
        barrier: bool = False,
        stall_after: float | None = 600.0,
    ):
        if when_full not in get_args(WhenFull):
            choices = ", ".join(get_args(WhenFull))
            raise ValueError(f"when_full is {when_full!r}, expected one of {choices}")
        least = 1 if when_full == "drop_oldest" else 0
        if queue_size < least:
            raise ValueError(
                f"queue_size is {queue_size}, expected at least {least} with when_full={when_full}"
            )
        if when_full == "drop_oldest" and collective.size() > 1:
            raise ValueError(
                f"when_full is drop_oldest, but {collective.size()} processes learn from the same "
                "rollouts together: use wait"
            )
        if barrier:
            raise ValueError(
                "barrier is True, but asynchronous training collects beyond a checkpoint before it "
                "is written: use the synchronous trainer for runs that resume bit for bit"
            )
        self._environments: dict[str, Any] | None = None  # after the last rollout taken
        self.version = 0  # updates since the trainer was made
        super().__init__(
            vec,
            learner,
            modules,
            mixer,
            num_steps=num_steps or default_num_steps(vec.num_envs * collective.size(), each=32),
            seed=seed,
            device=device,
            run_dir=run_dir,
            resume=resume,
            checkpoint_every=checkpoint_every,
            stall_after=stall_after,
        )
        self.actor = ActorThread(self.runner, self.policy, self.num_steps, queue_size, when_full)

    def _run_iterations(self, total_steps: int) -> None:
        try:
            super()._run_iterations(total_steps)
        finally:
            self.actor.stop()

    def iterate(self, total_steps: int) -> Metrics:
        """Take the next rollout, reward it and learn from it once. Returns scalars to log."""
        session = self.session
        self._start_actor()
        with session.stage("wait"):
            collected = self.actor.take()
        self._environments = collected.environments
        lag = self.version - collected.rollout.version
        rollout = self.collector.receive(dataclasses.replace(collected.rollout, lag=lag))
        data = self._reward(rollout, total_steps)
        metrics: Metrics = {"train/lag": float(lag), "perf/collect_seconds": collected.seconds}
        if collected.dropped:
            metrics["train/dropped_rollouts"] = 1.0
        else:
            with session.stage("learn"), self.rollback():
                metrics |= self.learner.update(rollout, data.rewards, data.progress)
            self.version += 1
        self.policy.observe(rollout)
        self.actor.publish(self.policy, self.version)
        return metrics | self._update_rewards(data)

    def _start_actor(self) -> None:
        """Start the thread if it does not run, with environments where learning stands."""
        if self.actor.is_running:
            return
        if self._environments is not None:  # an earlier run collected beyond that
            lost = self.runner.load_state_dict(self._environments)
            self.module_group.reset(lost)
            self.session.episodes.drop(lost)
        self._environments = self.runner.state_dict()
        self.actor.publish(self.policy, self.version)
        self.actor.start()

    def state_dict(self) -> dict[str, Any]:
        """State of learner, modules, mixer, and the environments after the last rollout taken."""
        environments = self._environments
        return {
            "learner": self.learner.state_dict(),
            "runner": self.runner.state_dict() if environments is None else environments,
            **self.module_group.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> torch.Tensor:
        """Restore what `state_dict` of this class or of `Trainer` returned, as `Trainer` does."""
        self._environments = None
        return super().load_state_dict(state)
