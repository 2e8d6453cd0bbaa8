"""Collect rollouts for a trainer, count their steps and reject values that are not finite."""

from __future__ import annotations

from firstlight.agents.session.agreement import raised_together
from firstlight.agents.session.module_group import ModuleGroup
from firstlight.agents.session.run_session import RunSession
from firstlight.envs.finite import NonFiniteError, check_rollout
from firstlight.envs.runner import Actor, Runner
from firstlight.envs.types import Rollout, check


class RolloutCollector:
    """A runner whose rollouts are checked, counted by the session and cut at barriers.

    Args:
        runner: steps the environments.
        session: counts steps and episodes, and determines when a checkpoint is due.
        modules: their episodic memory is reset if a rollout is rejected.
    """

    def __init__(self, runner: Runner, session: RunSession, modules: ModuleGroup):
        self.runner, self.session, self.modules = runner, session, modules

    def collect(self, actor: Actor, num_steps: int) -> Rollout:
        """Step `num_steps` times with `actor`; return a rollout on the runner's device.

        Raises:
            NonFiniteError: for an observation or a reward that is not finite.
        """
        return self.receive(self.runner.collect(actor, num_steps))

    def receive(self, rollout: Rollout) -> Rollout:
        """Check and count a rollout of the runner; return it on the runner's device.

        Raises:
            NonFiniteError: for an observation or a reward that is not finite.
        """
        rollout = check(rollout)
        self.session.record(rollout)
        if self.session.barrier and self.session.checkpoint_is_due():
            rollout = self.runner.cut(rollout)
            self.session.episodes.drop(rollout.env_ids)
        rollout = rollout.to(self.runner.device)
        try:
            with raised_together():
                check_rollout(rollout)
        except NonFiniteError:  # modules never receive this rollout's episode ends
            self.modules.reset(rollout.env_ids[rollout.is_first[:-1].any(0)])
            raise
        return rollout
