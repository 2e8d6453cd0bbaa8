"""Checks that observations and rewards are finite."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.envs.types import Rollout


class NonFiniteError(ArithmeticError):
    """A value is NaN or infinite; the message names it. No update has used it."""


def nan_to_zero(field: Tensor) -> Tensor:
    """Replace NaN and infinity by 0, so that no recurrent state of an actor contains them."""
    return torch.nan_to_num(field, 0.0, 0.0, 0.0) if field.is_floating_point() else field


def check_finite(name: str, values: Tensor, at: Tensor | None = None) -> None:
    """Raise if a value is not finite. Integers always are.

    Args:
        name: of the values, for the message.
        values: [T, N, ...], or [D, ...] with `at`.
        at: [D, 2] int64, (t, n) of each.

    Raises:
        NonFiniteError: names the first such value, its environment and its row.
    """
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    bad = (~torch.isfinite(values)).nonzero()[0].tolist()
    t, n = bad[:2] if at is None else at[bad[0]].tolist()
    value = values[tuple(bad)].item()
    raise NonFiniteError(f"{name} of environment {n} is {value} at row {t} of the rollout")


def check_rollout(rollout: Rollout) -> None:
    """Raise if an observation or a reward of a rollout is not finite.

    Raises:
        NonFiniteError: names the first such field, its environment and its row.
    """
    for name, field in rollout.obs.items():
        check_finite(f"observation {name!r}", field)
    for name, field in rollout.final_obs.items():
        check_finite(f"last observation {name!r}", field, rollout.final_at)
    check_finite("reward", torch.where(rollout.valid, rollout.reward, 0.0))
