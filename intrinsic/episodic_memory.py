"""Episodic memories of embeddings: an inverse covariance, and nearest neighbours.

Both hold one memory for each environment, read and advance it in time order, and clear it exactly
where an episode begins; its first observation is then added. Steps that are not valid are skipped.
They stay on the CPU when their module is moved, and are part of its `state_dict`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.episodic_kernels import (
    CONDITIONAL,
    PADDING,
    QUASIMETRIC,
    SQUARED,
    elliptical_bonus,
    nearest_distances,
)
from firstlight.intrinsic.state import GrowingBuffers

Metric = Literal["squared", "conditional", "quasimetric"]

_KINDS = {"squared": SQUARED, "conditional": CONDITIONAL, "quasimetric": QUASIMETRIC}
_FEWEST = 64  # vectors that there is room for at first
_pool = ThreadPoolExecutor(thread_name_prefix="episodic")


class EllipticalMemory(GrowingBuffers):
    """The inverse ``C^-1`` of ``ridge * I + sum x x'`` over an episode (Henaff et al. 2022, §3).

    It is updated by Sherman-Morrison in float32: about 2 E² multiplications a step.

    Args:
        dim: `E`, of an embedding.
        ridge: λ; 0.1 as published.

    Attributes:
        inverses: [R, E, E] float32, of each environment by its id.

    Raises:
        ValueError: if `ridge` is not positive.
    """

    on_host = True
    inverses: Tensor

    def __init__(self, dim: int, *, ridge: float = 0.1):
        super().__init__()
        if not ridge > 0:
            raise ValueError(f"ridge is {ridge}, expected more than 0")
        self.dim, self.ridge = dim, ridge
        self.register_buffer("inverses", torch.zeros(0, dim, dim))

    @torch.no_grad()
    def bonus(self, here: Tensor, after: Tensor, rollout: Rollout) -> Tensor:
        """Compute ``x' C^-1 x`` of each step's successor x before it is added to C.

        Args:
            here: [T, N, E] or [T+1, N, E], embeddings of the observations.
            after: [T, N, E], embeddings of the true successors.
            rollout: defines the starts of episodes, the valid rows and the environments.

        Returns:
            [T, N] float32, at least 0; 0 where not valid. On the CPU.
        """
        self._open(rollout.env_ids)
        out = torch.zeros(rollout.valid.shape)
        T, N = out.shape
        arrays = (_array(here[:T]), _array(after), *_flags(rollout), out.numpy())
        inverses, rows = self.inverses.numpy(), rollout.env_ids.cpu().numpy()
        _split(N, lambda i, j: elliptical_bonus(inverses, rows, self.ridge, *arrays, i, j))
        return out

    @torch.no_grad()
    def add(self, env_ids: Tensor, x: Tensor, opens: Tensor, adds: Tensor) -> None:
        """Add one vector to each of M memories.

        Args:
            env_ids: [M] int64.
            x: [M, E].
            opens: [M] bool, memories that are cleared before x is added.
            adds: [M] bool, memories to which x is added otherwise.
        """
        self._open(env_ids)
        row, flags = _array(x[None]), (opens[None].numpy(), (adds & ~opens)[None].numpy())
        unused = np.zeros(flags[0].shape, np.float32)
        held = (self.inverses.numpy(), env_ids.cpu().numpy(), self.ridge)
        elliptical_bonus(*held, row, row, *flags, unused, 0, len(env_ids))

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the memories of `env_ids` [*] int64, or of all."""
        if env_ids is not None:
            self._open(env_ids)
        ids = torch.arange(len(self.inverses)) if env_ids is None else env_ids.cpu()
        self.inverses[ids] = torch.eye(self.dim) / self.ridge

    def diagonal(self, env_ids: Tensor) -> Tensor:
        """Return the diagonal of C^-1 [M, E] of environments [M], what SOFE shows to policies."""
        self._open(env_ids)
        return self.inverses[env_ids.cpu()].diagonal(dim1=1, dim2=2).clone()

    def _open(self, env_ids: Tensor) -> None:
        """Make empty memories for environments without one."""
        missing = _missing(env_ids, len(self.inverses))
        if missing > 0:
            empty = torch.eye(self.dim).expand(missing, -1, -1) / self.ridge
            self.inverses = torch.cat([self.inverses, empty])


class NearestMemory(GrowingBuffers):
    """Vectors of an episode, and the distances from them to each new one.

    Once `capacity` vectors are held the oldest is replaced. Metrics, for a vector m of the memory
    and a new one x:

    - ``"squared"``: ``|m - x|^2``;
    - ``"conditional"``: ``|m1 - x1|^2 / (|m2 - x2| + 1e-6)``, where vectors consist of a first part
      of `cut` numbers and a second one (Wan et al. 2023, eq. 4);
    - ``"quasimetric"``: ``max(relu(m1 - x1)) + |m2 - x2|`` (Liu et al. 2023), from m to x.

    Args:
        dim: `E`, numbers of a vector.
        capacity: largest number of vectors held for an environment.
        metric: one of these.
        cut: numbers of the first part; default half.
        k: how many of the smallest distances to return.
        quantile: return this quantile of all distances in place of the smallest.

    Attributes:
        vectors: [R, E, C + 16] float32, by id of the environment; C grows up to `capacity`.
        counts: [R] int64, vectors added in the running episode.

    Raises:
        ValueError: for an unknown metric, sizes below 1, or a `quantile` outside of 0 to 1.
    """

    on_host = True
    vectors: Tensor
    counts: Tensor

    def __init__(
        self,
        dim: int,
        *,
        capacity: int = 1024,
        metric: Metric = "squared",
        cut: int | None = None,
        k: int = 1,
        quantile: float | None = None,
    ):
        super().__init__()
        if metric not in get_args(Metric):
            raise ValueError(f"metric is {metric!r}, expected one of {', '.join(get_args(Metric))}")
        if min(capacity, k) < 1:
            raise ValueError(f"capacity is {capacity} and k is {k}, expected at least 1 each")
        if quantile is not None and not (0 <= quantile <= 1 and k == 1):
            raise ValueError(f"quantile is {quantile}, expected 0 to 1, and k=1 beside it")
        self.capacity, self.k = capacity, k
        self.kind, self.cut = _KINDS[metric], dim // 2 if cut is None else cut
        self.share = -1.0 if quantile is None else quantile
        self.register_buffer("vectors", torch.zeros(0, dim, min(_FEWEST, capacity) + PADDING))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    @torch.no_grad()
    def distances(
        self, here: Tensor, query: Tensor, rollout: Rollout, added: Tensor | None = None
    ) -> Tensor:
        """Compute the distances from the memory to each step's successor, then add it.

        Args:
            here: [T, N, E] or [T+1, N, E], vectors of the observations.
            query: [T, N, E], vectors of the true successors.
            rollout: defines the starts of episodes, the valid rows and the environments.
            added: [T, N, E], vectors to add; default `query`.

        Returns:
            [T, N, k] float32, ascending, or [T, N, 1], the quantile; inf where the memory holds
            too few vectors, 0 where not valid. On the CPU.
        """
        T, N = rollout.valid.shape
        rows = rollout.env_ids.cpu()
        self._open(rows)
        self._reserve(int(self.counts[rows].max()) + T + 1 if N else 0)
        out = torch.zeros(T, N, self.k)
        asked = _array(query)
        given = asked if added is None else _array(added)
        arrays = (_array(here[:T]), asked, given, *_flags(rollout), out.numpy())
        held = (self.vectors.numpy(), self.counts.numpy(), rows.numpy())
        settings = (self.kind, self.cut, self.share)
        _split(N, lambda i, j: nearest_distances(*held, *settings, *arrays, i, j))
        return out

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the memories of `env_ids` [*] int64, or of all."""
        if env_ids is None:
            self.counts.zero_()
        else:
            self._open(env_ids)
            self.counts[env_ids.cpu()] = 0

    def _open(self, env_ids: Tensor) -> None:
        """Make empty memories for environments without one."""
        missing = _missing(env_ids, len(self.counts))
        if missing > 0:
            self.vectors = torch.cat(
                [self.vectors, self.vectors.new_zeros(missing, *self.vectors.shape[1:])]
            )
            self.counts = torch.cat([self.counts, self.counts.new_zeros(missing)])

    def _reserve(self, count: int) -> None:
        """Make room for `count` vectors, or for `capacity`; before any memory wraps around."""
        size = self.vectors.shape[2] - PADDING
        wanted = min(1 << (count - 1).bit_length(), self.capacity) if count > 0 else 0
        if wanted > size:
            room = self.vectors.new_zeros(*self.vectors.shape[:2], wanted - size)
            self.vectors = torch.cat([self.vectors, room], 2)


def _missing(env_ids: Tensor, known: int) -> int:
    return int(env_ids.max()) + 1 - known if len(env_ids) else 0


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().float().contiguous().numpy()


def _flags(rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """`is_first` and `valid`, both [T, N]."""
    is_first = rollout.is_first[:-1].cpu().contiguous().numpy()
    return is_first, rollout.valid.cpu().contiguous().numpy()


def _split(count: int, work: Callable[[int, int], None]) -> None:
    """Run ``work(start, stop)`` over [0, count), in one part for each thread of torch."""
    parts = max(1, min(torch.get_num_threads(), count))
    bounds = [count * i // parts for i in range(parts + 1)]
    rest = [_pool.submit(work, bounds[i], bounds[i + 1]) for i in range(1, parts)]
    work(bounds[0], bounds[1])
    for future in rest:
        future.result()
