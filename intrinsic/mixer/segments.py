"""Vectorised look-back along episodes: the previous row, cumulative sums, the next row.

Rows that are not valid are skipped, and nothing crosses the start of an episode.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.networks import collective


def previous(x: Tensor, rollout: Rollout, carry: Tensor) -> Tensor:
    """Value of the valid row before each row of its episode; 0 if there is none.

    Args:
        x: [T, N] of any dtype.
        rollout: of the same steps.
        carry: [N] of the same dtype; last row of this function's result for the previous rollout.

    Returns:
        [T+1, N]; the last row is for the step after the rollout.
    """
    count = torch.arange(1, len(x) + 1, device=x.device)[:, None]
    last = torch.where(rollout.valid, count, 0).cummax(0).values  # 0 is before the rollout
    last = F.pad(last, (0, 0, 1, 0))  # [T, N] -> [T+1, N]
    found = torch.cat([carry[None], x]).gather(0, last)
    return torch.where(last < _opening(rollout), torch.zeros_like(found), found)


def sums(x: Tensor, rollout: Rollout, carry: Tensor) -> Tensor:
    """Sum over the valid rows before each row of its episode.

    Args:
        x: [T, N].
        rollout: of the same steps.
        carry: [N] float64; last row of this function's result for the previous rollout.

    Returns:
        [T+1, N] float64; the last row is for the step after the rollout.
    """
    total = torch.where(rollout.valid, x.double(), 0.0).cumsum(0)
    total = F.pad(total, (0, 0, 1, 0))  # [T, N] -> [T+1, N], before each row
    return total - torch.cat([-carry[None], total]).gather(0, _opening(rollout))


def following(x: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Value of the next valid row, whichever episode it belongs to.

    Args:
        x: [T, N] of any dtype.
        rollout: of the same steps.

    Returns:
        [T, N] those values, 0 where no valid row follows; and [T, N] bool, whether one does.
    """
    T = len(x)
    row = torch.arange(T, device=x.device)[:, None]
    here = torch.where(rollout.valid, row, T).flip(0).cummin(0).values.flip(0)
    after = F.pad(here[1:], (0, 0, 0, 1), value=T)
    return F.pad(x, (0, 0, 0, 1)).gather(0, after), after < T


def mean(x: Tensor, rollout: Rollout) -> Tensor:
    """Mean [] of `x` [T, N] over valid rows, of all processes; 0 if there are none."""
    added = collective.sum(torch.where(rollout.valid, x, 0.0).sum())
    return added / collective.sum(rollout.valid.sum()).clamp(min=1)


def _opening(rollout: Rollout) -> Tensor:
    """[T+1, N] int64, 1 + the first row of each row's episode; 0 if it is in an earlier rollout."""
    count = torch.arange(1, len(rollout.is_first) + 1, device=rollout.device)[:, None]
    return torch.where(rollout.is_first, count, 0).cummax(0).values
