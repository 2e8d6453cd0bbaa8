"""`SetFunction`, the interface of set functions: one growing set per environment."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from firstlight.intrinsic.state import GrowingBuffers, grow_rows


class SetFunction(GrowingBuffers, ABC):
    """A set function F with one set per environment that grows item by item.

    Subclasses implement `marginal`, the gain ``F(S + item) - F(S)``, from a few numbers per
    environment. They declare these numbers by `register_rows` and their items by `item_shape` and
    `item_dtype`. All state is on the CPU, in float64 so that long sums of gains stay exact; items
    on another device are copied.

    Whether a repeated item counts again depends on the function.

    Attributes:
        item_shape: of one item.
        item_dtype: items are cast to it.
        total: [E] float64, ``F(S) - F(empty set)`` by environment.
    """

    on_host = True
    item_shape: tuple[int, ...] = ()
    item_dtype: torch.dtype = torch.int64
    total: Tensor
    _row_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.register_rows("total", ())

    @abstractmethod
    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """Compute the gain of adding `items` [M, *item] to the sets of `rows` [M]: [M] float64.

        Called only by this base class. With `write` the items are added to the sets, otherwise
        nothing changes. `rows` is int64 without repeats.
        """

    def gain(self, items: Tensor, env_ids: Tensor) -> Tensor:
        """Compute what each item would add to its environment's set; nothing changes.

        Args:
            items: [M, *item].
            env_ids: [M] int64, all different.

        Returns:
            [M] float64.
        """
        return self._checked_gain(items, env_ids, write=False)

    def add(self, items: Tensor, env_ids: Tensor) -> Tensor:
        """Add items [M, *item] to the sets of `env_ids` [M] int64, all different.

        Returns:
            [M] float64, the gain of each.
        """
        gain = self._checked_gain(items, env_ids, write=True)
        self.total[env_ids.cpu()] += gain
        return gain

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Empty the sets of `env_ids` [M] int64, or all."""
        if env_ids is None:
            for name in self._row_names:
                setattr(self, name, getattr(self, name)[:0])
            return
        ids = env_ids.cpu()
        self._grow_environments(ids)
        for name in self._row_names:
            getattr(self, name)[ids] = 0

    def value(self, sets: Sequence[Tensor]) -> Tensor:
        """Compute ``F(S) - F(empty set)`` of whole sets; the environments' sets do not change.

        Args:
            sets: `S` sets, each [L, *item], of any lengths.

        Returns:
            [S] float64.
        """
        scratch = copy.deepcopy(self)
        scratch.reset()
        scratch._grow_environments(torch.arange(len(sets)))
        for place in range(max(map(len, sets), default=0)):
            rows = [row for row, items in enumerate(sets) if place < len(items)]
            scratch.add(torch.stack([sets[row][place] for row in rows]), torch.tensor(rows))
        return scratch.total.clone()

    def register_rows(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
    ) -> None:
        """Register the buffer `name` [E, *shape], with zeros for the empty set."""
        self.register_buffer(name, torch.zeros((0, *shape), dtype=dtype))
        self._row_names = (*self._row_names, name)

    def _grow_environments(self, ids: Tensor) -> None:
        """Add empty sets until every environment in `ids` has one."""
        if len(ids) and int(ids.max()) >= len(self.total):
            for name in self._row_names:
                setattr(self, name, grow_rows(getattr(self, name), ids))

    def _checked_gain(self, items: Tensor, env_ids: Tensor, write: bool) -> Tensor:
        if tuple(items.shape) != (len(env_ids), *self.item_shape):
            raise ValueError(
                f"{type(self).__name__} takes items of shape {self.item_shape}, one for each of "
                f"{len(env_ids)} environments, not {tuple(items.shape)}"
            )
        ids = env_ids.cpu()
        if len({*ids.tolist()}) < len(ids):
            raise ValueError(f"env_ids {ids.tolist()} has duplicates: add these items one by one")
        self._grow_environments(ids)
        return self.marginal(items.cpu().to(self.item_dtype), ids, write)


def checked_index(items: Tensor, count: int, what: str) -> Tensor:
    """Return `items` [M] int64 if they are in 0 to ``count - 1``, else raise ValueError."""
    if len(items) and not 0 <= int(items.min()) <= int(items.max()) < count:
        bad = items[(items < 0) | (items >= count)][0].item()
        raise ValueError(f"there is no {what} {bad}: they are numbered 0 to {count - 1}")
    return items


def as_table(values: object, name: str, dim: int, *, signed: bool = False) -> Tensor:
    """Convert `values` to a float64 tensor of `dim` axes.

    Raises:
        ValueError: for another number of axes, numbers that are not finite, or negative ones unless
            `signed`.
    """
    table = torch.as_tensor(values, dtype=torch.float64).cpu()
    if table.dim() != dim or not table.numel():
        raise ValueError(f"{name} has shape {tuple(table.shape)}, expected {dim} non-empty axes")
    if not table.isfinite().all() or (not signed and bool((table < 0).any())):
        raise ValueError(f"{name} must be finite{'' if signed else ' and at least 0'}")
    return table.contiguous()


def as_weights(values: object | None, count: int, what: str) -> Tensor:
    """Convert `values` to `count` weights [count] float64 of at least 0; None gives ones.

    Raises:
        ValueError: as `as_table`, or for another number of weights.
    """
    if values is None:
        return torch.ones(count, dtype=torch.float64)
    weights = as_table(values, "weights", 1)
    if len(weights) != count:
        raise ValueError(f"there are {len(weights)} weights for {count} {what}")
    return weights
