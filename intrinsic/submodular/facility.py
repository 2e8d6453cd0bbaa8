"""`FacilityLocation`, how well a set represents all clients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from firstlight.intrinsic.submodular.base import SetFunction, as_table, as_weights, checked_index


class FacilityLocation(SetFunction):
    """``F(S) = sum over clients i of w_i * max over j in S of similarity(i, j)``.

    An item is the number of a facility. F is high if every client is similar to some item in S, so
    that S represents all clients.

    Args:
        similarity: [I, J] of I clients and J facilities, at least 0.
        weights: [I], at least 0; default 1 each.

    Raises:
        ValueError: if the shapes do not match, or for negative numbers.

    >>> import torch
    >>> shops = FacilityLocation([[1.0, 0.5], [0.0, 2.0]])
    >>> shops.value([torch.tensor([0]), torch.tensor([0, 1])])
    tensor([1., 3.], dtype=torch.float64)
    """

    best: Tensor

    def __init__(
        self,
        similarity: Sequence[Sequence[float]] | Tensor,
        *,
        weights: Sequence[float] | Tensor | None = None,
    ):
        super().__init__()
        self.similarity = as_table(similarity, "similarity", 2)
        clients, self.num_facilities = self.similarity.shape
        self.weights = as_weights(weights, clients, "clients")
        self.register_rows("best", (clients,))

    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """See `SetFunction.marginal`."""
        facilities = checked_index(items, self.num_facilities, "facility")
        before = self.best[rows]
        after = before.maximum(self.similarity.T[facilities])  # [M, I]
        if write:
            self.best[rows] = after
        return (after - before) @ self.weights
