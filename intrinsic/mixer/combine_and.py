"""Combines that require all bonuses at once: the product, and the signed geometric mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from firstlight.intrinsic.mixer.combine import Combine, Joint, Stream
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.shaping import geometric_and


class _Joined(Combine):
    """The environment's reward, and all other sources joined into one bonus.

    A term's weight multiplies its source. A source of weight 0 is absent: the bonus is then that of
    the other sources. (A source whose weight fades to 0 therefore takes the bonus along, and the
    bonus returns once the weight is exactly 0.)

    Args:
        heads: give the bonus its own stream and value head; False adds it to the reward.
        gamma: discount of the bonus stream; the terms' own do not apply because they may differ.
        episodic: whether returns of the bonus stream end with the episode.
    """

    def __init__(self, *, heads: bool = True, gamma: float = 0.99, episodic: bool = True):
        super().__init__()
        self.heads, self.gamma, self.episodic = heads, gamma, episodic

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """List "reward", and "bonus" if `heads` and there is any other source."""
        reward = Stream("reward", terms["reward"].gamma, terms["reward"].episodic)
        bonus = Stream("bonus", self.gamma, self.episodic)
        return [reward, bonus] if self.heads and len(terms) > 1 else [reward]

    def forward(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Compute rewards [T, N, K] and advantage weights [K]; K is 1 or 2."""
        like = next(iter(scaled.values()))
        reward = scaled.get("reward", torch.zeros_like(like))
        factors = _factors(scaled, weight)
        joined = self.join(torch.stack(factors, -1)) if factors else torch.zeros_like(like)
        if self.heads and len(weight) > 1:
            weights = torch.tensor([weight["reward"], float(bool(factors))], device=like.device)
            return torch.stack([reward, joined], -1), weights
        total = reward if weight["reward"] == 1.0 else reward * weight["reward"]
        total = total + joined if factors else total
        return total[..., None], torch.ones(1, device=like.device)

    def joint(self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]) -> Joint | None:
        """Return the bonus and its sources; None if fewer than two of them are in `scaled`."""
        names = tuple(name for name in scaled if name != "reward")
        if len(names) < 2:
            return None
        bonus = self.join(torch.stack(_factors(scaled, weight), -1))
        return Joint(names, bonus, self.degree(len(names)))

    @abstractmethod
    def join(self, factors: Tensor) -> Tensor:
        """Join weighted sources [T, N, S] to the bonus [T, N]; 0 where all of them are 0."""

    @abstractmethod
    def degree(self, num_sources: int) -> float:
        """Exponent of each source in the bonus."""


def _factors(scaled: Mapping[str, Tensor], weight: Mapping[str, float]) -> list[Tensor]:
    """Weighted sources [T, N] other than the reward."""
    return [
        values if weight[name] == 1.0 else values * weight[name]
        for name, values in scaled.items()
        if name != "reward"
    ]


class Product(_Joined):
    """The product of all bonuses, beside the environment's reward.

    Episodic times lifelong novelty, as in NGU and RIDE: the bonus is small where either factor is.
    Intended for sources that are never negative, because signs multiply too.

    Args:
        heads: give the bonus its own stream and value head; False adds it to the reward.
        gamma: discount of the bonus stream; the terms' own do not apply because they may differ.
        episodic: whether returns of the bonus stream end with the episode.
    """

    def join(self, factors: Tensor) -> Tensor:
        """Multiply weighted sources [T, N, S] to [T, N]."""
        return factors.prod(-1)

    def degree(self, num_sources: int) -> float:
        """Return 1, for any number of sources."""
        return 1.0


class Krc(_Joined):
    """Kinesthetic reward combination of Lucy-SKG (arXiv 2305.15801, eq. 2): a geometric AND.

    ``s * (prod_i |R_i|)^(1/n)``, where s is 1 if no source is negative, else -1: large only if all
    sources are, and two negatives do not cancel. The paper has sources in [-1, 1]; use a transform
    or ``clip=1``. Weights scale the result by their geometric mean.

    Args:
        heads: give the bonus its own stream and value head; False adds it to the reward.
        gamma: discount of the bonus stream; the terms' own do not apply because they may differ.
        episodic: whether returns of the bonus stream end with the episode.
    """

    def join(self, factors: Tensor) -> Tensor:
        """Compute the signed geometric mean of weighted sources [T, N, S]: [T, N]."""
        return geometric_and(factors)

    def degree(self, num_sources: int) -> float:
        """``1 / n``."""
        return 1 / num_sources
