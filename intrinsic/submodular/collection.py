"""`Collection`, items of several kinds with a limit for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from firstlight.intrinsic.submodular.base import SetFunction, as_table, checked_index


class Collection(SetFunction):
    """``F(S) = sum over groups i of min(|S ∩ G_i|, d_i)``: up to d_i items of each group.

    An item is the number of a place and counts once, however often it is repeated. This is the item
    collection of Submodular RL (Prajapat et al. 2024), and with ``d_i = 1`` its group Steiner tour.

    Args:
        groups: [G, P], 1 (or True) if a place belongs to a group, else 0; fractions count as such.
        limits: [G], the d_i.

    Raises:
        ValueError: if the shapes do not match, or for negative numbers.

    >>> berries = Collection([[1, 1, 1, 0], [0, 0, 0, 1]], limits=[2, 1])
    >>> berries.value([torch.tensor([0, 1, 2]), torch.tensor([0, 0, 3])])
    tensor([2., 2.], dtype=torch.float64)
    """

    collected: Tensor
    amounts: Tensor

    def __init__(
        self, groups: Sequence[Sequence[float]] | Tensor, limits: Sequence[float] | Tensor
    ):
        super().__init__()
        self.groups = as_table(groups, "groups", 2)
        self.limits = as_table(limits, "limits", 1)
        if len(self.limits) != len(self.groups):
            raise ValueError(f"there are {len(self.limits)} limits for {len(self.groups)} groups")
        self.register_rows("collected", (self.groups.shape[1],), torch.bool)
        self.register_rows("amounts", (len(self.groups),))

    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """See `SetFunction.marginal`."""
        places = checked_index(items, self.groups.shape[1], "place")
        fresh = ~self.collected[rows, places]
        before = self.amounts[rows]
        after = before + self.groups[:, places].T * fresh[:, None]  # [M, G]
        if write:
            self.collected[rows, places] = True
            self.amounts[rows] = after
        return (after.minimum(self.limits) - before.minimum(self.limits)).sum(1)
