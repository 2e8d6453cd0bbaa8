"""`CallableSetFunction`, a set function defined by a plain Python function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from firstlight.intrinsic.submodular.base import SetFunction

_START = 16


class CallableSetFunction(SetFunction):
    """Wraps a plain function of a list of items as a `SetFunction`; simple, but slow.

    ``function([])`` need not be 0. It is called twice per item, with all items of the episode so
    far in their order, repeats included. Where that is too slow, write a `SetFunction` with its own
    `marginal`; `check_set_function` checks that a function is submodular.

    Args:
        function: maps a list of items to a number. An item is a number, or a tuple of numbers
            (nested, if items have several axes).
        item_shape: of an item; default a single number.
        floats: whether items are float64, else int64.

    >>> def pairs(cells):
    ...     return float(len({cell // 2 for cell in cells}))
    >>> CallableSetFunction(pairs).value([torch.tensor([0, 1, 5])])
    tensor([2.], dtype=torch.float64)
    """

    items: Tensor
    count: Tensor

    def __init__(
        self,
        function: Callable[[list[Any]], float],
        *,
        item_shape: tuple[int, ...] = (),
        floats: bool = False,
    ):
        super().__init__()
        self.function, self.item_shape = function, tuple(item_shape)
        self.item_dtype = torch.float64 if floats else torch.int64
        self.register_rows("items", (_START, *self.item_shape), self.item_dtype)
        self.register_rows("count", (), torch.int64)

    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """See `SetFunction.marginal`."""
        gain = torch.zeros(len(rows), dtype=torch.float64)
        for m, row in enumerate(rows.tolist()):
            have = [plain(item) for item in self.items[row, : int(self.count[row])]]
            gain[m] = self.function([*have, plain(items[m])]) - self.function(have)
        if write:
            count = self.count[rows]
            if len(rows) and int(count.max()) == self.items.shape[1]:
                self.items = torch.cat([self.items, torch.zeros_like(self.items)], 1)
            self.items[rows, count] = items
            self.count[rows] = count + 1
        return gain


def plain(item: Tensor) -> Any:
    """Convert an item [*item] to a number, or to (nested) tuples of numbers, which are hashable."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return frozen(item.tolist())
