"""The main loop: collect, reward, mix, learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from firstlight.agents.fast_forms import threads_for
from firstlight.agents.learner import Learner, check_learner, default_num_steps
from firstlight.agents.session.collector import RolloutCollector
from firstlight.agents.session.guards import Rollback
from firstlight.agents.session.iteration_data import IterationData, Metrics
from firstlight.agents.session.module_group import ModuleGroup
from firstlight.agents.session.run_session import Callback, RunSession
from firstlight.envs.alternating import make_runner
from firstlight.envs.runner import RandomActor
from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import RewardMixer
from firstlight.networks import collective


class Trainer:
    """Synchronous training: every rollout is collected by the policy that learns from it.

    In a run of several processes each has a trainer with environments of its own, and all have the
    same policy, modules and mixer (docs/distributed.md).

    Args:
        vec: the environments, already wrapped by the modules that add fields.
        learner: updates its policy.
        modules: name to reward module.
        mixer: the reward layer; by default the environment's reward and each module's own term.
        num_steps: `T` of a rollout; default 128, with few or many environments, of all processes,
            more or less (`default_num_steps`).
        seed: of environments and actions; each process derives its own from it.
        device: of policy, modules and mixer.
        run_dir, resume, checkpoint_every, barrier, stall_after: see `RunSession`.

    Raises:
        ValueError: for a module without a term, a policy whose number of streams is not the
            mixer's, sizes that the learner refuses, or a checkpoint of another run.
    """

    def __init__(
        self,
        vec: VecEnv,
        learner: Learner,
        modules: Mapping[str, IntrinsicModule] | None = None,
        mixer: RewardMixer | None = None,
        *,
        num_steps: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        run_dir: str | Path | None = None,
        resume: bool = False,
        checkpoint_every: int | None = None,
        barrier: bool = False,
        stall_after: float | None = 600.0,
    ):
        self.vec, self.learner, self.policy = vec, learner, learner.policy
        self.modules = dict(modules or {})
        self.mixer = RewardMixer.from_modules(self.modules) if mixer is None else mixer
        self.mixer.check(self.modules, self.policy.num_streams)
        self.num_steps = num_steps or default_num_steps(vec.num_envs * collective.size())
        states = check_learner(learner, self.num_steps, vec.num_envs)
        seed = derive(seed, "rank", collective.rank()) if collective.rank() else seed
        self.runner = make_runner(vec, seed=seed, device=device, keep_states=states)
        if collective.size() > 1:
            self.runner.resume = "dropped"  # a checkpoint holds no process's environments
        options: dict = {"run_dir": run_dir, "resume": resume, "barrier": barrier}
        options |= {"checkpoint_every": checkpoint_every, "stall_after": stall_after}
        self.session = RunSession(self, vec, **options)
        self.module_group = ModuleGroup(self.modules, self.mixer, self.session.guard).to(device)
        self.policy.to(device)
        for part in (self.policy, self.mixer, *self.modules.values()):
            collective.broadcast_module(part)
        self.rollback = Rollback(learner)
        self.collector = RolloutCollector(self.runner, self.session, self.module_group)
        self.session.restore()

    def run(self, total_steps: int, callbacks: Iterable[Callback] = ()) -> None:
        """Train until `total_steps` environment steps since the run began (`RunSession.open`)."""
        directory = self.session.directory
        run_dir = None if directory is None else directory.path
        with self.session.open(total_steps, callbacks), self.module_group.open(run_dir):
            self._run_iterations(total_steps)

    def _run_iterations(self, total_steps: int) -> None:
        while self.session.is_running():
            with self.session.iteration() as metrics:
                left = self.module_group.warmup_left
                metrics |= self.warm_up(left) if left else self.iterate(total_steps)

    def warm_up(self, steps_left: int) -> Metrics:
        """Collect a rollout of a random agent and show it to the modules that need one."""
        with self.session.stage("warmup"):
            actor = RandomActor(self.vec.act_space, self.mixer.num_streams)
            rollout = self.collector.collect(actor, min(self.num_steps, steps_left))
            self.module_group.warm_up(rollout)
            self.policy.observe(rollout)
            self.runner.restart_state()  # the policy acts next
        return {}

    def iterate(self, total_steps: int) -> Metrics:
        """Collect a rollout, reward it and learn from it once. Returns scalars to log."""
        session, actor = self.session, self.policy.for_acting()
        with session.stage("collect"), threads_for(actor):
            rollout = self.collector.collect(actor, self.num_steps)
        data = self._reward(rollout, total_steps)
        with session.stage("learn"), self.rollback():
            metrics = self.learner.update(rollout, data.rewards, data.progress)
        self.policy.observe(rollout)  # now: the update needs the statistics that chose the actions
        return metrics | self._update_rewards(data)

    def _reward(self, rollout: Rollout, total_steps: int) -> IterationData:
        """Compute the bonuses of a rollout and mix its rewards."""
        session = self.session
        with session.stage("intrinsic"):
            progress = min(session.steps / total_steps, 1.0)
            bonus = self.module_group.compute(rollout, progress)
            rewards = self.mixer(rollout, bonus, progress)
            session.data = data = IterationData(rollout, bonus, rewards, progress)
        return data

    def _update_rewards(self, data: IterationData) -> Metrics:
        """Update the mixer and the reward modules from a rollout. Returns scalars to log."""
        with self.session.stage("module_update"):
            metrics = self.mixer.update(data.rollout, data.rewards)
            return metrics | self.module_group.update(data.rollout, data.bonus, self.session.steps)

    def state_dict(self) -> dict[str, Any]:
        """State of learner, modules, mixer and environments (`Trainable`)."""
        return {
            "learner": self.learner.state_dict(),
            "runner": self.runner.state_dict(),
            **self.module_group.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> torch.Tensor:
        """Restore what `state_dict` returned.

        Returns:
            The environments [M] whose open episode is lost.
        """
        self.learner.load_state_dict(state["learner"])
        self.module_group.load_state_dict(state)
        several = collective.size() > 1  # the saved state is that of rank 0
        lost = self.runner.load_state_dict(state["runner"], new_actions=several)
        self.module_group.reset(lost)
        return lost
