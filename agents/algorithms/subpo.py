"""Submodular policy optimisation: the plain policy gradient of a return that is a set function."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from firstlight.agents.algorithms.natural import natural_gradient
from firstlight.agents.learner import at, final_value
from firstlight.agents.losses import explained_variance, value_loss
from firstlight.agents.policy import Policy
from firstlight.agents.returns import gae, successor_values
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.mixer import Rewards, Schedule
from firstlight.networks.distributions import Distribution

Weighting = Literal["reward_to_go", "cumulative"]
Baseline = Literal["value", "mean", "none"]
_DECAY = 0.9  # of the running mean, an update
_LOGS = ("policy_loss", "value_loss", "entropy", "loss", "grad_norm")


class SubPO:
    """SubPO (Prajapat et al. 2024): REINFORCE on marginal gains, one step a rollout.

    With gains ``r_j = F(S_j + x_j) - F(S_j)`` as reward, the gradient of E F is
    ``E sum_h grad log pi(a_h) (sum_{j >= h} r_j - b)``: what an action gets is all that the episode
    still gains, b any number that does not depend on it. Nothing here knows of set functions; the
    gains come from `Submodular`, alone in its stream or with other rewards.

    The whole rollout is one batch [T, N] and goes through the policy in order, so that policies
    with a memory are learnt through time; one without is Markov, in the paper's words, unless the
    observation tells of the past (`Submodular(features=True)`).

    Baselines:

    - ``"value"``: the critic's values, one head a stream, also for what comes after the rollout;
    - ``"mean"``: the running mean of the sums. No critic: steps of an episode that does not end in
      the rollout are left out, so a rollout should hold whole episodes;
    - ``"none"``: 0, else as ``"mean"``.

    Args:
        policy: what learns; its `K` is that of the rewards.
        lr: of Adam; a number, or a schedule over training progress.
        gamma: discount of every stream, in place of the mixer's, and then every episode is a
            problem of its own that ends where it ends, be it by a time limit: F is a sum, without
            discount, over a finite horizon. None keeps the mixer's discounts and boundaries.
        baseline: see above.
        weighting: "reward_to_go", or "cumulative": what the episode *has* gained, this step
            included, as the authors' released code does. That is no gradient of F, and credits an
            action with what came before it; it is here to compare with, without a critic.
        entropy_coef: weight of the entropy; a number or a schedule.
        value_coef: weight of the value loss.
        max_grad_norm: bound on the norm of the gradient.
        natural: follow the natural gradient, ``(F + damping I)^-1`` times the loss's, F the Fisher
            matrix of the policy in the rollout's rows, by plain steps instead of Adam's.
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
                raise ValueError(f"{name} is one of {', '.join(get_args(kind))}, not {value!r}")
        if weighting == "cumulative" and baseline == "value":
            raise ValueError(
                "values are no baseline of cumulative gains: set baseline to mean or none"
            )
        if gamma is not None and not 0 <= gamma <= 1:
            raise ValueError(f"gamma is {gamma}, expected 0 to 1")
        if damping <= 0:
            raise ValueError(f"damping is {damping}, expected more than 0")
        self.policy, self.lr, self.gamma = policy, lr, gamma
        self.baseline, self.weighting = baseline, weighting
        self.entropy_coef, self.value_coef = entropy_coef, value_coef
        self.max_grad_norm, self.natural, self.damping = max_grad_norm, natural, damping
        self._module = cast(nn.Module, policy)
        self._parameters = list(self._module.parameters())
        adam = torch.optim.Adam(self._parameters, lr=at(lr, 0.0), eps=1e-5, fused=True)
        plain = torch.optim.SGD(self._parameters, lr=at(lr, 0.0))
        self.optimizer: torch.optim.Optimizer = plain if natural else adam
        self._mean: Tensor | None = None  # [K] running mean of what is weighted with
        self._banked = torch.zeros(0, 0)  # [E, K] gains of the running episodes, by environment

    def update(self, rollout: Rollout, rewards: Rewards, progress: float = 0.0) -> dict[str, float]:
        """Learn from a rollout once.

        Raises:
            NonFiniteError: for a loss or a gradient that is not finite. The weights are spoilt
                then; a trainer puts back those from before.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = at(self.lr, progress)
        entropy_coef = at(self.entropy_coef, progress)
        weight, target, rows = self.credit(rollout, rewards)
        used = {"train/rows_used": rows.sum().item() / max(int(rollout.valid.sum()), 1)}
        if not rows.any():
            return used
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
        metrics |= {"train/lr": at(self.lr, progress), "train/entropy_coef": entropy_coef} | used
        if self.baseline == "value":
            fit = explained_variance(rollout.value[:-1][rows], target[rows]).tolist()
            for name, value in zip(rewards.streams, fit, strict=True):
                metrics[f"value/{name}/explained_variance"] = value
        return metrics

    @torch.no_grad()
    def credit(self, rollout: Rollout, rewards: Rewards) -> tuple[Tensor, Tensor, Tensor]:
        """What each action's log-probability is weighted with.

        Advances the running mean, and the gains of episodes that go on.

        Returns:
            [T, N] the weight, streams joined as `Rewards.advantage` says; [T, N, K] targets of the
            values; [T, N] bool, which rows are learnt from.
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
        """The loss [] of what `credit` gave, a mean over rows; and `_LOGS` but the last."""
        past = map_obs(lambda field: field[:-1], rollout.obs)
        out = self.policy(past, rollout.state, rollout.is_first[:-1])
        policy_loss = -(out.dist.log_prob(rollout.action) * weight)[rows].mean()
        entropy = out.dist.entropy()[rows].mean()
        live = (rewards.weight != 0).float()
        v_loss = torch.zeros_like(policy_loss)
        if self.baseline == "value":
            v_loss = value_loss(out.value[rows], target[rows], rollout.value[:-1][rows], live, None)
        loss = policy_loss + self.value_coef * v_loss - entropy_coef * entropy
        return loss, torch.stack([policy_loss, v_loss, entropy, loss]).detach()

    def state_dict(self) -> dict[str, Any]:
        """Policy, optimiser, running mean, and the gains of running episodes."""
        state = {
            "policy": self._module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "banked": self._banked.clone(),
        }
        return state | ({} if self._mean is None else {"mean": self._mean.clone()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state back."""
        self._module.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._banked = state["banked"].clone()
        self._mean = state["mean"].clone() if "mean" in state else None

    def _precondition(self, rollout: Rollout, rows: Tensor) -> None:
        """Turn the gradients at hand into natural ones."""
        past = map_obs(lambda field: field[:-1], rollout.obs)

        def says() -> Distribution:
            return self.policy(past, rollout.state, rollout.is_first[:-1]).dist

        for p in self._parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradient = nn.utils.parameters_to_vector([cast(Tensor, p.grad) for p in self._parameters])
        x = natural_gradient(says, self._parameters, gradient, rows=rows, damping=self.damping)
        sizes = [p.numel() for p in self._parameters]
        for p, part in zip(self._parameters, x.split(sizes), strict=True):
            p.grad = part.view_as(p).clone()

    def _to_go(self, rollout: Rollout, rewards: Rewards) -> tuple[Tensor, Tensor]:
        """Sums of what is still gained [T, N, K], and the rows [T, N] of which they are known."""
        discount, carry = rewards.discount, rewards.carry
        over = rollout.terminated | rollout.truncated
        if self.gamma is not None:
            carry = (~over).float()[..., None].expand_as(carry)
            discount = self.gamma * carry
        value, rows = torch.zeros_like(rollout.value), rollout.valid
        if self.baseline == "value":
            value = rollout.value
        else:  # nothing stands for what comes after the rollout
            rows = rows & (over.int().flip(0).cummax(0).values.flip(0) > 0)
        final = final_value(self.policy, rollout) if self.baseline == "value" else value[0, :0]
        if len(final) != len(rollout.final_at):
            final = value.new_zeros(len(rollout.final_at), value.shape[-1])
        onward = successor_values(rollout, value, final, carry)
        terms = (rewards.reward, value[:-1], onward, discount, carry, rollout.valid)
        return gae(*terms, lam=1.0) + value[:-1], rows

    def _cumulate(self, rollout: Rollout, reward: Tensor) -> Tensor:
        """What each episode has gained up to and with each row, [T, N, K]."""
        ids, K = rollout.env_ids, reward.shape[-1]
        if self._banked.shape[-1] != K:
            self._banked = reward.new_zeros(0, K)
        self._banked = self._banked.to(reward.device)
        missing = max(int(ids.max()) + 1 - len(self._banked), 0)
        self._banked = torch.cat([self._banked, reward.new_zeros(missing, K)])
        banked, out = self._banked[ids], torch.empty_like(reward)
        for t in range(len(reward)):
            banked = banked * ~rollout.is_first[t, :, None]
            banked = banked + reward[t] * rollout.valid[t, :, None]
            out[t] = banked
        self._banked[ids] = banked
        return out

    def _center(self, gained: Tensor, rows: Tensor) -> Tensor:
        """The baseline [K] of sums [T, N, K], from the rollouts before; then counts these."""
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
