"""How scaled sources become reward streams: `Sum`, `Heads`, `Streams`, and what a combine is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Term


@dataclass(frozen=True)
class Stream:
    """One reward stream, learnt by one value head.

    Args:
        name: as logged under ``value/<name>/``.
        gamma: discount.
        episodic: False if its return looks past episode ends.
        normalize: whether its advantages are brought to mean 0 and deviation 1 before they are
            weighted, so that its weight alone says how much it counts.
    """

    name: str
    gamma: float
    episodic: bool
    normalize: bool = False


class Combine(Protocol):
    """Forms streams out of scaled sources."""

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """The `K` streams, known before a policy is built; ValueError if terms do not join."""
        ...

    def __call__(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Scaled sources [T, N] and all weights, in the order of the terms, to [T, N, K] and [K].

        The first are rewards, the second advantage weights. Sources of weight 0 are absent from
        `scaled`.
        """
        ...


@runtime_checkable
class AdaptiveCombine(Combine, Protocol):
    """A combine that learns: an `nn.Module` whose buffers are saved with the mixer.

    Calling it is pure, as always; `update` stores, once per iteration.
    """

    def update(self, raw: Mapping[str, Tensor], rollout: Rollout) -> dict[str, float]:
        """Learn from raw sources [T, N], of weight 0 left out. Returns scalars to log."""
        ...


@dataclass(frozen=True)
class Joint:
    """One bonus that several sources pay together.

    Args:
        names: of the sources, those of weight 0 left out.
        bonus: [T, N] what they come to, weights included.
        degree: a source twice as large makes the bonus ``2 ** degree`` times as large.
    """

    names: tuple[str, ...]
    bonus: Tensor
    degree: float


@runtime_checkable
class JoiningCombine(Combine, Protocol):
    """A combine of which some sources are not added, so that none has a size of its own."""

    def joint(self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]) -> Joint | None:
        """What becomes of those sources; None if fewer than two of them are in `scaled`."""
        ...


class Sum:
    """One stream: the weighted sum of all sources, with the discount of the environment's reward.

    `gamma` and `episodic` of the other terms do not apply: there is only one return.
    """

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """A single stream that is called "reward"."""
        return [Stream("reward", terms["reward"].gamma, terms["reward"].episodic)]

    def __call__(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Returns rewards [T, N, 1] and advantage weights [1] of one."""
        total = weighted_sum(scaled, weight, list(scaled))
        return total[..., None], torch.ones(1, device=total.device)


class Heads:
    """A stream and a value head per source, weighted as advantages (Burda et al. 2018, §2.3).

    Args:
        normalize: bring each stream's advantages to mean 0 and deviation 1 before they are
            weighted, see `Rewards.advantage`. The transforms of the terms then only serve the
            value heads, and weights compare sources whatever their units.
    """

    def __init__(self, *, normalize: bool = False):
        self.normalize = normalize

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """One stream for each term, in the order of the terms."""
        return [
            Stream(name, term.gamma, term.episodic, self.normalize) for name, term in terms.items()
        ]

    def __call__(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Returns rewards [T, N, K] and advantage weights [K]; weight 0 means reward 0."""
        like = next(iter(scaled.values()))
        reward = torch.stack([scaled.get(name, torch.zeros_like(like)) for name in weight], -1)
        weights = torch.tensor(list(weight.values()), dtype=torch.float32, device=reward.device)
        return reward, weights


class Streams:
    """Named groups of sources; inside a group the weighted sum, between groups plain addition.

    Args:
        groups: stream name to the sources in it. Every source stands in exactly one group, and the
            terms of a group agree on `gamma` and `episodic`.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]]):
        self.groups = {name: list(sources) for name, sources in groups.items()}

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """One stream for each group."""
        listed = [source for sources in self.groups.values() for source in sources]
        if sorted(listed) != sorted(terms):
            raise ValueError(f"Streams lists {sorted(listed)}, but the sources are {sorted(terms)}")
        out = []
        for name, sources in self.groups.items():
            kinds = {(terms[source].gamma, terms[source].episodic) for source in sources}
            if len(kinds) != 1:
                raise ValueError(
                    f"the sources of stream {name!r} differ in gamma or episodic: {kinds}"
                )
            out.append(Stream(name, *kinds.pop()))
        return out

    def __call__(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Returns rewards [T, N, K] and advantage weights [K], 0 for groups with no live source."""
        like = next(iter(scaled.values()))
        live = [[s for s in sources if s in scaled] for sources in self.groups.values()]
        sums = [weighted_sum(scaled, weight, s) if s else torch.zeros_like(like) for s in live]
        weights = [float(bool(s)) for s in live]
        return torch.stack(sums, -1), torch.tensor(weights, device=like.device)


def weighted_sum(
    scaled: Mapping[str, Tensor], weight: Mapping[str, float], names: list[str]
) -> Tensor:
    """Sum of weight * source over `names`; a factor of exactly 1 is not multiplied."""
    parts = [scaled[n] if weight[n] == 1.0 else scaled[n] * weight[n] for n in names]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
