"""How scaled sources form reward streams: interface `Combine`; `Sum`, `Heads` and `Streams`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Term


@dataclass(frozen=True)
class Stream:
    """One reward stream, learned by one value head.

    Args:
        name: as logged under ``value/<name>/``.
        gamma: discount.
        episodic: False if its returns continue past episode ends.
        normalize: whether its advantages are normalised to mean 0 and deviation 1 before they are
            weighted, so that only its weight decides how much it counts.
    """

    name: str
    gamma: float
    episodic: bool
    normalize: bool = False


@dataclass(frozen=True)
class Joint:
    """One bonus computed from several sources together.

    Args:
        names: the sources, without those of weight 0.
        bonus: [T, N] the joint bonus, weights included.
        degree: scaling one source by c scales the bonus by ``c ** degree``.
    """

    names: tuple[str, ...]
    bonus: Tensor
    degree: float


class Combine(nn.Module, ABC):
    """Forms reward streams from scaled sources. Buffers are saved with the mixer.

    `forward` is pure; a combine that learns does so in `update`.
    """

    @abstractmethod
    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """List the `K` streams, before a policy is built; ValueError if terms do not fit."""

    @abstractmethod
    def forward(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Compute rewards [T, N, K] and advantage weights [K].

        Args:
            scaled: source name to [T, N]; sources of weight 0 are absent.
            weight: of every source, in the order of the terms.
        """

    def update(self, raw: Mapping[str, Tensor], rollout: Rollout) -> dict[str, float]:
        """Learn from raw sources [T, N], once per iteration. Default: nothing.

        Sources of weight 0 are absent. Returns scalars to log.
        """
        return {}

    def joint(self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]) -> Joint | None:
        """Return the bonus that several sources form together. Default: None, all are added.

        Also None if fewer than two such sources are in `scaled`.
        """
        return None


class Sum(Combine):
    """One stream: the weighted sum of all sources, with the discount of the environment's reward.

    `gamma` and `episodic` of the other terms do not apply: there is only one return.
    """

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """List a single stream, "reward"."""
        return [Stream("reward", terms["reward"].gamma, terms["reward"].episodic)]

    def forward(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Compute rewards [T, N, 1] and the advantage weight [1], which is 1."""
        total = weighted_sum(scaled, weight, list(scaled))
        return total[..., None], torch.ones(1, device=total.device)


class Heads(Combine):
    """One stream and value head per source, weighted as advantages (Burda et al. 2018, §2.3).

    Args:
        normalize: normalise each stream's advantages to mean 0 and deviation 1 before they are
            weighted, see `Rewards.advantage`. The terms' transforms then only affect the value
            heads, and weights compare sources independently of their units.
    """

    def __init__(self, *, normalize: bool = False):
        super().__init__()
        self.normalize = normalize

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """List one stream per term, in the order of the terms."""
        return [
            Stream(name, term.gamma, term.episodic, self.normalize) for name, term in terms.items()
        ]

    def forward(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Compute rewards [T, N, K], 0 for sources of weight 0, and advantage weights [K]."""
        like = next(iter(scaled.values()))
        reward = torch.stack([scaled.get(name, torch.zeros_like(like)) for name in weight], -1)
        weights = torch.tensor(list(weight.values()), dtype=torch.float32, device=reward.device)
        return reward, weights


class Streams(Combine):
    """One stream per named group of sources: the weighted sum of the group.

    Args:
        groups: stream name to its sources. Every source is in exactly one group, and the terms of
            a group have the same `gamma` and `episodic`.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]]):
        super().__init__()
        self.groups = {name: list(sources) for name, sources in groups.items()}

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """List one stream per group."""
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

    def forward(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Compute rewards [T, N, K] and advantage weights [K], 0 for groups without a source."""
        like = next(iter(scaled.values()))
        live = [[s for s in sources if s in scaled] for sources in self.groups.values()]
        sums = [weighted_sum(scaled, weight, s) if s else torch.zeros_like(like) for s in live]
        weights = [float(bool(s)) for s in live]
        return torch.stack(sums, -1), torch.tensor(weights, device=like.device)


def weighted_sum(
    scaled: Mapping[str, Tensor], weight: Mapping[str, float], names: list[str]
) -> Tensor:
    """Sum weight * source over `names`; a weight of exactly 1 is not multiplied."""
    values = [scaled[n] if weight[n] == 1.0 else scaled[n] * weight[n] for n in names]
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
