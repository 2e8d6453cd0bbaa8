"""Submodular policy optimisation: REINFORCE on the marginal gains of a set function."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from firstlight.agents.algorithms.natural import natural_gradient
from firstlight.agents.learner import Learner, final_value, resolve_schedule
from firstlight.agents.losses import explained_variance, value_loss
from firstlight.agents.policy import Policy
from firstlight.agents.returns import gae, successor_values
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.mixer import Rewards, Schedule
from firstlight.intrinsic.state import read_rows, write_rows
from firstlight.networks.distributions import Distribution

Weighting = Literal["reward_to_go", "cumulative"]
Baseline = Literal["value", "mean", "none"]
_DECAY = 0.9  # of the running mean, per update
_LOGS = ("policy_loss", "value_loss", "entropy", "loss", "grad_norm")


class SubPO(Learner):
    """SubPO (Prajapat et al. 2024): REINFORCE on marginal gains, one step per rollout.

    With gains ``r_j = F(S_j + x_j) - F(S_j)`` as reward, the gradient of E F is
    ``E sum_h grad log pi(a_h) (sum_{j >= h} r_j - b)``: an action is credited with all that the
    episode still gains, minus a baseline b that does not depend on it. The gains come from
    `Submodular`, alone in its stream or with other rewards; nothing here depends on set functions.

    The whole rollout is one batch [T, N] that the policy processes in order, so that policies with
    a memory are trained through time. A policy without one is Markov, in the paper's terms, unless
    the observation contains the past (`Submodular(features=True)`).

    Baselines:

    - ``"value"``: the critic's values, one head per stream; they also bootstrap at the end of the
      rollout;
    - ``"mean"``: the running mean of the sums. Without a critic, steps of an episode that does not
      end in the rollout are left out, so a rollout should hold whole episodes;
    - ``"none"``: 0, otherwise as ``"mean"``.

    Args:
        policy: to update; its `K` is that of the rewards.
        lr: learning rate of Adam; a number, or a schedule over training progress.
        gamma: discount of every stream, replacing the mixer's. Every episode is then a finite
            problem that ends with the episode, also at a time limit: F is an undiscounted sum over
            a finite horizon. None keeps the mixer's discounts and episode boundaries.
        baseline: see above.
        weighting: "reward_to_go", or "cumulative": what the episode *has* gained, this step
            included, as in the authors' released code. That is not the gradient of F, and credits
            an action with what came before it; provided for comparison, without a critic.
        entropy_coef: weight of the entropy bonus; a number or a schedule.
        value_coef: weight of the value loss.
        max_grad_norm: maximum norm of the gradient.
        natural: follow the natural gradient, ``(F + damping I)^-1`` times the loss's, F the Fisher
            matrix of the policy over the rollout's rows, with SGD steps instead of Adam's.
        damping: see `natural`; above 0.

    Raises:
        ValueError: for an unknown `baseline` or `weighting`, "cumulative" with values, or a `gamma`
            or `damping` out of range.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        lr: float | Schedule = 1e-3,
        gamma: float | None = 1.0,
        baseline: Baseline = "value",
        weighting: Weighting = "reward_to_go",
        entropy_coef: float | Schedule = 0.01,
        value_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        natural: bool = False,
        damping: float = 0.1,
    ):
        for name, value, kind in (
            ("baseline", baseline, Baseline),
            ("weighting", weighting, Weighting),
        ):
            if value not in get_args(kind):
                raise ValueError(
                    f"{name} is {value!r}, expected one of {', '.join(get_args(kind))}"
                )
        if weighting == "cumulative" and baseline == "value":
            raise ValueError(
                "weighting='cumulative' has no baseline of values: set baseline to mean or none"
            )
        if gamma is not None and not 0 <= gamma <= 1:
            raise ValueError(f"gamma is {gamma}, expected 0 to 1")
        if damping <= 0:
            raise ValueError(f"damping is {damping}, expected more than 0")
        self.policy, self.lr, self.gamma = policy, lr, gamma
        self.baseline, self.weighting = baseline, weighting
        self.entropy_coef, self.value_coef = entropy_coef, value_coef
        self.max_grad_norm, self.natural, self.damping = max_grad_norm, natural, damping
        self._parameters = list(policy.parameters())
        adam = torch.optim.Adam(
            self._parameters, lr=resolve_schedule(lr, 0.0), eps=1e-5, fused=True
        )
        plain = torch.optim.SGD(self._parameters, lr=resolve_schedule(lr, 0.0))
        self.optimizer: torch.optim.Optimizer = plain if natural else adam
        self._mean: Tensor | None = None  # [K] running mean of the weights
        self._gained = torch.zeros(0, 0)  # [E, K] gains of the running episodes, by environment

    def update(self, rollout: Rollout, rewards: Rewards, progress: float = 0.0) -> dict[str, float]:
        """Update the policy from one rollout, see `Learner.update`.

        Raises:
            NonFiniteError: for a loss or a gradient that is not finite. The weights are unusable
                then; a trainer restores the previous ones.
        """
        lr = resolve_schedule(self.lr, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        entropy_coef = resolve_schedule(self.entropy_coef, progress)
        weight, target, rows = self.credit(rollout, rewards)
        used = {"train/rows_used": rows.sum().item() / max(int(rollout.valid.sum()), 1)}
        if not rows.any():
            return used
        if self.baseline == "value":
            self.policy.observe_returns(rewards.reward[rows], target[rows])
        self.optimizer.zero_grad()
        loss, logs = self.loss(rollout, rewards, weight, target, rows, entropy_coef)
        loss.backward()
        if self.natural:
            self._precondition(rollout, rows)
        norm = nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        self.optimizer.step()
        numbers = [*logs.tolist(), norm.item()]
        for name, number in zip(_LOGS, numbers, strict=True):
            if not torch.tensor(number).isfinite():
                raise NonFiniteError(f"{name} is {number}")
        metrics = {f"train/{n}": number for n, number in zip(_LOGS, numbers, strict=True)}
        metrics |= {"train/lr": lr, "train/entropy_coef": entropy_coef} | used
        if self.baseline == "value":
            fit = explained_variance(rollout.value[:-1][rows], target[rows]).tolist()
            for name, value in zip(rewards.streams, fit, strict=True):
                metrics[f"value/{name}/explained_variance"] = value
        return metrics

    def gradient_steps(self, num_steps: int, num_envs: int) -> int | None:
        """Return 1."""
        return 1

    @torch.no_grad()
    def credit(self, rollout: Rollout, rewards: Rewards) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the weight of each action's log-probability.

        Updates the running mean, and the gains of episodes that continue.

        Returns:
            [T, N] the weight, streams combined by `Rewards.advantage`; [T, N, K] targets of the
            values; [T, N] bool, which rows enter the loss.
        """
        if self.weighting == "cumulative":
            gained, rows = self._cumulate(rollout, rewards.reward), rollout.valid
        else:
            gained, rows = self._to_go(rollout, rewards)
        baseline = rollout.value[:-1] if self.baseline == "value" else self._center(gained, rows)
        return rewards.advantage(gained - baseline, rows), gained, rows

    def loss(
        self,
        rollout: Rollout,
        rewards: Rewards,
        weight: Tensor,
        target: Tensor,
        rows: Tensor,
        entropy_coef: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss [] from what `credit` returned, and all but the last of `_LOGS`."""
        past = map_obs(lambda field: field[:-1], rollout.obs)
        out = self.policy(past, rollout.state, rollout.is_first[:-1])
        policy_loss = -(out.dist.log_prob(rollout.action) * weight)[rows].mean()
        entropy = out.dist.entropy()[rows].mean()
        live = (rewards.weight != 0).float()
        v_loss = torch.zeros_like(policy_loss)
        if self.baseline == "value":
            scale = self.policy.value_scale
            value, wanted, old = (v[rows] / scale for v in (out.value, target, rollout.value[:-1]))
            v_loss = value_loss(value, wanted, old, live, None)
        loss = policy_loss + self.value_coef * v_loss - entropy_coef * entropy
        return loss, torch.stack([policy_loss, v_loss, entropy, loss]).detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of policy and optimiser, the running mean and the gains so far."""
        state = {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "banked": self._gained.clone(),
        }
        return state | ({} if self._mean is None else {"mean": self._mean.clone()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._gained = state["banked"].clone()
        self._mean = state["mean"].clone() if "mean" in state else None

    def _precondition(self, rollout: Rollout, rows: Tensor) -> None:
        """Replace the parameters' gradients by natural gradients."""
        past = map_obs(lambda field: field[:-1], rollout.obs)

        def distribution() -> Distribution:
            return self.policy(past, rollout.state, rollout.is_first[:-1]).dist

        for p in self._parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradient = torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None])
        x = natural_gradient(
            distribution, self._parameters, gradient, rows=rows, damping=self.damping
        )
        sizes = [p.numel() for p in self._parameters]
        for p, part in zip(self._parameters, x.split(sizes), strict=True):
            p.grad = part.view_as(p).clone()

    def _to_go(self, rollout: Rollout, rewards: Rewards) -> tuple[Tensor, Tensor]:
        """Compute rewards to go [T, N, K], and the rows [T, N] where they are known."""
        discount, carry = rewards.discount, rewards.carry
        over = rollout.terminated | rollout.truncated
        if self.gamma is not None:
            carry = (~over).float()[..., None].expand_as(carry)
            discount = self.gamma * carry
        value, rows = torch.zeros_like(rollout.value), rollout.valid
        if self.baseline == "value":
            value = rollout.value
        else:  # without values the rest of an episode is unknown
            rows = rows & (over.int().flip(0).cummax(0).values.flip(0) > 0)
        final = final_value(self.policy, rollout) if self.baseline == "value" else value[0, :0]
        if len(final) != len(rollout.final_at):
            final = value.new_zeros(len(rollout.final_at), value.shape[-1])
        onward = successor_values(rollout, value, final, carry)
        terms = (rewards.reward, value[:-1], onward, discount, carry, rollout.valid)
        return gae(*terms, lam=1.0) + value[:-1], rows

    def _cumulate(self, rollout: Rollout, reward: Tensor) -> Tensor:
        """Compute the sum of each episode's gains up to and including each row, [T, N, K]."""
        ids, K = rollout.env_ids, reward.shape[-1]
        if self._gained.shape[-1] != K:
            self._gained = reward.new_zeros(0, K)
        before = self._gained.to(reward.device)
        gained, out = read_rows(before, ids), torch.empty_like(reward)
        for t in range(len(reward)):
            gained = gained * ~rollout.is_first[t, :, None]
            gained = gained + reward[t] * rollout.valid[t, :, None]
            out[t] = gained
        self._gained = write_rows(before, ids, gained)
        return out

    def _center(self, gained: Tensor, rows: Tensor) -> Tensor:
        """Return the baseline [K] from earlier rollouts, then count these sums [T, N, K]."""
        zero = gained.new_zeros(gained.shape[-1])
        if self.baseline == "none" or not rows.any():
            return zero
        before, now = self._mean, gained[rows].mean(0)
        if before is None:
            self._mean = now
            return zero
        before = before.to(now.device)
        self._mean = _DECAY * before + (1 - _DECAY) * now
        return before
