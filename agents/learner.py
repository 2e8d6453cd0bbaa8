"""What learns: the protocols that a trainer relies on, and minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from firstlight.agents.policy import Policy
from firstlight.envs.types import Obs, Rollout, State, map_obs, take
from firstlight.intrinsic.mixer import Rewards, Schedule


class Learner(Protocol):
    """Turns reward streams into an update of its policy."""

    policy: Policy

    def update(self, rollout: Rollout, rewards: Rewards, progress: float) -> dict[str, float]:
        """Learn from a rollout once. Returns scalars to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on; holds the policy's under "policy"."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state back."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to learn from: `B` single steps seen as [1, B], or `B` sequences of length L as [L, B].

    Args:
        obs: [L, B, ...].
        state: [B, ...] before the first step.
        is_first: [L, B] bool.
        action: [L, B] or [L, B, A].
        log_prob: [L, B].
        value: [L, B, K].
        advantage: [L, B].
        target: [L, B, K].
        valid: [L, B] bool.
        rows: [L, B] int64, the place of each in the rollout, ``t * N + n``; None if of none.
    """

    obs: Obs
    state: State
    is_first: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor
    valid: Tensor
    rows: Tensor | None = None

    def take(self, rows: Tensor) -> Batch:
        """Those of single steps [1, B] that `rows` [*] int64 names."""

        def chosen(field: Tensor) -> Tensor:
            return field.index_select(1, rows)

        return Batch(
            obs=take(self.obs, rows, dim=1),
            state={},
            is_first=chosen(self.is_first),
            action=chosen(self.action),
            log_prob=chosen(self.log_prob),
            value=chosen(self.value),
            advantage=chosen(self.advantage),
            target=chosen(self.target),
            valid=chosen(self.valid),
            rows=None if self.rows is None else chosen(self.rows),
        )


class Auxiliary(Protocol):
    """What is neither a reward nor the algorithm: cloning, an adversary, further heads.

    A learner needs only `loss`. Of the following it calls what an auxiliary has, in this order::

        def parameters(self) -> Iterable[nn.Parameter]      # once: for the learner's optimiser
        def observe(self, rollout, progress) -> None        # a rollout, before it is learnt from
        def advantage(self, rollout, out) -> Tensor | None  # [T, N] to add before normalising
        def batches(self) -> Iterator[Batch]                # minibatches of its own, see below
        def metrics(self) -> dict[str, float]               # scalars to log, under their full tags
        def state_dict(self) -> Any                         # saved with the learner's
        def load_state_dict(self, state) -> None

    Its `loss` is added to that of each minibatch of the rollout. One that has `batches` brings
    minibatches itself: each is a gradient step on its loss alone, after those on the rollout, and
    the rollout's own are not shown to it. Modules (`nn.Module`) are moved to the policy's device.
    """

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Scalar, a mean over the batch's rows, or None.

        If memory is short a minibatch goes through in parts, each with its share of the weight. So
        a row's part in the mean must not depend on which other rows are there.
        """
        ...


def minibatches(batch: Batch, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Valid rows of `batch` ([1, B]) in a fresh random order, in parts of about `size` rows.

    The parts differ by one row at most, so that no tiny rest is normalised on its own.
    """
    rows = batch.valid[0].nonzero()[:, 0]
    order = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    for part in order.tensor_split(max(1, round(len(rows) / size))):
        yield batch.take(part)


def final_value(policy: Policy, rollout: Rollout) -> Tensor:
    """[D, K] value of the observations that autoreset hid."""
    D = len(rollout.final_at)
    if D == 0:
        return rollout.value[0, :0]
    obs = map_obs(lambda field: field[None], rollout.final_obs)
    first = torch.zeros((1, D), dtype=torch.bool, device=rollout.device)
    return policy(obs, rollout.final_state, first).value[0]


def at(value: float | Schedule, progress: float) -> float:
    """A setting that may be a schedule, at this progress of training."""
    return value(progress) if callable(value) else value
