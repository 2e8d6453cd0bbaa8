"""The best set or walk: greedy with a bound, or by exhaustive search."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from firstlight.intrinsic.submodular.base import SetFunction

_MOST = 200_000  # sets or walks in an exhaustive search


@dataclass(frozen=True, slots=True)
class Greedy:
    """Result of `greedy`.

    Args:
        chosen: [k] int64, indices of the candidates, in order.
        value: F of them.
        bound: upper bound on F of any k candidates, if F is monotone submodular.
    """

    chosen: Tensor
    value: float
    bound: float


def greedy(function: SetFunction, candidates: Tensor, k: int, *, repeats: bool = False) -> Greedy:
    """Choose k items one by one, each time the one with the largest gain.

    For a monotone submodular F the value is at least ``1 - 1/e`` of the best (Nemhauser et al.
    1978). The bound is the minimum over the intermediate sets S of ``F(S)`` plus the k largest
    gains at S (Leskovec et al. 2007), usually much tighter. With the items of all cells as
    `candidates` it also holds for walks of k states, but is rarely reached, as a walk cannot jump.

    Args:
        function: its own sets do not change.
        candidates: [P, *item].
        k: at least 1.
        repeats: allow an item to be chosen again, for functions that count it again.

    Raises:
        ValueError: for fewer candidates than k, without repeats, or k below 1.
    """
    P = len(candidates)
    if k < 1 or P < 1 or (k > P and not repeats):
        raise ValueError(f"{k} items cannot be chosen from {P} candidates")
    scratch, rows = copy.deepcopy(function), torch.arange(P)  # the same set in P environments
    scratch.reset()
    free = torch.ones(P, dtype=torch.bool)
    chosen, value, bound = [], 0.0, float("inf")
    for _ in range(k):
        gain = scratch.gain(candidates, rows)
        more = k * gain.max() if repeats else gain.topk(k).values.sum()
        bound = min(bound, value + float(more))
        best = int(gain.masked_fill(~free, -torch.inf).argmax())
        scratch.add(candidates[best].expand_as(candidates), rows)
        value += float(gain[best])
        free[best] = repeats
        chosen.append(best)
    return Greedy(torch.tensor(chosen), value, bound)


def best_set(function: SetFunction, candidates: Tensor, k: int) -> tuple[Tensor, float]:
    """Find the best k different candidates by exhaustive search.

    Returns:
        [k] int64, and F of them.

    Raises:
        ValueError: for no set, or more than 200,000.
    """
    sets = list(itertools.islice(itertools.combinations(range(len(candidates)), k), _MOST + 1))
    if not 1 <= len(sets) <= _MOST:
        raise ValueError(
            f"{k} of {len(candidates)} candidates form no set or more than {_MOST:,}, the limit"
        )
    return _best(function, candidates, torch.tensor(sets))


def best_walk(
    function: SetFunction, items: Tensor, successor: Tensor, start: int, moves: int
) -> tuple[Tensor, float]:
    """Find the best walk by exhaustive search.

    Args:
        function: of the items on the walk, including the first.
        items: [cells, *item].
        successor: [cells, A] int64, cell that each action leads to.
        start: first cell.
        moves: number of moves.

    Returns:
        [moves + 1] int64 cells, and F of their items.

    Raises:
        ValueError: for more than 200,000 walks.
    """
    walks = torch.tensor([[start]])
    for _ in range(moves):
        ends = successor[walks[:, -1]]  # [W, A]
        walks = torch.cat([walks[:, None].expand(-1, ends.shape[1], -1), ends[..., None]], -1)
        walks = walks.flatten(0, 1).unique(dim=0)
        if len(walks) > _MOST:
            raise ValueError(f"there are {len(walks):,} walks, the limit is {_MOST:,}")
    return _best(function, items, walks)


def greedy_walk(
    function: SetFunction, items: Tensor, successor: Tensor, start: int, moves: int
) -> tuple[Tensor, float]:
    """Walk to the neighbour with the largest gain at each move; arguments as in `best_walk`.

    Unlike `greedy` it has no guarantee, because it only compares neighbouring cells.
    """
    scratch, here = copy.deepcopy(function), torch.tensor([0])
    scratch.reset()
    scratch.add(items[start][None], here)
    walk = [start]
    for _ in range(moves):
        ends = successor[walk[-1]]
        gains = [float(scratch.gain(items[end][None], here)) for end in ends]
        walk.append(int(ends[int(torch.tensor(gains).argmax())]))
        scratch.add(items[walk[-1]][None], here)
    return torch.tensor(walk), float(scratch.total[0])


def _best(function: SetFunction, items: Tensor, sets: Tensor) -> tuple[Tensor, float]:
    """Best of `sets` [S, k] of item indices, and its value."""
    values = torch.cat([function.value(list(items[part])) for part in sets.split(10_000)])
    best = int(values.argmax())
    return sets[best], float(values[best])
