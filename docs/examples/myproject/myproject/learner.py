"""Advantage actor-critic: one gradient step on each rollout."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from firstlight.agents import Learner, Policy
from firstlight.agents.learner import final_value
from firstlight.agents.returns import gae, successor_values
from firstlight.envs import Rollout
from firstlight.intrinsic.mixer import Rewards


class A2C(Learner):
    """Synchronous advantage actor-critic (Mnih et al. 2016).

    Args:
        policy: to update.
        lr: learning rate of RMSprop.
        gae_lambda: 1 for the sums of rewards of the paper.
        value_coef: weight of the value loss.
        entropy_coef: weight of the entropy bonus.
        max_grad_norm: maximum norm of the gradient.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        lr: float = 7e-4,
        gae_lambda: float = 1.0,
        value_coef: float = 0.5,
        entropy_coef: float = 0.01,
        max_grad_norm: float = 0.5,
    ):
        self.policy = policy
        self.optimizer = torch.optim.RMSprop(policy.parameters(), lr=lr, alpha=0.99, eps=1e-5)
        self.gae_lambda, self.max_grad_norm = gae_lambda, max_grad_norm
        self.value_coef, self.entropy_coef = value_coef, entropy_coef

    def update(self, rollout: Rollout, rewards: Rewards, progress: float) -> dict[str, float]:
        """Update the policy from one rollout, see `Learner.update`."""
        valid, value = rollout.valid, rollout.value  # [T, N], [T+1, N, K]
        with torch.no_grad():
            final = final_value(self.policy, rollout)
            following = successor_values(rollout, value, final, rewards.carry)
            terms = (rewards.reward, value[:-1], following, rewards.discount, rewards.carry, valid)
            advantages = gae(*terms, lam=self.gae_lambda)  # [T, N, K]
            targets = advantages + value[:-1]
            advantage = rewards.advantage(advantages, valid)  # [T, N]
        past = {name: field[:-1] for name, field in rollout.obs.items()}
        out = self.policy(past, rollout.state, rollout.is_first[:-1])
        policy_loss = -(out.dist.log_prob(rollout.action) * advantage)[valid].mean()
        live = (rewards.weight != 0).float()  # [K]: a stream of weight 0 learns nothing
        value_loss = ((out.value - targets)[valid].square().mean(0) * live).sum() / 2
        entropy = out.dist.entropy()[valid].mean()
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return {
            "train/policy_loss": policy_loss.item(),
            "train/value_loss": value_loss.item(),
            "train/entropy": entropy.item(),
            "train/grad_norm": norm.item(),
            "train/a2c_updates": 1.0,
        }

    def gradient_steps(self, num_steps: int, num_envs: int) -> int:
        """Return 1."""
        return 1

    def state_dict(self) -> dict[str, Any]:
        """Return the states of policy and optimiser."""
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
