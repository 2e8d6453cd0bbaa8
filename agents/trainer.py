"""The main loop: collect, rate, mix, learn, log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from firstlight.agents.learner import Learner
from firstlight.agents.policy import Policy
from firstlight.agents.session.episodes import EpisodeStatistics
from firstlight.agents.session.guards import Guard, check_state, whole
from firstlight.agents.session.lifetime import lifetime
from firstlight.agents.session.run import Callback, Last, Metrics
from firstlight.agents.session.run_dir import RunDirectory
from firstlight.agents.session.stage_timers import Stages
from firstlight.envs.finite import NonFiniteError, check_finite, check_rollout
from firstlight.envs.runner import Actor, RandomActor, Runner
from firstlight.envs.seeding import global_rng_state, set_global_rng_state
from firstlight.envs.types import Rollout, check
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import RewardMixer, Term
from firstlight.networks.spec import SpecError, describe

log = logging.getLogger(__name__)


class Trainer:
    """Synchronous training: every rollout is collected by the policy that learns from it.

    Args:
        vec: the environments, already wrapped by the modules that wish it.
        learner: updates its policy.
        modules: name to reward module.
        mixer: the reward layer; default the environment's reward and every module's default term.
        run_dir: where to leave metrics, checkpoints and status; None leaves nothing.
        resume: go on where the newest checkpoint in `run_dir` stands.
        num_steps: `T` of a rollout.
        seed: of environments and actions.
        device: of policy, modules and mixer.
        checkpoint_every: environment steps between checkpoints; None saves at the end only.
        barrier: close every open episode at a checkpoint, as truncated, so that a run goes on bit
            for bit even with environments that cannot be brought back.
        stall_after: seconds in one stage after which every thread's stack is shown.

    Raises:
        ValueError: if a module has no term, or the policy another number of streams than the mixer,
            or the checkpoint is of another run.
    """

    def __init__(
        self,
        vec: VecEnv,
        learner: Learner,
        modules: Mapping[str, IntrinsicModule] | None = None,
        mixer: RewardMixer | None = None,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        num_steps: int = 128,
        seed: int = 0,
        device: torch.device | str = "cpu",
        checkpoint_every: int | None = None,
        barrier: bool = False,
        stall_after: float | None = 600.0,
    ):
        self.vec, self.learner, self.modules = vec, learner, dict(modules or {})
        terms = {name: module.default_term() for name, module in self.modules.items()}
        self.mixer = RewardMixer({"reward": Term(), **terms}) if mixer is None else mixer
        if missing := set(self.modules) - set(self.mixer.terms):
            raise ValueError(f"the mixer has no term for {sorted(missing)}")
        wanted = self.mixer.num_streams
        given = getattr(learner.policy, "num_streams", wanted)
        if given != wanted:
            raise ValueError(
                f"the policy has num_streams={given}, but the mixer forms {wanted} reward streams"
            )
        self.num_steps, self.device = num_steps, torch.device(device)
        for part in (learner.policy, self.mixer, *self.modules.values()):
            if isinstance(part, nn.Module):
                part.to(self.device)
        self.checkpoint_every, self.barrier = checkpoint_every, barrier
        self.runner = Runner(vec, seed=seed, device=self.device)
        self.episodes = EpisodeStatistics(
            vec.num_envs, vec.success_threshold, reported=vec.reported
        )
        self.steps, self.total_steps, self.stopping = 0, 0, False
        self.last: Last | None = None
        self._before, self._warmed, self._dropped = 0, 0, 0
        self._stages, self._guard = Stages(stall_after), Guard()
        self.dir = None if run_dir is None else RunDirectory(run_dir, resume=resume)
        if self.dir is not None and self.dir.restored is not None:
            state, self.dir.restored = self.dir.restored, None
            try:
                self.load_state_dict(state)
            except (RuntimeError, LookupError) as error:  # torch names every shape that differs
                raise ValueError(
                    f"the checkpoint in {run_dir} is of another environment or run: {error}"
                ) from error

    @property
    def policy(self) -> Policy:
        """The policy that learns."""
        return self.learner.policy

    @property
    def progress(self) -> float:
        """Part of `total_steps` that is done, in [0, 1]."""
        return min(self.steps / max(self.total_steps, 1), 1.0)

    def run(self, total_steps: int, callbacks: Iterable[Callback] = ()) -> None:
        """Train until `total_steps` environment steps have been taken since the run began.

        SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 end it after the iteration at hand, everything saved.

        Raises:
            NonFiniteError: after five iterations in a row with something that was not finite.
            OSError: if the last checkpoint cannot be written.
        """
        self.total_steps, self.stopping = total_steps, False
        callbacks = list(callbacks)
        with lifetime(self) as heed:
            if self.dir is not None:
                self.dir.open()
            while self.steps < total_steps and not self.stopping:
                self._advance(callbacks)
                heed()
            self.save(last=True)

    def iterate(self) -> Metrics:
        """One rollout, rated, mixed and learnt from."""
        with self._stages("collect"):
            rollout = self._collect(self.learner.policy, self.num_steps)
            self._check(rollout)
        with self._stages("rate"):
            live = {n: m for n, m in self.modules.items() if self.mixer.active(n, self.progress)}
            bonus = {name: module.compute(rollout) for name, module in live.items()}
            for name, values in bonus.items():
                check_finite(f"bonus {name!r}", values)
            rewards = self.mixer(rollout, bonus, self.progress)
            self.last = Last(rollout, bonus, rewards)
        with self._stages("learn"), whole(self.learner):
            metrics = self.learner.update(rollout, rewards, self.progress)
        with self._stages("adapt"):
            metrics |= self.mixer.update(rollout, rewards)
            for name, module in live.items():
                metrics |= self._adapt(name, module, rollout)
        return metrics

    def crossed(self, every: int) -> bool:
        """Whether the iteration at hand went past a multiple of `every` environment steps."""
        return self.steps // every > self._before // every

    def save(self, *, return_mean: float | None = None, last: bool = False) -> None:
        """Write a checkpoint of everything; one that cannot be written leaves the old ones alone.

        Args:
            return_mean: of the best evaluation so far, for the checkpoint of that name.
            last: nothing comes after it, so raise instead of warning.

        Raises:
            OSError: with `last`, if it cannot be written.
            NonFiniteError: with `last`, if a NaN is in it.
        """
        if self.dir is None:
            return
        try:
            state = self.state_dict()
            check_state("learner", state["learner"])
            check_state("state", {k: state[k] for k in ("modules", "mixer")}, infinite=True)
            if return_mean is None:
                self.dir.save(state, self.steps)
            else:
                self.dir.save_best(state, self.steps, return_mean)
        except (OSError, NonFiniteError) as error:
            if last:
                raise
            log.warning("no checkpoint at step %s: %s", f"{self.steps:,}", error)

    def state_dict(self) -> dict[str, Any]:
        """Learner, modules, mixer, environments, random state, statistics and step."""
        try:
            spec = describe(self.learner.policy)
        except SpecError:
            spec = None  # a policy of the user's own; `load` will ask for it
        return {
            "steps": self.steps,
            "warmed": self._warmed,
            "dropped": self._dropped,
            "skipped": [self._guard.skipped, self._guard.in_a_row],
            "policy_spec": spec,
            "learner": self.learner.state_dict(),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "mixer": self.mixer.state_dict(),
            "runner": self.runner.state_dict(),
            "episodes": self.episodes.state_dict(),
            "rng": global_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state. Episodes that cannot be gone on with are counted and dropped."""
        self.steps = self._before = state["steps"]
        self._warmed = state["warmed"]
        self._guard.skipped, self._guard.in_a_row = state["skipped"]
        self.learner.load_state_dict(state["learner"])
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.mixer.load_state_dict(state["mixer"])
        self.episodes.load_state_dict(state["episodes"])
        lost = self.runner.load_state_dict(state["runner"])
        if len(lost):
            for module in self.modules.values():
                module.reset(lost)
            self.episodes.drop(lost)
            log.warning("%d open episodes could not be gone on with", len(lost))
        self._dropped = state["dropped"] + len(lost)
        if state["rng"] is not None:
            set_global_rng_state(state["rng"])

    def _advance(self, callbacks: list[Callback]) -> None:
        """One iteration, what is to be said about it, and a checkpoint if it is time."""
        self._before, began = self.steps, time.perf_counter()
        warm = (m.warmup_steps for n, m in self.modules.items() if self.mixer.active(n, 0.0))
        wanted = max(warm, default=0)
        metrics: Metrics = {}
        try:
            metrics = self.iterate() if self._warmed >= wanted else self._warm_up(wanted)
        except NonFiniteError as error:
            self._guard.strike(error, self.steps)
        self._guard.settle()
        metrics |= self.episodes.metrics()
        metrics["perf/steps_per_second"] = (self.steps - self._before) / (
            time.perf_counter() - began
        )
        counts = {"train/skipped_updates": self._guard.skipped, "rollout/dropped": self._dropped}
        metrics |= {name: float(count) for name, count in counts.items() if count}
        for callback in callbacks:  # in order: a later one sees that this is the end
            with self._stages(type(callback).__name__.lower()):
                self.stopping |= bool(callback(self, metrics))
        self.last = None  # so that memory holds one rollout at a time
        if self.dir is not None:
            self.dir.write(self.steps, metrics | self._stages.metrics())
        if self.checkpoint_every is not None and self.crossed(self.checkpoint_every):
            with self._stages("save"):
                self.save()

    def _collect(self, actor: Actor, num_steps: int) -> Rollout:
        rollout = check(self.runner.collect(actor, num_steps))
        self.steps += int(rollout.valid.sum())
        self.episodes.update(rollout)
        if rollout.crashed is not None:
            self._dropped += int(rollout.crashed.sum())
        if self.barrier and self.checkpoint_every and self.crossed(self.checkpoint_every):
            rollout = self.runner.cut(rollout)
            self.episodes.drop(rollout.env_ids)
        return rollout.to(self.device)

    def _warm_up(self, wanted: int) -> Metrics:
        """Let modules see some steps of a random agent, of as many per environment as they want."""
        with self._stages("warmup"):
            actor = RandomActor(self.vec.act_space, self.mixer.num_streams)
            num_steps = min(self.num_steps, wanted - self._warmed)
            rollout = self._collect(actor, num_steps)
            self._check(rollout)
            for name, module in self.modules.items():
                if self._warmed < module.warmup_steps and self.mixer.active(name, 0.0):
                    module.warmup(rollout)
            self._warmed += num_steps
        return {}

    def _check(self, rollout: Rollout) -> None:
        """Refuse what is not finite; then no module sees which episodes ended in it."""
        try:
            check_rollout(rollout)
        except NonFiniteError:
            ids = rollout.env_ids[rollout.is_first[:-1].any(0)]
            for module in self.modules.values():
                module.reset(ids)
            raise

    def _adapt(self, name: str, module: IntrinsicModule, rollout: Rollout) -> Metrics:
        """A module's own update; one that fails keeps nobody else from theirs."""
        try:
            return {f"{name}/{key}": value for key, value in module.update(rollout).items()}
        except NonFiniteError as error:
            self._guard.strike(NonFiniteError(f"module {name!r}: {error}"), self.steps)
            return {}
