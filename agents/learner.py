"""Base classes of learners and of their auxiliaries, and minibatches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.agents.policy import Policy, PolicyOutput
from firstlight.envs.types import Obs, Rollout, State, map_obs, take
from firstlight.intrinsic.mixer import Rewards, Schedule
from firstlight.networks import collective


class Learner(ABC):
    """Base class of algorithms that update a policy from a rollout and its reward streams.

    A trainer copies `state_dict` before each update and restores it if the update raises
    `NonFiniteError`, runs out of memory, or leaves a number in the state that is not finite.

    Attributes:
        policy: updated in place.
        reads_states: whether rollouts must hold `Rollout.states`.
        many_processes: whether several processes may update at once, each from its own rollout, and
            all end with the same policy (docs/distributed.md).
    """

    policy: Policy
    reads_states: bool = False
    many_processes: bool = False

    def check_sizes(self, num_steps: int, num_envs: int) -> None:
        """Check that the learner can train on rollouts of this size.

        Args:
            num_steps: `T` of a rollout.
            num_envs: `N` of a rollout, in this process.

        Raises:
            ValueError: if it cannot; the message names the option to change.
        """
        return  # any size

    @abstractmethod
    def update(self, rollout: Rollout, rewards: Rewards, progress: float) -> dict[str, float]:
        """Update the policy from one rollout.

        Args:
            rollout: collected by this policy.
            rewards: of the same steps.
            progress: of training, in [0, 1].

        Returns:
            Scalars to log.

        Raises:
            NonFiniteError: for a loss or a gradient that is not finite.
        """

    def gradient_steps(self, num_steps: int, num_envs: int) -> int | None:
        """Return how many gradient steps an update takes; None if that is not known before.

        A rollout with very few valid rows may take fewer.

        Args:
            num_steps: `T` of the rollout.
            num_envs: `N` of the rollout, in this process.
        """
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that the next update depends on; the policy's state is under "policy"."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps to train on: `B` single steps as [1, B], or `B` sequences of length L as [L, B].

    Args:
        obs: [L, B, ...].
        state: [B, ...] before the first step.
        is_first: [L, B] bool.
        action: [L, B, *action].
        log_prob: [L, B].
        value: [L, B, K].
        advantage: [L, B].
        target: [L, B, K].
        valid: [L, B] bool.
        rows: [L, B] int64, index ``t * N + n`` of each step in the rollout; None for a batch that
            does not come from one.
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

    def take(self, columns: Tensor) -> Batch:
        """Select single steps of [1, B], or sequences of [L, B], by `columns` [*] int64."""

        def chosen(field: Tensor) -> Tensor:
            return field.index_select(1, columns)

        return Batch(
            obs=take(self.obs, columns, dim=1),
            state=take(self.state, columns),
            is_first=chosen(self.is_first),
            action=chosen(self.action),
            log_prob=chosen(self.log_prob),
            value=chosen(self.value),
            advantage=chosen(self.advantage),
            target=chosen(self.target),
            valid=chosen(self.valid),
            rows=None if self.rows is None else chosen(self.rows),
        )


class Auxiliary(nn.Module):
    """Base class of additional losses and advantages of a learner: cloning, prediction heads, ...

    Everything here has a default that does nothing. In each update a learner calls `observe`, then
    `advantage`, `loss` for each minibatch, `batches`, and `metrics`. Parameters go to the learner's
    optimiser, the state is saved with the learner's, and the module is moved to the policy's
    device.

    Attributes:
        adds_advantage: whether `advantage` is called, which takes a forward pass.
        brings_batches: whether `batches` yields minibatches. `loss` is then called for those only,
            not for the rollout's.
    """

    adds_advantage: bool = False
    brings_batches: bool = False

    def check_policy(self, policy: Policy) -> None:
        """Raise ValueError for a policy that this auxiliary cannot train."""

    def observe(self, rollout: Rollout, progress: float) -> None:
        """Process a rollout before the policy is updated; `progress` of training is in [0, 1]."""

    def advantage(self, rollout: Rollout, out: PolicyOutput) -> Tensor | None:
        """Return [T, N] to add to the advantage before it is normalised, or None.

        Args:
            rollout: the one that was observed.
            out: of the policy over its T steps.
        """
        return None

    def loss(self, policy: Policy, batch: Batch) -> Tensor | None:
        """Return a scalar to add to the loss of a minibatch, a mean over its rows, or None.

        A minibatch that does not fit in memory is processed in parts, each weighted by its size.
        So what a row adds to the mean must not depend on the other rows.
        """
        return None

    def batches(self) -> Iterable[Batch]:
        """Yield further minibatches, each for a gradient step on `loss` after the rollout's."""
        return ()

    def metrics(self) -> dict[str, float]:
        """Return scalars of this update to log, under their full tags."""
        return {}


def minibatches(
    batch: Batch, size: int, generator: torch.Generator, steps: int | None = None
) -> Iterator[Batch]:
    """Split `batch` into random minibatches of about `size` steps.

    Their number follows from the shape of the batch and `size`, not from how many rows are valid.
    It is smaller only where a minibatch would have fewer than two valid rows. Single steps [1, B]
    are split by row, without those that are not valid; sequences [L, B] by column. Sizes differ by
    at most one.

    Every process of a run gets equally many. The minibatch of a gradient step is that of all
    processes together, of which each draws a part, perhaps an empty one, from its own batch.

    Args:
        batch: of a rollout, of the same shape in every process.
        size: steps of a minibatch, about, of all processes.
        generator: draws the order.
        steps: of the batch, for their number; default all. Fewer if some only warm up a state.
    """
    L, B = batch.valid.shape
    columns = batch.valid[0].nonzero()[:, 0] if L == 1 else torch.arange(B).to(batch.valid.device)
    steps = (L * B if steps is None else steps) * collective.size()
    number = num_minibatches(L, B, size, collective.total(len(columns)), steps)
    order = columns[torch.randperm(len(columns), generator=generator).to(columns.device)]
    for part in order.tensor_split(number):
        yield batch.take(part)


def num_minibatches(
    L: int, B: int, size: int, columns: int | None = None, steps: int | None = None
) -> int:
    """Return how many minibatches `minibatches` makes of a batch [L, B].

    Args:
        L: length of its sequences, 1 for single steps.
        B: number of sequences.
        size: steps of a minibatch, about.
        columns: how many of the sequences are used; default all.
        steps: see `minibatches`.
    """
    columns = B if columns is None else columns
    fewest = min(size, 2)  # valid rows of a minibatch
    steps = L * B if steps is None else steps
    return max(1, min(round(steps / size), columns * L // fewest, columns))


def check_learner(learner: Any, num_steps: int, num_envs: int) -> bool:
    """Check the sizes of rollouts; return whether they must hold `Rollout.states`.

    Args:
        learner: any object; if it is not a `Learner`, all sizes are accepted.
        num_steps: `T`.
        num_envs: `N`.

    Raises:
        ValueError: see `Learner.check_sizes`, and for a learner that is not for several processes.
    """
    ours = isinstance(learner, Learner)
    if collective.size() > 1 and not (ours and learner.many_processes):
        raise ValueError(
            f"{type(learner).__name__} learns in one process, and this run has "
            f"{collective.size()}: use PPO or APPO, or one process with more environments"
        )
    if not ours:
        return False
    learner.check_sizes(num_steps, num_envs)
    return learner.reads_states


def default_num_steps(num_envs: int, each: int = 128) -> int:
    """Return the steps of a rollout for a number of environments.

    `each`, but a rollout has at least 2,048 steps, of which few environments make more each, and
    where possible at most 16,384.

    >>> [default_num_steps(num_envs) for num_envs in (1, 16, 64, 1024)]
    [2048, 128, 128, 16]
    """
    rows = min(max(each * num_envs, 2048), 16384)
    return max(rows // num_envs, 16)


def final_value(policy: Policy, rollout: Rollout) -> Tensor:
    """Compute the values [D, K] of the last observations that autoreset replaced."""
    D = len(rollout.final_at)
    if D == 0:
        return rollout.value[0, :0]
    obs = map_obs(lambda field: field[None], rollout.final_obs)
    first = torch.zeros((1, D), dtype=torch.bool, device=rollout.device)
    return policy(obs, rollout.final_state, first).value[0]


def resolve_schedule(value: float | Schedule, progress: float) -> float:
    """Evaluate a setting that is a number or a schedule over training progress.

    >>> resolve_schedule(3.0, 0.5), resolve_schedule(lambda progress: 1 - progress, 0.25)
    (3.0, 0.75)
    """
    return value(progress) if callable(value) else value
