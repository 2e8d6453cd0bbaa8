"""`IntrinsicRewards`: reward modules and mixer for a loop that is not ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from firstlight.agents.session.guards import UpdateGuard
from firstlight.agents.session.iteration_data import Metrics
from firstlight.agents.session.module_group import ModuleGroup
from firstlight.envs.finite import check_rollout
from firstlight.envs.types import Rollout, check
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.mixer import RewardMixer, Rewards, Sum, Term


class IntrinsicRewards:
    """Reward modules and their mixer, called once per rollout.

    As in our `Trainer`, modules first rate the rollout, the mixer combines all rewards, then mixer
    and modules learn from the rollout. A module of weight 0 is not called.

    The first rollouts are warm-up while a module still needs one (`warmup_steps`): modules see
    them, and there is no bonus. In our `Trainer` a random agent collects these; here it is the
    caller's policy, which has not learnt yet.

    Modules that need `wrap`, which adds fields or side channels to our vector environments, do not
    work here.

    Args:
        modules: name to reward module, built for the `obs_space` of the rollouts.
        mixer: the reward layer; default the sum of the environment's reward and each module's
            bonus, by the module's default term.
        gamma: discount of that default sum.
        device: of modules and mixer.

    Raises:
        ValueError: for a module without a term.
    """

    def __init__(
        self,
        modules: Mapping[str, IntrinsicModule],
        mixer: RewardMixer | None = None,
        *,
        gamma: float = 0.99,
        device: torch.device | str = "cpu",
    ):
        if mixer is None:
            terms = {name: module.default_term() for name, module in modules.items()}
            mixer = RewardMixer({"reward": Term(gamma=gamma), **terms}, Sum())
        mixer.check(modules, mixer.num_streams)
        self.mixer, self.device, self.steps = mixer, torch.device(device), 0
        self.guard = UpdateGuard()
        self.modules = ModuleGroup(dict(modules), mixer, self.guard).to(device)

    def __call__(
        self,
        rollout: Rollout,
        progress: float = 0.0,
        *,
        extrinsic: Tensor | None = None,
    ) -> tuple[Rewards, Metrics]:
        """Compute the rewards of a rollout, then let mixer and modules learn from it.

        Args:
            rollout: on any device.
            progress: of training, in [0, 1], for schedules of weights.
            extrinsic: [T, N] takes the place of the environment's reward in the mixer, such as one
                that another library has normalised; modules see `rollout.reward`.

        Returns:
            Rewards [T, N, K] on `device`; with `Sum`, ``rewards.reward[..., 0]`` is what a
            learner gets. And scalars to log.

        Raises:
            ValueError: for a rollout that breaks the shape law.
            NonFiniteError: for observations, rewards or bonuses that are not finite.
        """
        rollout = check(rollout).to(self.device)
        check_rollout(rollout)
        self.steps += int(rollout.valid.sum())
        mixed = rollout
        if extrinsic is not None:
            mixed = dataclasses.replace(rollout, reward=extrinsic.to(self.device))
        if self.modules.warmup_left:
            self.modules.warm_up(rollout)
            nothing = torch.zeros_like(rollout.reward)
            return self.mixer(mixed, dict.fromkeys(self.modules.modules, nothing), progress), {}
        bonus = self.modules.compute(rollout, progress)
        rewards = self.mixer(mixed, bonus, progress)
        metrics: Metrics = dict(self.mixer.update(mixed, rewards))
        metrics |= self.modules.update(rollout, bonus, self.steps)
        self.guard.end_iteration()
        return rewards, metrics

    def state_dict(self) -> dict[str, Any]:
        """State of modules and mixer, which `load_state_dict` restores."""
        return {**self.modules.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; open episodes begin with empty episodic memories."""
        self.modules.load_state_dict(state)
        self.steps = state["steps"]
        for module in self.modules.modules.values():
            module.reset()
