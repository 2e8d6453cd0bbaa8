"""PPO for rollouts that an older policy collected: V-trace, and a bound on their age."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from firstlight.agents.algorithms.ppo import PPO, Decay, Estimates
from firstlight.agents.learner import Auxiliary, final_value
from firstlight.agents.losses import approx_kl
from firstlight.agents.policy import Policy
from firstlight.agents.returns import successor_values, vtrace
from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.mixer import Rewards, Schedule
from firstlight.networks import collective

Estimator = Literal["gae", "vtrace"]


class APPO(PPO):
    """Asynchronous PPO: PPO for a policy pi that differs from the one that acted, mu.

    pi is the policy at the start of the update. The loss is clipped around pi, and the advantage of
    each row is multiplied by ``min(rho_bar, pi/mu)`` (Hilton et al. 2022, the decoupled objective).
    So an update may go as far from where it begins as PPO's, however much the rollout lags.

    With "gae" values and advantages are PPO's, from the values predicted when acting.

    With "vtrace" the values are those of pi, and their targets those of V-trace (Espeholt et al.
    2018) with ``rho = min(rho_bar, pi/mu)`` and ``c = gae_lambda * min(c_bar, pi/mu)``. The
    advantage, before it is multiplied by rho, is ``r + gamma * (V' + lambda * (v' - V')) - V`` with
    the successor's value V' and target v'. Where pi = mu this is generalised advantage estimation.

    A policy with a memory begins each sequence with the state it had when acting.

    Args:
        estimator: "gae" or "vtrace".
        rho_bar: largest weight of an error in the targets; it decides which policy's values the
            targets estimate.
        c_bar: largest weight of a trace; it decides how far corrections reach.
        max_lag: rows of a policy that is more than so many versions old enter no loss, and the
            learning rate is multiplied by the share of rows that do. None for no bound.
        policy, lr, lr_decay, num_epochs, minibatch_size, clip_range, clip_range_vf, entropy_coef,
            value_coef, max_grad_norm, normalize_advantage, advantage_floor, auxiliaries,
            adaptive_kl, target_kl, sequence_length, burn_in, seed: see `PPO`.
        gae_lambda: lambda of both estimators.

    Raises:
        ValueError: for an unknown `estimator`, a bound out of range, and as `PPO`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        estimator: Estimator = "gae",
        rho_bar: float = 1.0,
        c_bar: float = 1.0,
        max_lag: int | None = 20,
        lr: float | Schedule = 3e-4,
        lr_decay: Decay = "none",
        adaptive_kl: float | None = 0.01,
        target_kl: float | None = None,
        num_epochs: int | None = None,
        minibatch_size: int | None = None,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        clip_range_vf: float | None = None,
        entropy_coef: float | Schedule | None = None,
        value_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        normalize_advantage: bool = True,
        advantage_floor: float = 1e-3,
        auxiliaries: Sequence[Auxiliary] = (),
        sequence_length: int | None = None,
        burn_in: int = 0,
        seed: int = 0,
    ):
        if estimator not in get_args(Estimator):
            choices = ", ".join(get_args(Estimator))
            raise ValueError(f"estimator is {estimator!r}, expected one of {choices}")
        if not 0 < c_bar <= rho_bar:
            raise ValueError(
                f"c_bar is {c_bar} and rho_bar is {rho_bar}, expected 0 < c_bar <= rho_bar"
            )
        if max_lag is not None and max_lag < 0:
            raise ValueError(f"max_lag is {max_lag}, expected at least 0, or None")
        super().__init__(
            policy,
            lr=lr,
            lr_decay=lr_decay,
            adaptive_kl=adaptive_kl,
            target_kl=target_kl,
            num_epochs=num_epochs,
            minibatch_size=minibatch_size,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            entropy_coef=entropy_coef,
            value_coef=value_coef,
            max_grad_norm=max_grad_norm,
            normalize_advantage=normalize_advantage,
            advantage_floor=advantage_floor,
            auxiliaries=auxiliaries,
            sequence_length=sequence_length,
            burn_in=burn_in,
            seed=seed,
        )
        self.estimator, self.rho_bar, self.c_bar = estimator, rho_bar, c_bar
        self.max_lag = max_lag
        self._start_metrics: dict[str, float] = {}

    def update(self, rollout: Rollout, rewards: Rewards, progress: float = 0.0) -> dict[str, float]:
        """Update the policy from one rollout, see `PPO.update`.

        Logs also ``train/lag``, ``train/used_share`` of the valid rows that `max_lag` lets in, and,
        unless the rollout has no lag and the estimator is "gae", ``train/start_kl`` and
        ``train/rho_clipped``, the share of rows with pi/mu above `rho_bar`.
        """
        valid = collective.total(int(rollout.valid.sum()))
        own_lag = torch.as_tensor(rollout.lag, dtype=torch.float32).mean()
        lag = (collective.sum(own_lag) / collective.size()).item()
        self._start_metrics = {"train/lag": lag}
        if valid:
            used = collective.total(int(self._used(rollout).sum())) / valid
            self._start_metrics["train/used_share"] = used
        return super().update(rollout, rewards, progress) | self._start_metrics

    def _estimate(self, rollout: Rollout, rewards: Rewards) -> Estimates:
        """Estimate by `vtrace` with the values of the policy as it is, or as PPO does."""
        if self.estimator == "gae" and not self._start_metrics["train/lag"]:
            return super()._estimate(rollout, rewards)
        log_prob, value = self._log_prob_and_value(rollout)
        log_rho = log_prob - rollout.log_prob  # [T, N]
        used = log_rho[rollout.valid]
        if number := collective.total(len(used)):
            share = len(used) / number
            kl = share * approx_kl(used) if len(used) else used.new_zeros(())
            above = (used > torch.as_tensor(self.rho_bar).log()).float()
            clipped = collective.mean(above).item()
            self._start_metrics |= {
                "train/start_kl": collective.sum(kl).item(),
                "train/rho_clipped": clipped,
            }
        weight = log_rho.exp().clamp(max=self.rho_bar)
        if self.estimator == "gae":
            return super()._estimate(rollout, rewards)._replace(log_prob=log_prob, weight=weight)
        next_value = successor_values(
            rollout, value, final_value(self.policy, rollout), rewards.carry
        )
        traced = vtrace(
            log_rho,
            rewards.reward,
            value[:-1],
            next_value,
            rewards.discount,
            rewards.carry,
            rollout.valid,
            self.gae_lambda,
            rho_bar=self.rho_bar,
            c_bar=self.c_bar,
        )
        return Estimates(value[:-1], traced.value_target, traced.advantage, log_prob, weight)

    def _log_prob_and_value(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Compute log-probabilities [T, N] and values [T+1, N, K] of the policy as it is."""
        T = rollout.num_steps
        past = map_obs(lambda field: field[:T], rollout.obs)
        last = map_obs(lambda field: field[T:], rollout.obs)
        out = self.policy(past, rollout.state, rollout.is_first[:T])
        beyond = self.policy(last, out.state, rollout.is_first[T:])
        return out.dist.log_prob(rollout.action), torch.cat([out.value, beyond.value])

    def _used(self, rollout: Rollout) -> Tensor:
        """Return which rows [T, N] enter the loss: valid ones, not older than `max_lag`."""
        if self.max_lag is None:
            return rollout.valid
        fresh = torch.as_tensor(rollout.lag, device=rollout.device) <= self.max_lag  # [] or [N]
        return rollout.valid & fresh
