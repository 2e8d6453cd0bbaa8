"""Proximal policy optimisation over any number of reward streams."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.agents.algorithms.auxiliaries.auxiliary_group import Auxiliaries
from firstlight.agents.algorithms.ppo_loss import (
    LOGS,
    Rows,
    categorical_gradient,
    categorical_loss,
    plain_loss,
)
from firstlight.agents.learner import (
    Auxiliary,
    Batch,
    Learner,
    final_value,
    minibatches,
    num_minibatches,
    resolve_schedule,
)
from firstlight.agents.losses import explained_variance
from firstlight.agents.policy import Policy
from firstlight.agents.returns import gae, successor_values
from firstlight.agents.sequences import check_sequences, cut_sequences, num_sequences
from firstlight.agents.session.guards import is_out_of_memory
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.seeding import generator
from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.mixer import Rewards, Schedule
from firstlight.networks import collective
from firstlight.networks.clipped_adam import ClippedAdam
from firstlight.networks.distributions import Categorical

_LOGS = (*LOGS, "grad_norm")
_AUXILIARY_LOGS = ("the loss of an auxiliary", "grad_norm")
_LR_STEP, _LR_RANGE = 1.5, 10.0  # of the adaptive learning rate: one change, and all of them
_TINY = 1e-30
_MINIBATCH = (256, 2048)  # least and most rows of a minibatch whose size is not given
Decay = Literal["none", "linear"]
_AddGradients = Callable[[Batch, float], Tensor]
"""Adds the gradient of a factor × a batch's loss to `grad`; returns logs, without the factor."""

log = logging.getLogger(__name__)


class Estimates(NamedTuple):
    """What a rollout says about values and actions; [T, N, K] in units of the rewards.

    Args:
        value: predicted at each step.
        target: for the values to learn.
        advantage: of the action taken.
        log_prob: [T, N] of the action under the policy that the update is clipped around.
        weight: [T, N] of each row's advantage in the loss; None for 1 everywhere.
    """

    value: Tensor
    target: Tensor
    advantage: Tensor
    log_prob: Tensor
    weight: Tensor | None = None


class PPO(Learner):
    """PPO with clipping (Schulman et al. 2017) and one value head for each reward stream.

    Advantages are estimated for each stream, weighted and added (Burda et al. 2018, §2.3), see
    `Rewards.advantage`. Rows that are not valid enter no loss and no mean.

    Several processes take the same gradient steps: each computes the gradient of its own rows, and
    these are added with the weights that make the sum the gradient of one process with all of them.

    Args:
        policy: to update; its `K` is that of the rewards.
        lr: learning rate of Adam; a number, or a schedule over training progress.
        lr_decay: "linear" multiplies `lr` by the share of training that is left.
        adaptive_kl: change the learning rate to keep the policy's KL divergence in an update near
            this: after an update beyond twice of it, it is divided by 1.5; after one below half of
            it, multiplied. It stays within a factor of 10 of `lr` and its decay.
        target_kl: leave out the other epochs after one with a larger mean KL divergence.
        num_epochs: passes over a rollout. None for 4, or 10 with continuous actions and a single
            stream: beside a bonus so many passes settle before it has led anywhere.
        minibatch_size: approximate number of rows of a gradient step, of all processes; default a
            quarter of the rollout, but at least 256 and at most 2048.
        gae_lambda: lambda of generalised advantage estimation.
        clip_range: clipping range of the probability ratio.
        clip_range_vf: clipping range of value updates, in units of their scale; None disables it.
        entropy_coef: weight of the entropy bonus; a number or a schedule. None for 0.01, or 0 with
            continuous actions, whose deviations it would keep large.
        value_coef: weight of the value loss (half squared error, summed over streams).
        max_grad_norm: maximum norm of the gradient.
        sequence_length: under a policy with a memory, steps of a sequence that gradients go back
            through, see `cut_sequences`; a minibatch holds whole sequences. None for the whole
            rollout. Without a memory it has no effect.
        burn_in: steps before those of a sequence that only warm up the memory.
        normalize_advantage: normalise the combined advantage to mean 0 and standard deviation 1 in
            each minibatch.
        advantage_floor: least deviation that advantages are divided by, so that those of a rollout
            without rewards are not scaled up: a multiple of the scale of the returns, of all
            streams with their weights (`Policy.value_scale`, 1 without `normalize_value`).
        auxiliaries: see `Auxiliary`.
        seed: of the order of rows.

    Raises:
        ValueError: for an unknown `lr_decay`, a `sequence_length` or a `burn_in` out of range, or a
            policy that an auxiliary refuses.
    """

    many_processes = True

    def __init__(
        self,
        policy: Policy,
        *,
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
        if lr_decay not in get_args(Decay):
            raise ValueError(
                f"lr_decay is {lr_decay!r}, expected one of {', '.join(get_args(Decay))}"
            )
        if sequence_length is not None and sequence_length < 2:
            raise ValueError(f"sequence_length is {sequence_length}, expected at least 2")
        if burn_in < 0 or (burn_in and sequence_length is None):
            raise ValueError(f"burn_in is {burn_in}, expected 0, or more with a sequence_length")
        self.policy = policy
        self.lr_decay, self.adaptive_kl, self.target_kl = lr_decay, adaptive_kl, target_kl
        self.advantage_floor = advantage_floor
        continuous = isinstance(policy.act_space, spaces.Box)
        if num_epochs is None:
            num_epochs = 10 if continuous and policy.num_streams == 1 else 4
        if entropy_coef is None:
            entropy_coef = 0.0 if continuous else 0.01
        self.lr, self.entropy_coef = lr, entropy_coef
        self.num_epochs, self.minibatch_size = num_epochs, minibatch_size
        self.gae_lambda, self.clip_range, self.clip_range_vf = gae_lambda, clip_range, clip_range_vf
        self.value_coef, self.max_grad_norm = value_coef, max_grad_norm
        self.normalize_advantage, self.auxiliaries = normalize_advantage, Auxiliaries(auxiliaries)
        self.auxiliaries.check_policy(policy)
        self.sequence_length, self.burn_in = sequence_length, burn_in
        self.reads_states = sequence_length is not None and bool(policy.initial_state(1))
        self.generator = generator(seed, "ppo")
        self._passes, self._lr_factor = 1, 1.0
        parameters = [*policy.parameters(), *self.auxiliaries.parameters()]
        self._parameters = list(dict.fromkeys(parameters))
        self.optimizer = ClippedAdam(self._parameters, lr=resolve_schedule(lr, 0.0))

    def update(self, rollout: Rollout, rewards: Rewards, progress: float = 0.0) -> dict[str, float]:
        """Update the policy from one rollout, see `Learner.update`.

        Raises:
            NonFiniteError: for a loss or a gradient that is not finite. The weights are unusable
                then; a trainer restores the previous ones.
        """
        entropy_coef = resolve_schedule(self.entropy_coef, progress)
        self.auxiliaries.to(self._parameters[0].device)
        self.auxiliaries.observe(rollout, progress)
        batch = self._batch(rollout, rewards)
        used = collective.total(int(batch.valid.sum()))
        if used < 2:
            return {}  # every environment only reset itself, or all rows are left out
        lr = resolve_schedule(self.lr, progress) * self._lr_factor
        if self.lr_decay == "linear":
            lr *= 1 - progress
        # less for a rollout of which rows are left out
        lr *= used / collective.total(int(rollout.valid.sum()))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        live = (rewards.weight != 0).float()
        floor = self.advantage_floor and self.advantage_floor * self._advantage_scale(rewards)
        logs: list[Tensor] = []
        before, epochs, steps = 0, 0, rollout.valid.numel()
        while epochs < self.num_epochs:
            before, epochs = len(logs), epochs + 1
            for part in minibatches(batch, self._minibatch_rows(steps), self.generator, steps):
                if rollout.state and collective.total(int(part.valid.sum())) < 2:
                    continue  # of sequences of crashed environments
                logs.append(self._step(part, live, entropy_coef, floor))
            if self.target_kl is not None and self._kl(logs[before:]) > self.target_kl:
                break
        if self.adaptive_kl is not None:
            self._adapt_lr(self._kl(logs[before:]), self.adaptive_kl)
        auxiliary_logs = [
            self._descend(part, partial(self._add_auxiliary_gradients, auxiliary))
            for auxiliary, part in self.auxiliaries.batches()
        ]
        table = torch.stack(logs).cpu()  # [steps, logs]
        _check_logs(table)
        if auxiliary_logs:
            _check_logs(torch.stack(auxiliary_logs).cpu(), _AUXILIARY_LOGS)
        means = table.mean(0).tolist()
        metrics = {f"train/{name}": mean for name, mean in zip(_LOGS, means, strict=True)}
        metrics |= {"train/lr": lr, "train/entropy_coef": entropy_coef}
        if self.target_kl is not None:
            metrics["train/epochs"] = epochs
        pair = (collective.gather_rows(x[batch.valid]) for x in (batch.value, batch.target))
        fit = explained_variance(*pair).tolist()
        for name, value in zip(rewards.streams, fit, strict=True):
            metrics[f"value/{name}/explained_variance"] = value
        return metrics | self.auxiliaries.metrics()

    def gradient_steps(self, num_steps: int, num_envs: int) -> int | None:
        """Return the gradient steps of an update.

        None if an auxiliary takes steps of its own, or `target_kl` may leave some out.
        """
        if self.target_kl is not None:
            return None
        if any(auxiliary.brings_batches for auxiliary in self.auxiliaries):
            return None
        rows = self._minibatch_rows(num_steps * num_envs)
        num_envs *= collective.size()
        steps = num_steps * num_envs
        if self.policy.initial_state(1):
            number = num_envs * num_sequences(num_steps, self.sequence_length, self.burn_in)
            number = num_minibatches(num_steps, number, rows, steps=steps)
        else:
            number = num_minibatches(1, steps, rows)
        return self.num_epochs * number

    def check_sizes(self, num_steps: int, num_envs: int) -> None:
        """Check that minibatches hold whole sequences, see `Learner.check_sizes`."""
        if collective.size() > 1 and any(a.brings_batches for a in self.auxiliaries):
            raise ValueError(
                "an auxiliary takes gradient steps of its own, as many as its episodes need, which "
                "several processes cannot take together: train in one process or set auxiliary=null"
            )
        if self.policy.initial_state(1):
            rows = self._minibatch_rows(num_steps * num_envs) // collective.size()
            check_sequences(num_steps, self.sequence_length, self.burn_in, rows)

    def _minibatch_rows(self, steps: int) -> int:
        """Return the rows of a minibatch of all processes, whose rollouts have so many steps."""
        if self.minibatch_size is not None:
            return self.minibatch_size
        steps *= collective.size()
        return min(max(steps // 4, _MINIBATCH[0]), _MINIBATCH[1])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of policy, optimiser, generator and auxiliaries."""
        state = {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "passes": self._passes,
            "lr_factor": self._lr_factor,
        }
        return state | ({"auxiliaries": self.auxiliaries.state_dict()} if self.auxiliaries else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.auxiliaries.to(
            self._parameters[0].device
        )  # first: the optimiser's moments follow them
        self.auxiliaries.load_state_dict(state.get("auxiliaries", []))
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self._passes = state.get("passes", 1)
        self._lr_factor = state.get("lr_factor", 1.0)

    def _kl(self, logs: Sequence[Tensor]) -> float:
        """Return the mean approximate KL divergence of gradient steps with these logs."""
        return torch.stack([*logs])[:, _LOGS.index("approx_kl")].mean().item()

    def _adapt_lr(self, kl: float, wanted: float) -> None:
        """Adapt the learning rate of the next update to the last epoch's mean KL divergence."""
        if kl > 2 * wanted:
            self._lr_factor = max(self._lr_factor / _LR_STEP, 1 / _LR_RANGE)
        elif kl < wanted / 2:
            self._lr_factor = min(self._lr_factor * _LR_STEP, _LR_RANGE)

    def _advantage_scale(self, rewards: Rewards) -> Tensor:
        """Compute the scale of the weighted sum of advantages from those of the streams."""
        scale = torch.as_tensor(self.policy.value_scale, device=rewards.weight.device)
        scale = torch.where(torch.as_tensor(self.policy.rewarded, device=scale.device), scale, 0.0)
        normal = torch.tensor(rewards.normalize, device=scale.device)
        scale = torch.where(normal & (scale > 0), 1.0, scale)
        return (rewards.weight.abs() * scale).sum()

    def _step(
        self, batch: Batch, live: Tensor, entropy_coef: float, floor: Tensor | float
    ) -> Tensor:
        """Make one gradient step. Returns `_LOGS` on the device, without waiting for them."""
        if self.normalize_advantage:
            mean, std = collective.mean_and_std(_valid_rows(batch)(batch.advantage))
            std = std.clamp(min=floor).clamp(min=_TINY) if self.advantage_floor else std + 1e-8
            advantage = (batch.advantage - mean) / std
            batch = dataclasses.replace(batch, advantage=advantage)
        return self._descend(
            batch, partial(self._add_gradients, live=live, entropy_coef=entropy_coef)
        )

    def _descend(self, batch: Batch, add_gradients: _AddGradients) -> Tensor:
        """Make one gradient step on a minibatch. Returns its logs and the norm of the gradient."""
        logs, whole = None, None
        if collective.size() > 1:
            whole = collective.total(int(batch.valid.sum()))
        try:
            logs = self._accumulate_gradients(batch, add_gradients, whole)
        except Exception as error:
            if not is_out_of_memory(error) or self._passes > 1:
                raise
        if logs is None:  # outside the handler, which holds the memory of the failed pass
            self._passes = 2  # from now on
            log.warning("out of memory: minibatches are processed in %d parts", self._passes)
            logs = self._accumulate_gradients(batch, add_gradients, whole)
        logs = collective.sum_gradients(self._parameters, logs)
        norm = self.optimizer.clipped_step(self.max_grad_norm)
        return torch.cat([logs, norm[None]])

    def _accumulate_gradients(
        self, batch: Batch, add_gradients: _AddGradients, whole: int | None
    ) -> Tensor:
        """Compute the gradient of a minibatch in one or several passes. Returns its logs.

        Args:
            batch: the minibatch, or this process's part of it.
            add_gradients: of a batch.
            whole: valid rows of the minibatch of all processes; None for those of `batch`.
        """
        self.optimizer.zero_grad()
        total = batch.valid.shape[1]
        passes = max(1, min(self._passes, total))
        if whole is None and passes == 1:
            return add_gradients(batch, 1.0)
        whole = int(batch.valid.sum()) if whole is None else whole
        logs = torch.zeros((), device=batch.advantage.device)
        for columns in torch.arange(total, device=logs.device).tensor_split(passes):
            part = batch.take(columns) if passes > 1 else batch
            share = int(part.valid.sum()) / whole
            if share > 0:  # else other processes have all rows of this minibatch
                logs = logs + share * add_gradients(part, share)
        return logs if logs.dim() else logs.expand(len(LOGS))

    def _add_auxiliary_gradients(self, auxiliary: Auxiliary, batch: Batch, factor: float) -> Tensor:
        """Add the gradients of an auxiliary's loss of a minibatch that it yielded."""
        loss = auxiliary.loss(self.policy, batch)
        assert loss is not None, (
            f"{type(auxiliary).__name__} returned no loss for its own minibatch"
        )
        (factor * loss).backward()
        return loss.detach()[None]

    def _add_gradients(
        self, batch: Batch, factor: float, live: Tensor, entropy_coef: float
    ) -> Tensor:
        """Add the gradients of a batch's loss, without autograd if possible. Returns its logs."""
        rows, scale = _valid_rows(batch), self.policy.value_scale
        data = Rows(
            action=rows(batch.action),
            log_prob=rows(batch.log_prob),
            advantage=rows(batch.advantage),
            target=rows(batch.target) / scale,
            old_value=rows(batch.value) / scale,
            live=live,
            clip_range=self.clip_range,
            clip_range_vf=self.clip_range_vf,
            value_coef=self.value_coef,
            entropy_coef=entropy_coef,
        )
        on_cpu = batch.advantage.device.type == "cpu"
        alone = on_cpu and not self.auxiliaries.adding_to_loss
        by_hand = self.policy.vjp(batch.obs) if alone else None
        if by_hand is not None:
            logits, value, add_gradients = by_hand
            logs, by_logits, by_value = categorical_gradient(logits, value / scale, data)
            add_gradients(factor * by_logits, factor * by_value / scale)
            return logs
        out = self.policy(batch.obs, batch.state, batch.is_first)
        value = rows(out.value) / scale
        if isinstance(out.dist, Categorical) and on_cpu:
            loss, logs = categorical_loss(rows(out.dist.logits), value, data)
        else:
            log_prob, entropy = out.dist.log_prob(batch.action), out.dist.entropy()
            loss, logs = plain_loss(rows(log_prob), rows(entropy), value, data)
        extra = self.auxiliaries.loss(self.policy, batch)
        if extra is not None:
            loss = loss + extra
            logs[LOGS.index("loss")] = loss.detach()
        (factor * loss).backward()
        return logs

    @torch.no_grad()
    def _batch(self, rollout: Rollout, rewards: Rewards) -> Batch:
        """Arrange the rollout as single steps [1, T*N] with advantages and value targets.

        Under a policy with a memory it is cut into sequences [L, B], each with its state.
        """
        T = rollout.num_steps
        if rollout.state:
            self.check_sizes(T, rollout.num_envs)
        estimates = self._estimate(rollout, rewards)
        advantage = rewards.advantage(estimates.advantage, rollout.valid)  # [T, N, K] -> [T, N]
        target = estimates.target
        self.policy.observe_returns(rewards.reward[rollout.valid], target[rollout.valid])
        past = map_obs(lambda field: field[:T], rollout.obs)
        forward = partial(self.policy, past, rollout.state, rollout.is_first[:T])
        for extra in self.auxiliaries.advantages(rollout, forward):
            advantage = advantage + extra
        if estimates.weight is not None:
            advantage = advantage * estimates.weight
        prepared = self.policy.prepare(past)

        def rows(field: Tensor) -> Tensor:  # [T, N, ...] -> [1, T*N, ...]
            return field if rollout.state else field.flatten(0, 1)[None]

        batch = Batch(
            obs=map_obs(rows, past | prepared if self.auxiliaries else prepared),
            state=rollout.state,
            is_first=rows(rollout.is_first[:T]),
            action=rows(rollout.action),
            log_prob=rows(estimates.log_prob),
            value=rows(estimates.value),
            advantage=rows(advantage),
            target=rows(target),
            valid=rows(self._used(rollout)),
            rows=rows(torch.arange(rollout.valid.numel(), device=rollout.device).view(T, -1)),
        )
        if not rollout.state or self.sequence_length is None:
            return batch
        assert rollout.states is not None, "the rollout has no states: Runner(keep_states=True)"
        return cut_sequences(batch, rollout.states, self.sequence_length, self.burn_in)

    def _estimate(self, rollout: Rollout, rewards: Rewards) -> Estimates:
        """Estimate advantages by `gae`, from the values of the policy that acted."""
        value = rollout.value[:-1]
        next_value = successor_values(
            rollout, rollout.value, final_value(self.policy, rollout), rewards.carry
        )
        advantages = gae(
            rewards.reward,
            value,
            next_value,
            rewards.discount,
            rewards.carry,
            rollout.valid,
            self.gae_lambda,
        )
        return Estimates(value, advantages + value, advantages, rollout.log_prob)

    def _used(self, rollout: Rollout) -> Tensor:
        """Return which rows [T, N] enter the loss: the valid ones."""
        return rollout.valid


def _valid_rows(batch: Batch) -> Callable[[Tensor], Tensor]:
    """Return a function that selects the valid rows of a field of `batch`: [L, B, ...] to [R, ...].

    Single steps [1, B] are all valid: `minibatches` leaves the others out.
    """
    if len(batch.valid) == 1:
        return lambda field: field.flatten(0, 1)
    return lambda field: field[batch.valid]


def _check_logs(table: Tensor, names: Sequence[str] = _LOGS) -> None:
    """Raise NonFiniteError if a loss or gradient among the logs [steps, logs] is not finite."""
    bad = ~torch.isfinite(table)
    bad[:, [names.index(name) for name in ("approx_kl", "clipfrac") if name in names]] = False
    if bad.any():
        step, column = bad.nonzero()[0].tolist()
        raise NonFiniteError(
            f"{names[column]} is {table[step, column].item()} in gradient step {step}"
        )
