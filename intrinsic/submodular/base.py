"""The protocol of a set function: one growing set per environment, known by marginal gains."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from firstlight.intrinsic.state import GrowingBuffers


class SetFunction(GrowingBuffers, ABC):
    """A set function F, and for each environment a set that grows item by item.

    F is known by what an item adds, ``gain = F(S + item) - F(S)``, which subclasses compute from a
    few numbers per environment. A subclass has `marginal`, names those numbers by `register_rows`,
    and says by `item_shape` and `item_dtype` what an item is. All lives on the CPU in float64, so
    that a long sum of gains still is F; items on another device are brought over.

    Whether an item that comes twice counts twice is each function's own affair.

    Attributes:
        item_shape: of one item.
        item_dtype: items are cast to it.
        total: [E] float64, ``F(S) - F(nothing)`` by environment.
    """

    on_host = True
    item_shape: tuple[int, ...] = ()
    item_dtype: torch.dtype = torch.int64
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_rows("total", ())

    @abstractmethod
    def marginal(self, items: Tensor, rows: Tensor, write: bool) -> Tensor:
        """What each of `items` [M, *item] adds to the sets of `rows` [M] int64: [M] float64.

        For subclasses to write, and for nobody else to call. With `write` the items are in those
        sets afterwards, else nothing changes.
        """

    def gain(self, items: Tensor, env_ids: Tensor) -> Tensor:
        """What each item would add to its environment's set; nothing changes.

        Args:
            items: [M, *item].
            env_ids: [M] int64, all different.

        Returns:
            [M] float64.
        """
        return self._checked_gain(items, env_ids, write=False)

    def add(self, items: Tensor, env_ids: Tensor) -> Tensor:
        """Put items [M, *item] into the sets of `env_ids` [M] int64, all different.

        Returns:
            [M] float64, what each added.
        """
        gain = self._checked_gain(items, env_ids, write=True)
        self.total[env_ids.cpu()] += gain
        return gain

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Empty the sets of `env_ids` [M] int64, or all."""
        if env_ids is None:
            for name, buffer in self._per_env():
                setattr(self, name, buffer[:0])
            return
        ids = env_ids.cpu()
        self._know(ids)
        for _, buffer in self._per_env():
            buffer[ids] = 0

    def value(self, sets: Sequence[Tensor]) -> Tensor:
        """``F(S) - F(nothing)`` of whole sets, from scratch; the environments' own stay.

        Args:
            sets: `S` of them, each [L, *item], of any lengths.

        Returns:
            [S] float64.
        """
        scratch = copy.deepcopy(self)
        scratch.reset()
        scratch._know(torch.arange(len(sets)))
        for place in range(max(map(len, sets), default=0)):
            rows = [row for row, items in enumerate(sets) if place < len(items)]
            scratch.add(torch.stack([sets[row][place] for row in rows]), torch.tensor(rows))
        return scratch.total.clone()

    def register_rows(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
    ) -> None:
        """Keep `shape` zeros for each environment, as the buffer `name` [E, *shape]."""
        self.register_buffer(name, torch.zeros((0, *shape), dtype=dtype))
        self._names = (*getattr(self, "_names", ()), name)

    def _per_env(self) -> list[tuple[str, Tensor]]:
        return [(name, getattr(self, name)) for name in self._names]

    def _know(self, ids: Tensor) -> None:
        """Make room for environments never seen before, with empty sets."""
        missing = int(ids.max()) + 1 - len(self.total) if len(ids) else 0
        if missing > 0:
            for name, buffer in self._per_env():
                new = buffer.new_zeros((missing, *buffer.shape[1:]))
                setattr(self, name, torch.cat([buffer, new]))

    def _checked_gain(self, items: Tensor, env_ids: Tensor, write: bool) -> Tensor:
        if tuple(items.shape) != (len(env_ids), *self.item_shape):
            raise ValueError(
                f"{type(self).__name__} takes items of shape {self.item_shape}, one for each of "
                f"{len(env_ids)} environments, not {tuple(items.shape)}"
            )
        ids = env_ids.cpu()
        if len({*ids.tolist()}) < len(ids):
            raise ValueError(f"env_ids {ids.tolist()} names an environment twice: add one by one")
        self._know(ids)
        return self.marginal(items.cpu().to(self.item_dtype), ids, write)


def checked_index(items: Tensor, count: int, what: str) -> Tensor:
    """`items` [M] int64 themselves, if they lie in 0 to ``count - 1``; else a ValueError."""
    if len(items) and not 0 <= int(items.min()) <= int(items.max()) < count:
        bad = items[(items < 0) | (items >= count)][0].item()
        raise ValueError(f"there is no {what} {bad}: they are numbered 0 to {count - 1}")
    return items


def as_table(values: object, name: str, dim: int, *, signed: bool = False) -> Tensor:
    """`values` as a float64 tensor of `dim` axes.

    Raises:
        ValueError: for another number of axes, numbers that are not finite, or negative ones unless
            `signed`.
    """
    table = torch.as_tensor(values, dtype=torch.float64).cpu()
    if table.dim() != dim or not table.numel():
        raise ValueError(f"{name} has shape {tuple(table.shape)}; it has {dim} axes, none empty")
    if not table.isfinite().all() or (not signed and bool((table < 0).any())):
        raise ValueError(f"{name} holds finite numbers{'' if signed else ', at least 0'}")
    return table.contiguous()
