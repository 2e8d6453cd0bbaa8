"""The ranking buffer: state-action pairs of the best episodes so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstlight.agents.algorithms.auxiliaries.episodes import EpisodeSteps
from firstlight.envs.types import Obs, map_obs
from firstlight.intrinsic.memory import VisitTable


@dataclass(frozen=True, slots=True)
class ScoreWeights:
    """Weights of the three terms of an episode's score; 0 disables a term."""

    total_return: float
    local: float
    spread: float


class RankingBuffer:
    """Stores the state-action pairs of the best episodes (Zha et al. 2021).

    An episode of states s_1 ... s_L scores

    - its return, the sum of the environment's rewards (undiscounted);
    - its *local* exploration, distinct states / L;
    - its *global* exploration, the mean of ``1 / sqrt(N(s_i))``, N the visits in all
      finished episodes so far. N keeps rising for a stored episode, so all are ranked again
      at each insertion, as in the authors' code;

    each times its weight. Among equal scores the later episode ranks higher. Once full, the buffer
    holds exactly `size` pairs: only the beginning of the last episode may fit.

    Args:
        size: state-action pairs.
        weights: of the terms of the score.

    Attributes:
        score: [E] float64 of the stored episodes, best first.
        kept: [E] int64, number of stored pairs of each.
        serial: [E] int64, number of each episode in the run, from 0.
    """

    def __init__(self, size: int, weights: ScoreWeights):
        if size < 1:
            raise ValueError(f"size is {size}, expected at least 1")
        self.size, self.weights = size, weights
        self.visits = VisitTable()
        self.episodes = 0
        none, real = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        self.serial, self.length, self.kept = none, none, none  # [E]
        self.total_return, self.local, self.score = real, real, real  # [E]
        self.keys, self.counts = none, none  # [S] states of the stored episodes, and their N
        self.slots = none  # [P] slot of each stored pair
        self._store: tuple[Obs, Tensor] | None = None  # fields and actions, [size, ...]

    def __len__(self) -> int:
        """Return the number of stored pairs."""
        return len(self.slots)

    def insert(self, episode: EpisodeSteps) -> None:
        """Rank an episode among the stored ones, and drop pairs that no longer fit."""
        L = len(episode)
        distinct, inverse, times = torch.unique(
            episode.keys, return_inverse=True, return_counts=True
        )
        if self.weights.spread:
            every = torch.ones((1, L), dtype=torch.bool)
            before = self.visits.count(episode.keys[None], every)[0] - 1
            at = torch.searchsorted(distinct, self.keys).clamp(max=len(distinct) - 1)
            more = torch.where(distinct[at] == self.keys, times[at], 0)
            self.counts = torch.cat([self.counts + more, before + times[inverse]])
        self.keys = torch.cat([self.keys, episode.keys])
        self.serial = _append(self.serial, self.episodes)
        self.length = _append(self.length, L)
        self.total_return = _append(self.total_return, episode.reward.double().sum())
        self.local = _append(self.local, len(distinct) / L)
        self.episodes += 1
        self._rank(episode)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Obs, Tensor]:
        """Draw `count` pairs uniformly, with replacement.

        Returns:
            Observations [count, ...] and actions [count, *action].
        """
        assert self._store is not None, "the buffer is empty"
        rows = self.slots[torch.randint(len(self.slots), (count,), generator=generator)]
        obs, action = self._store
        return map_obs(lambda field: field[rows], obs), action[rows]

    def state_dict(self) -> dict[str, Any]:
        """Return all that ranking and sampling depend on."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _TENSORS}
        state |= {"episodes": self.episodes, "visits": self.visits.state_dict(), "store": None}
        if self._store is not None:
            obs, action = self._store
            state["store"] = {"obs": dict(obs), "action": action}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        for name in _TENSORS:
            setattr(self, name, state[name].clone())
        self.episodes = state["episodes"]
        self.visits.load_state_dict(state["visits"])
        self._store = None
        if state["store"] is not None:
            obs = map_obs(torch.clone, state["store"]["obs"])
            self._store = obs, state["store"]["action"].clone()

    def _scores(self) -> Tensor:
        """Compute the scores [E] float64."""
        weights = self.weights
        score = weights.total_return * self.total_return + weights.local * self.local
        if weights.spread:
            owner = torch.repeat_interleave(torch.arange(len(self.length)), self.length)
            rarity = self.counts.double().rsqrt()
            spread = torch.zeros_like(score).index_add_(0, owner, rarity) / self.length
            score = score + weights.spread * spread
        return score

    def _rank(self, new: EpisodeSteps) -> None:
        """Sort the episodes, cut at `size` pairs, and store the pairs of the new one."""
        score = self._scores()
        latest_first = torch.argsort(self.serial, descending=True)
        order = latest_first[torch.argsort(score[latest_first], descending=True, stable=True)]
        had = _append(self.kept, len(new))  # [E+1]
        room = self.size - (had[order].cumsum(0) - had[order])
        kept = torch.minimum(had[order], room.clamp(min=0))
        order, kept = order[kept > 0], kept[kept > 0]
        slots = torch.cat([self.slots, torch.full((len(new),), -1)])
        slots = slots[_ranges(_starts(had)[order], kept)]
        is_new = slots < 0
        taken = torch.zeros(self.size, dtype=torch.bool)
        taken[slots[~is_new]] = True
        free = (~taken).nonzero()[: int(is_new.sum()), 0]
        slots[is_new] = free
        states = _ranges(_starts(self.length)[order], self.length[order])
        self.slots, self.kept, self.score = slots, kept, score[order]
        self.keys = self.keys[states]
        if self.weights.spread:
            self.counts = self.counts[states]
        for name in ("serial", "length", "total_return", "local"):
            setattr(self, name, getattr(self, name)[order])
        self._write(free, new)

    def _write(self, free: Tensor, new: EpisodeSteps) -> None:
        """Write the first pairs of `new` to the slots `free` [*] int64."""
        if self._store is None:
            obs = {name: _room(field, self.size) for name, field in new.obs.items()}
            self._store = obs, _room(new.action, self.size)
        obs, action = self._store
        for name, field in obs.items():
            field[free] = new.obs[name][: len(free)]
        action[free] = new.action[: len(free)]


_TENSORS = (
    *("serial", "length", "kept", "total_return", "local", "score"),
    *("keys", "counts", "slots"),
)


def _append(column: Tensor, value: float | Tensor) -> Tensor:
    return torch.cat([column, torch.as_tensor(value, dtype=column.dtype)[None]])


def _room(field: Tensor, size: int) -> Tensor:
    return torch.zeros((size, *field.shape[1:]), dtype=field.dtype)


def _starts(length: Tensor) -> Tensor:
    """Compute where each of consecutive ranges begins, [E] int64."""
    return length.cumsum(0) - length


def _ranges(start: Tensor, length: Tensor) -> Tensor:
    """Concatenate the ranges ``start[i] : start[i] + length[i]``."""
    within = torch.arange(int(length.sum())) - torch.repeat_interleave(_starts(length), length)
    return torch.repeat_interleave(start, length) + within
