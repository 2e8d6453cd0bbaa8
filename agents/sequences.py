"""Cut rollouts into shorter sequences, for policies with a memory."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from firstlight.agents.learner import Batch
from firstlight.envs.types import State, map_obs


def check_sequences(num_steps: int, length: int | None, burn_in: int, minibatch_size: int) -> None:
    """Check that minibatches of `minibatch_size` steps can hold whole sequences.

    Args:
        num_steps: `T` of the rollout.
        length: see `cut_sequences`; None for the whole rollout.
        burn_in: see `cut_sequences`.
        minibatch_size: steps of a minibatch that enter the loss, about.

    Raises:
        ValueError: if they cannot, or if the sequences do not add up to the rollout.
    """
    if length is not None and length + burn_in < num_steps and (num_steps - burn_in) % length:
        less = f" less a burn_in of {burn_in}" if burn_in else ""
        raise ValueError(
            f"sequence_length is {length}, expected a divisor of the {num_steps} steps of a "
            f"rollout{less}"
        )
    longest = num_steps if length is None else min(length, num_steps)
    if minibatch_size < longest:
        raise ValueError(
            f"minibatch_size is {minibatch_size}, which would cut the sequences of {longest} steps "
            "of a policy with a memory: set it to that or more, or sequence_length to less"
        )


def num_sequences(num_steps: int, length: int | None, burn_in: int) -> int:
    """Return how many sequences `cut_sequences` makes of each column of a rollout."""
    return 1 if length is None else max(1, (num_steps - burn_in) // length)


def cut_sequences(batch: Batch, states: State, length: int, burn_in: int) -> Batch:
    """Cut a batch [T, N] into sequences [L, S * N], of which the first steps may only warm up.

    Sequence s begins at step ``s * length`` with the state that the policy had there when it acted.
    The first `burn_in` steps of every sequence but the first are rows of the sequence before: they
    are not valid here, so each row of the rollout enters the loss once. They bring the state up to
    date with parameters that have changed since (Kapturowski et al. 2019), and gradients of later
    steps pass through them.

    Args:
        batch: of a rollout, [T, N].
        states: [T, N, ...] before each step.
        length: steps of a sequence that enter the loss.
        burn_in: steps before those; the first sequence has no such steps, and trains on
            ``burn_in + length``.
    """
    T = len(batch.valid)
    number, span = num_sequences(T, length, burn_in), min(length + burn_in, T)
    device = batch.valid.device
    start = torch.arange(number, device=device) * length  # [S]
    offset = torch.arange(span, device=device)[:, None]
    steps = start + offset  # [L, S]
    fresh = (offset >= burn_in) | (start == 0)

    def cut(field: Tensor) -> Tensor:  # [T, N, ...] -> [L, S * N, ...]
        return field[steps].flatten(1, 2)

    fields = ("is_first", "action", "log_prob", "value", "advantage", "target", "rows")
    changed = {name: cut(getattr(batch, name)) for name in fields}
    return dataclasses.replace(
        batch,
        **changed,
        obs=map_obs(cut, batch.obs),
        state=map_obs(lambda field: field[start].flatten(0, 1), states),
        valid=(batch.valid[steps] & fresh[..., None]).flatten(1, 2),
    )
