"""What must be finite on its way from the environments to an update."""

from __future__ import annotations

import torch
from torch import Tensor

from firstlight.envs.types import Rollout


class NonFiniteError(ArithmeticError):
    """Something is NaN or infinite; the message begins with what. Nothing has learnt from it."""


def tamed(field: Tensor) -> Tensor:
    """What an actor sees of `field`: 0 for what is not finite, which no memory must keep."""
    return torch.nan_to_num(field, 0.0, 0.0, 0.0) if field.is_floating_point() else field


def check_finite(name: str, values: Tensor, at: Tensor | None = None) -> None:
    """Refuse values that are not all finite. Integers always are.

    Args:
        name: of what they are.
        values: [T, N, ...], or [D, ...] with `at`.
        at: [D, 2] int64, (t, n) of each.

    Raises:
        NonFiniteError: naming the first of them, its environment and its row.
    """
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    bad = (~torch.isfinite(values)).nonzero()[0].tolist()
    t, n = bad[:2] if at is None else at[bad[0]].tolist()
    value = values[tuple(bad)].item()
    raise NonFiniteError(f"{name} of environment {n} is {value} at row {t} of the rollout")


def check_rollout(rollout: Rollout) -> None:
    """Refuse a rollout that holds an observation or a reward that is not finite.

    Raises:
        NonFiniteError: naming the first field and where.
    """
    for name, field in rollout.obs.items():
        check_finite(f"observation {name!r}", field)
    for name, field in rollout.final_obs.items():
        check_finite(f"last observation {name!r}", field, rollout.final_at)
    check_finite("reward", torch.where(rollout.valid, rollout.reward, 0.0))
