"""The one place where rewards meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.combine import Combine, Heads
from firstlight.intrinsic.mixer.terms import Term


@dataclass(frozen=True)
class Part:
    """What one source contributed, for logs and pictures.

    Args:
        raw: [T, N] as the source gave it, ensemble members reduced.
        scaled: [T, N] after transform, clip and budget.
        weight: its weight at this moment.
    """

    raw: Tensor
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
        streams: names of the K streams.
        parts: per source, what went in.
    """

    reward: Tensor
    discount: Tensor
    carry: Tensor
    weight: Tensor
    streams: tuple[str, ...]
    parts: Mapping[str, Part]


class RewardMixer(nn.Module):
    """Joins the environment's reward and the modules' bonuses into reward streams.

    The environment's reward is the source ``"reward"``; it is not scaled or clipped unless its
    term says so. `forward` is pure; running statistics are stored in `update`.

    Args:
        terms: source name to `Term`; "reward" is added with `Term()` if it is missing.
        combine: how sources form streams; default `Heads()`.

    >>> mixer = RewardMixer({"reward": Term(), "count": Term(weight=0.01)}, Heads())
    >>> mixer.num_streams
    2
    """

    def __init__(self, terms: Mapping[str, Term], combine: Combine | None = None):
        super().__init__()
        self.terms = {"reward": terms.get("reward", Term()), **terms}
        self.combine = combine or Heads()
        self.streams = self.combine.streams(self.terms)
        if not self.streams:
            raise ValueError("there is no reward stream")
        self.statistics = nn.ModuleDict()  # what transforms and budgets count, for the state dict
        for name, term in self.terms.items():
            for part in (term.transform, term.budget):
                if isinstance(part, nn.Module):
                    self.statistics[f"{name}:{type(part).__name__}"] = part

    @property
    def num_streams(self) -> int:
        """`K`."""
        return len(self.streams)

    def active(self, name: str, progress: float) -> bool:
        """Whether a source counts at this progress in [0, 1]; one of weight 0 is not computed."""
        return self.terms[name].weight_at(progress) != 0

    @torch.no_grad()
    def forward(
        self, rollout: Rollout, bonus: Mapping[str, Tensor], progress: float = 0.0
    ) -> Rewards:
        """Mix.

        Args:
            rollout: gives the environment's reward and the ends of episodes.
            bonus: source name to [T, N] or [T, N, M]; sources of weight 0 may be absent.
            progress: of training, in [0, 1].

        Raises:
            ValueError: for a source without a term, or one that is missing or has the wrong shape.
        """
        if unknown := set(bonus) - set(self.terms):
            raise ValueError(
                f"no term for {sorted(unknown)}; there are terms for {sorted(self.terms)}"
            )
        weight = {name: term.weight_at(progress) for name, term in self.terms.items()}
        parts = {}
        for name, term in self.terms.items():
            if weight[name] == 0:
                continue
            raw = rollout.reward if name == "reward" else bonus.get(name)
            if raw is None:
                raise ValueError(f"source {name!r} has weight {weight[name]} but gave no bonus")
            raw = _reduce(raw, term.reduce_beta)
            if raw.shape != rollout.reward.shape:
                expected = tuple(rollout.reward.shape)
                raise ValueError(
                    f"source {name!r} has shape {tuple(raw.shape)}, expected {expected}"
                )
            raw = torch.where(rollout.valid, raw, 0.0)
            parts[name] = Part(raw, _scale(raw, term, rollout), weight[name])
        scaled = {name: part.scaled for name, part in parts.items()}
        if not scaled:
            scaled = {"reward": torch.zeros_like(rollout.reward)}
        reward, weights = self.combine(scaled, weight)
        discount, carry = self._boundaries(rollout)
        names = tuple(stream.name for stream in self.streams)
        return Rewards(reward, discount, carry, weights, names, parts)

    @torch.no_grad()
    def update(self, rollout: Rollout, rewards: Rewards) -> dict[str, float]:
        """Store running statistics, once per iteration. Returns ``reward/<source>/...`` scalars."""
        metrics: dict[str, float] = {}
        valid = rollout.valid
        size = {
            n: (p.weight * p.scaled[valid]).abs().mean().item() for n, p in rewards.parts.items()
        }
        total = sum(size.values()) or 1.0
        for name, part in rewards.parts.items():
            term = self.terms[name]
            if term.transform is not None:
                term.transform.update(part.raw, rollout)
            if term.budget is not None:
                term.budget.update(part.scaled, rollout)
            metrics |= {
                f"reward/{name}/raw": part.raw[valid].mean().item(),
                f"reward/{name}/scaled": part.scaled[valid].mean().item(),
                f"reward/{name}/weighted": part.weight * part.scaled[valid].mean().item(),
                f"reward/{name}/share": size[name] / total,
            }
        return metrics

    def _boundaries(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Discount and carry [T, N, K] of every stream."""
        ended = rollout.terminated | rollout.truncated
        ones = torch.ones_like(rollout.reward)
        discount, carry = [], []
        for stream in self.streams:
            stop = rollout.terminated & stream.episodic
            discount.append(torch.where(stop, 0.0, stream.gamma * ones))
            carry.append(torch.where(ended & stream.episodic, 0.0, ones))
        return torch.stack(discount, -1), torch.stack(carry, -1)


def _reduce(bonus: Tensor, beta: float | None) -> Tensor:
    """[T, N, M] to [T, N]: mean, or soft minimum with `beta`; [T, N] as it is."""
    if bonus.dim() < 3:
        return bonus
    if beta is None:
        return bonus.mean(-1)
    return -(torch.logsumexp(-beta * bonus, -1) - torch.tensor(float(bonus.shape[-1])).log()) / beta


def _scale(raw: Tensor, term: Term, rollout: Rollout) -> Tensor:
    scaled = raw if term.transform is None else term.transform(raw, rollout)
    if term.clip is not None:
        scaled = scaled.clamp(-term.clip, term.clip)
    return scaled if term.budget is None else term.budget(scaled, rollout)
