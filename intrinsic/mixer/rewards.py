"""What the reward layer hands to a learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """What one source contributed, for logs and pictures.

    Args:
        raw: [T, N] as the source gave it, ensemble members reduced.
        asked: [T, N] after transform and clip.
        scaled: [T, N] after transform, clip and budget.
        weight: its weight at this moment.
    """

    raw: Tensor
    asked: Tensor
    scaled: Tensor
    weight: float


@dataclass(frozen=True)
class Rewards:
    """Reward streams, ready for any learner. Ends of episodes are data in `discount` and `carry`.

    Args:
        reward: [T, N, K], 0 on rows that are not valid.
        discount: [T, N, K] gamma of the stream, or 0 where an episodic stream terminated.
        carry: [T, N, K] 0 where an episodic stream must not look past a boundary, else 1.
        weight: [K] advantage weights.
        normalize: of the K streams, see `advantage`.
        streams: names of the K streams.
        parts: per source, what went in.
        contributed: per source, [T, N] its part in what is learnt from: weighted; an equal part of
            the bonus where sources are joined into one; and where a stream is normalised, divided
            by the mean size of the source.
    """

    reward: Tensor
    discount: Tensor
    carry: Tensor
    weight: Tensor
    normalize: tuple[bool, ...]
    streams: tuple[str, ...]
    parts: Mapping[str, Part]
    contributed: Mapping[str, Tensor]

    @torch.no_grad()
    def advantage(self, advantages: Tensor, valid: Tensor) -> Tensor:
        """One advantage out of those of all streams: their weighted sum.

        Those of streams that are to be normalised are brought to mean 0 and deviation 1 over valid
        rows first, each stream by itself (Constrained RLHF, arXiv 2310.04373). A stream that paid
        nothing in the rollout stays as it is (ours): its advantages are errors of its value head,
        and before the first reward they would be made as loud as everything else.

        Args:
            advantages: [T, N, K].
            valid: [T, N] bool.

        Returns:
            [T, N]
        """
        if any(self.normalize):
            wanted = torch.tensor(self.normalize, device=advantages.device)
            wanted = wanted & (self.reward != 0).flatten(0, -2).any(0)  # [K]
            rows, count = valid[..., None], valid.sum().clamp(min=1)
            mean = torch.where(rows, advantages, 0.0).sum((0, 1)) / count
            away = advantages - mean
            std = (torch.where(rows, away, 0.0).square().sum((0, 1)) / count).sqrt()
            advantages = torch.where(wanted, away / (std + 1e-8), advantages)
        return (advantages * self.weight).sum(-1)  # [T, N, K] -> [T, N]
