"""`Rewards`, the result of the mixer and the input of every learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from firstlight.networks import collective


@dataclass(frozen=True)
class Component:
    """Values of one source at each stage of the mixer, for logs and pictures.

    Args:
        raw: [T, N] as the source gave it, ensemble members reduced.
        before_budget: [T, N] after transform and clip.
        scaled: [T, N] after transform, clip and budgets.
        weight: the current weight.
    """

    raw: Tensor
    before_budget: Tensor
    scaled: Tensor
    weight: float


@dataclass(frozen=True)
class Rewards:
    """Reward streams for any learner. Ends of episodes are data in `discount` and `carry`.

    Args:
        reward: [T, N, K], 0 on rows that are not valid.
        discount: [T, N, K] gamma of the stream, or 0 where an episodic stream terminated.
        carry: [T, N, K] 0 where returns of an episodic stream must not cross a boundary, else 1.
        weight: [K] advantage weights.
        normalize: of the K streams, see `advantage`.
        streams: names of the K streams.
        components: values of each source.
        contributed: source name to [T, N], its contribution to the learning signal: its weighted
            values; an equal part of the bonus if sources are joined; divided by the source's mean
            absolute value if its stream is normalised.
    """

    reward: Tensor
    discount: Tensor
    carry: Tensor
    weight: Tensor
    normalize: tuple[bool, ...]
    streams: tuple[str, ...]
    components: Mapping[str, Component]
    contributed: Mapping[str, Tensor]

    @torch.no_grad()
    def advantage(self, advantages: Tensor, valid: Tensor) -> Tensor:
        """Combine the advantages of all streams into their weighted sum.

        Streams with `normalize` are first normalised to mean 0 and deviation 1 over valid rows,
        each by itself (Constrained RLHF, arXiv 2310.04373). A stream without any reward in the
        rollout is not normalised (our choice): its advantages are errors of its value head, and
        before the first reward they would be scaled up to the size of everything else.

        Args:
            advantages: [T, N, K].
            valid: [T, N] bool.

        Returns:
            [T, N]
        """
        if any(self.normalize):
            chosen = torch.tensor(self.normalize, device=advantages.device)
            rewarded = (self.reward != 0).flatten(0, -2).any(0)  # [K]
            chosen = chosen & (collective.sum(rewarded.int()) > 0)
            rows, count = valid[..., None], collective.sum(valid.sum()).clamp(min=1)
            mean = collective.sum(torch.where(rows, advantages, 0.0).sum((0, 1))) / count
            away = advantages - mean
            square = torch.where(rows, away, 0.0).square().sum((0, 1))
            std = (collective.sum(square) / count).sqrt()
            advantages = torch.where(chosen, away / (std + 1e-8), advantages)
        return (advantages * self.weight).sum(-1)  # [T, N, K] -> [T, N]
