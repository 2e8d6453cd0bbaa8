"""`RegionEntropy`, entropy of the visits to regions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from firstlight.intrinsic.submodular.base import SetFunction, checked_index


class RegionEntropy(SetFunction):
    """``F(S) = sum over regions i of h(n_i / horizon)``, ``h(p) = -p log p``, in nats.

    An item is the number of a region; each visit counts. After exactly `horizon` visits F is the
    entropy of their distribution, at most ``log(num_regions)``. The entropy of the visits *so far*
    is not submodular; with a fixed horizon it is, because h is concave.

    h falls once a region has more than 1/e of all visits, so F is submodular but not monotone:
    further visits have a negative gain. With `held` h stays at its maximum, 1/e, from there on, and
    F is monotone.

    Args:
        num_regions: number of regions.
        horizon: number of visits per episode.
        held: see above.

    Raises:
        ValueError: for numbers below 1.

    >>> visits = RegionEntropy(2, horizon=4)
    >>> visits.value([torch.tensor([0, 1, 0, 1])]).exp()
    tensor([2.], dtype=torch.float64)
    """

    visits: Tensor

    def __init__(self, num_regions: int, *, horizon: int, held: bool = False):
        super().__init__()
        if num_regions < 1 or horizon < 1:
            raise ValueError(
                f"num_regions is {num_regions} and horizon is {horizon}, expected at least 1"
            )
        self.num_regions, self.horizon, self.held = num_regions, horizon, held
        self.register_rows("visits", (num_regions,))

    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """See `SetFunction.marginal`."""
        regions = checked_index(items, self.num_regions, "region")
        before = self.visits[rows, regions]
        if write:
            self.visits[rows, regions] = before + 1
        return self._h(before + 1) - self._h(before)

    def _h(self, visits: Tensor) -> Tensor:
        p = visits / self.horizon
        p = p.clamp(max=math.exp(-1)) if self.held else p
        return -torch.xlogy(p, p)
