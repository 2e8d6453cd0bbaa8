"""The one place where rewards meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.apply_budgets import contributions, joint_of, spend
from firstlight.intrinsic.mixer.combine import AdaptiveCombine, Combine, Heads
from firstlight.intrinsic.mixer.metrics import Alarm, source_metrics
from firstlight.intrinsic.mixer.potentials import Potential
from firstlight.intrinsic.mixer.rewards import Part, Rewards
from firstlight.intrinsic.mixer.terms import Term

if TYPE_CHECKING:
    from firstlight.intrinsic.base import IntrinsicModule


class RewardMixer(nn.Module):
    """Joins the environment's reward and the modules' bonuses into reward streams.

    The environment's reward is the source ``"reward"``; it is not scaled or clipped unless its
    term says so. `forward` is pure; running statistics are stored in `update`.

    Args:
        terms: source name to `Term`; "reward" is added with `Term()` if it is missing.
        combine: how sources form streams; default `Heads()`.

    Raises:
        ValueError: for terms that the combine cannot join, or that would not do what they say.

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
            parts = [term.transform, *term.budgets]
            kinds: Counter[str] = Counter()
            for part in parts:
                kind = type(part).__name__
                kinds[kind] += 1
                if isinstance(part, nn.Module):
                    again = f":{kinds[kind]}" if kinds[kind] > 1 else ""
                    self.statistics[f"{name}:{kind}{again}"] = part
        self._check_potentials()
        self._check_budgets()
        self.alarm = Alarm(list(self.terms))

    @classmethod
    def of(cls, modules: Mapping[str, IntrinsicModule]) -> RewardMixer:
        """Mix the environment's reward and `modules` by their default terms, by `Heads`."""
        terms = {name: module.default_term() for name, module in modules.items()}
        return cls({"reward": Term(), **terms})

    def check(self, sources: Iterable[str], num_streams: int) -> None:
        """Refuse sources without a term, and a policy with another number of value heads.

        Raises:
            ValueError: naming them.
        """
        if missing := set(sources) - set(self.terms):
            raise ValueError(f"the mixer has no term for {sorted(missing)}")
        if num_streams != self.num_streams:
            raise ValueError(
                f"the policy has num_streams={num_streams}, but the mixer forms "
                f"{self.num_streams} reward streams"
            )

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
        raw, asked = {}, {}
        for name, term in self.terms.items():
            if weight[name] == 0:
                continue
            given = rollout.reward if name == "reward" else bonus.get(name)
            if given is None:
                raise ValueError(f"source {name!r} has weight {weight[name]} but gave no bonus")
            raw[name] = _rated(name, given, term, rollout)
            asked[name] = _asked(raw[name], term, rollout)
        scaled = spend(asked, weight, self.terms, self.combine, rollout)
        parts = {n: Part(raw[n], asked[n], scaled[n], weight[n]) for n in raw}
        reward, weights = self.combine(
            scaled or {"reward": torch.zeros_like(rollout.reward)}, weight
        )
        discount, carry = self._boundaries(rollout)
        return Rewards(
            reward,
            discount,
            carry,
            weights,
            normalize=tuple(stream.normalize for stream in self.streams),
            streams=tuple(stream.name for stream in self.streams),
            parts=parts,
            contributed=contributions(scaled, weight, self.combine, self.streams, weights, rollout),
        )

    @torch.no_grad()
    def update(self, rollout: Rollout, rewards: Rewards) -> dict[str, float]:
        """Store running statistics, once per iteration. Returns ``reward/<source>/...`` scalars."""
        parts = rewards.parts
        weight = {name: part.weight for name, part in parts.items()}
        for name, part in parts.items():
            transform = self.terms[name].transform
            if transform is not None:
                transform.update(part.raw, rollout)
        asked = {name: part.asked for name, part in parts.items()}
        spend(asked, weight, self.terms, self.combine, rollout, store=True)
        scaled = {name: part.scaled for name, part in parts.items()}
        joint = joint_of(self.combine, scaled, weight)
        metrics = source_metrics(parts, rewards.contributed, rollout.valid, joint)
        self.alarm(metrics, () if joint is None else joint.names)
        if isinstance(self.combine, AdaptiveCombine):
            raw = {name: part.raw for name, part in parts.items()}
            metrics |= self.combine.update(raw, rollout)
        return metrics

    def _check_potentials(self) -> None:
        """Refuse a potential that is not made for its stream: it would change the best policy."""
        for name, term in self.terms.items():
            own = [stream for stream in self.streams if stream.name == name] or self.streams
            kinds = {(stream.gamma, stream.episodic) for stream in own}
            if not isinstance(term.transform, nn.Module):
                continue
            for part in term.transform.modules():
                if isinstance(part, Potential) and (part.gamma, part.episodic) not in kinds:
                    raise ValueError(
                        f"the Potential of {name!r} has gamma={part.gamma}, episodic="
                        f"{part.episodic}, but its stream has {sorted(kinds)}; with another "
                        "discount or end it changes which policy is best"
                    )

    def _check_budgets(self) -> None:
        """Refuse a budget that looks at the others where sizes do not count."""
        for stream in self.streams:
            term = self.terms.get(stream.name)
            if stream.normalize and term and any(budget.relative for budget in term.budgets):
                raise ValueError(
                    f"the advantages of stream {stream.name!r} are normalised, so that its weight "
                    "alone says what share it has: leave out its ShareCap, or set normalize=False"
                )

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


def _rated(name: str, given: Tensor, term: Term, rollout: Rollout) -> Tensor:
    """A source [T, N] or [T, N, M] as [T, N], 0 on rows that are not valid."""
    if given.dim() == 3:
        given = given.mean(-1) if term.reduce is None else term.reduce(given, rollout)
    if given.shape != rollout.reward.shape:
        expected = tuple(rollout.reward.shape)
        raise ValueError(f"source {name!r} has shape {tuple(given.shape)}, expected {expected}")
    return torch.where(rollout.valid, given, 0.0)


def _asked(raw: Tensor, term: Term, rollout: Rollout) -> Tensor:
    """What a source [T, N] asks for: transformed, clipped, 0 on rows that are not valid."""
    asked = raw
    if term.transform is not None:
        asked = torch.where(rollout.valid, term.transform(raw, rollout), 0.0)
    return asked if term.clip is None else asked.clamp(-term.clip, term.clip)
