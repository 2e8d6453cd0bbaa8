"""The main loop: collect, rate, mix, learn, log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from firstlight.agents.learner import Learner
from firstlight.agents.metrics import EpisodeStatistics
from firstlight.agents.policy import Policy
from firstlight.agents.run_dir import RunDirectory
from firstlight.agents.spec import SpecError, describe
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Rollout, check
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import RewardMixer, Term

Metrics = dict[str, float]


class Run(Protocol):
    """What trains: this file's `Trainer`, and every other schedule of the same parts."""

    steps: int
    total_steps: int

    @property
    def policy(self) -> Policy:
        """The best policy so far, for evaluation."""
        ...

    def run(self, total_steps: int, callbacks: Iterable[Callback] = ()) -> None:
        """Train until `total_steps` environment steps have been taken since the run began."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state back."""
        ...


Callback = Callable[[Any, Metrics], "bool | None"]
"""Called with the run and its metrics after each iteration; may add metrics; True stops the run."""


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

    Raises:
        ValueError: if a module has no term, or the policy another number of streams than the mixer.
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
        self.runner = Runner(vec, seed=seed, device=self.device)
        self.episodes = EpisodeStatistics(vec.num_envs, vec.success_threshold)
        self.steps, self.total_steps, self.stopping = 0, 0, False
        self.dir = None if run_dir is None else RunDirectory(run_dir, resume=resume)
        if self.dir is not None and self.dir.restored is not None:
            self.load_state_dict(self.dir.restored)

    @property
    def policy(self) -> Policy:
        """The policy that learns."""
        return self.learner.policy

    @property
    def progress(self) -> float:
        """Part of `total_steps` that is done, in [0, 1]."""
        return min(self.steps / max(self.total_steps, 1), 1.0)

    def run(self, total_steps: int, callbacks: Iterable[Callback] = ()) -> None:
        """Train until `total_steps` environment steps have been taken since the run began."""
        self.total_steps = total_steps
        callbacks = list(callbacks)
        try:
            self._status("running")
            if self.steps == 0:
                self._warm_up()
            self.stopping = False
            while self.steps < total_steps and not self.stopping:
                began, before = time.perf_counter(), self.steps
                metrics = self.iterate()
                metrics["perf/steps_per_second"] = (self.steps - before) / (
                    time.perf_counter() - began
                )
                for callback in callbacks:  # in order: a later one sees that this is the end
                    self.stopping |= bool(callback(self, metrics))
                if self.dir is not None:
                    self.dir.write(self.steps, metrics)
            if self.dir is not None:
                self.dir.save(self.state_dict(), self.steps)
            self._status("finished")
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            self._status(
                "interrupted" if interrupted else "failed", f"{type(error).__name__}: {error}"
            )
            raise
        finally:
            if self.dir is not None:
                self.dir.close()

    def iterate(self) -> Metrics:
        """One rollout, rated, mixed and learnt from."""
        rollout = self._collect()
        live = {n: m for n, m in self.modules.items() if self.mixer.active(n, self.progress)}
        bonus = {name: module.compute(rollout) for name, module in live.items()}
        rewards = self.mixer(rollout, bonus, self.progress)
        metrics = self.learner.update(rollout, rewards, self.progress)
        metrics |= self.mixer.update(rollout, rewards)
        for name, module in live.items():
            metrics |= {f"{name}/{key}": value for key, value in module.update(rollout).items()}
        return metrics | self.episodes.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Learner, modules, mixer, random state, statistics and step."""
        try:
            spec = describe(self.learner.policy)
        except SpecError:
            spec = None  # a policy of the user's own; `load` will ask for it
        return {
            "steps": self.steps,
            "policy_spec": spec,
            "learner": self.learner.state_dict(),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "mixer": self.mixer.state_dict(),
            "runner": self.runner.state_dict(),
            "episodes": self.episodes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state; open episodes begin anew."""
        self.steps = state["steps"]
        self.learner.load_state_dict(state["learner"])
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
            module.reset()
        self.mixer.load_state_dict(state["mixer"])
        self.runner.load_state_dict(state["runner"])
        self.episodes.load_state_dict(state["episodes"])
        self.episodes.drop(torch.arange(self.vec.num_envs))

    def _collect(self) -> Rollout:
        rollout = check(self.runner.collect(self.learner.policy, self.num_steps))
        self.steps += int(rollout.valid.sum())
        self.episodes.update(rollout)
        return rollout.to(self.device)

    def _warm_up(self) -> None:
        """Let modules see a random agent, as many steps per environment as they ask for."""
        live = [m for n, m in self.modules.items() if self.mixer.active(n, 0.0)]
        wanted = max((module.warmup_steps for module in live), default=0)
        actor = RandomActor(self.vec.act_space, self.mixer.num_streams)
        for start in range(0, wanted, self.num_steps):
            rollout = self.runner.collect(actor, min(self.num_steps, wanted - start))
            self.steps += int(rollout.valid.sum())
            self.episodes.update(rollout)
            for module in live:
                if start < module.warmup_steps:
                    module.warmup(rollout.to(self.device))

    def _status(self, status: str, error: str | None = None) -> None:
        if self.dir is not None:
            self.dir.status(status, self.steps, error)
