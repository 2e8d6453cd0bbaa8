"""`RewardMixer`, the only place where rewards are added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.apply_budgets import apply_budgets, contributions
from firstlight.intrinsic.mixer.combine import Combine, Heads
from firstlight.intrinsic.mixer.dominance_monitor import DominanceMonitor
from firstlight.intrinsic.mixer.metrics import source_metrics
from firstlight.intrinsic.mixer.potentials import Potential
from firstlight.intrinsic.mixer.rewards import Component, Rewards
from firstlight.intrinsic.mixer.terms import Term

if TYPE_CHECKING:
    from firstlight.intrinsic.base import IntrinsicModule


class RewardMixer(nn.Module):
    """Combines the environment's reward and the modules' bonuses into reward streams.

    The environment's reward is the source ``"reward"``; it is scaled or clipped only if its term
    does so. `forward` is pure; running statistics are stored in `update`.

    Args:
        terms: source name to `Term`; "reward" is added with `Term()` if it is missing.
        combine: how sources form streams; default `Heads()`.

    Raises:
        ValueError: for terms that do not fit the combine, or settings that would have no effect or
            a wrong one.

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
        self.statistics = nn.ModuleDict()  # transforms and budgets, for the state dict
        for name, term in self.terms.items():
            kinds: Counter[str] = Counter()
            for module in [*filter(None, [term.transform]), *term.budgets]:
                kind = type(module).__name__
                kinds[kind] += 1
                again = f":{kinds[kind]}" if kinds[kind] > 1 else ""
                self.statistics[f"{name}:{kind}{again}"] = module
        self._check_potentials()
        self._check_budgets()
        self.alarm = DominanceMonitor(list(self.terms))  # "alarm" is its key in checkpoints

    @classmethod
    def from_modules(cls, modules: Mapping[str, IntrinsicModule]) -> RewardMixer:
        """Mix the environment's reward and `modules` by their default terms, by `Heads`."""
        terms = {name: module.default_term() for name, module in modules.items()}
        return cls({"reward": Term(), **terms})

    def check(self, sources: Iterable[str], num_streams: int) -> None:
        """Raise ValueError for a source without a term, or another number of value heads.

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
        """Number of reward streams, `K`."""
        return len(self.streams)

    def active(self, name: str, progress: float) -> bool:
        """Whether a source's weight is not 0 at `progress`; one of weight 0 is not computed."""
        return self.terms[name].weight_at(progress) != 0

    @torch.no_grad()
    def forward(
        self, rollout: Rollout, bonus: Mapping[str, Tensor], progress: float = 0.0
    ) -> Rewards:
        """Combine the rewards of a rollout; store nothing.

        Args:
            rollout: has the environment's reward and the ends of episodes.
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
        raw, before = {}, {}
        for name, term in self.terms.items():
            if weight[name] == 0:
                continue
            given = rollout.reward if name == "reward" else bonus.get(name)
            if given is None:
                raise ValueError(f"source {name!r} has weight {weight[name]} but gave no bonus")
            raw[name] = _reduced(name, given, term, rollout)
            before[name] = _transformed(raw[name], term, rollout)
        scaled = apply_budgets(before, weight, self.terms, self.combine, rollout)
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
            components={n: Component(raw[n], before[n], scaled[n], weight[n]) for n in raw},
            contributed=contributions(scaled, weight, self.combine, self.streams, weights, rollout),
        )

    @torch.no_grad()
    def update(self, rollout: Rollout, rewards: Rewards) -> dict[str, float]:
        """Store running statistics, once per iteration. Returns ``reward/<source>/...`` scalars."""
        components = rewards.components
        raw = {name: component.raw for name, component in components.items()}
        before = {name: component.before_budget for name, component in components.items()}
        scaled = {name: component.scaled for name, component in components.items()}
        weight = {name: component.weight for name, component in components.items()}
        for name in components:
            transform = self.terms[name].transform
            if transform is not None:
                transform.update(raw[name], rollout)
        apply_budgets(before, weight, self.terms, self.combine, rollout, store=True)
        joint = self.combine.joint(scaled, weight)
        metrics = source_metrics(components, rewards.contributed, rollout.valid, joint)
        self.alarm(metrics, () if joint is None else joint.names)
        return metrics | self.combine.update(raw, rollout)

    def _check_potentials(self) -> None:
        """Reject a potential whose discount is not its stream's: it changes the best policy."""
        for name, term in self.terms.items():
            if term.transform is None:
                continue
            same = [stream for stream in self.streams if stream.name == name] or self.streams
            kinds = {(stream.gamma, stream.episodic) for stream in same}
            for module in term.transform.modules():
                if isinstance(module, Potential) and (module.gamma, module.episodic) not in kinds:
                    raise ValueError(
                        f"the Potential of {name!r} has gamma={module.gamma}, episodic="
                        f"{module.episodic}, but its stream has {sorted(kinds)}; with another "
                        "discount or end it changes which policy is best"
                    )

    def _check_budgets(self) -> None:
        """Reject relative budgets in normalised streams, where the size of a source is lost."""
        for stream in self.streams:
            term = self.terms.get(stream.name)
            if stream.normalize and term and any(budget.relative for budget in term.budgets):
                raise ValueError(
                    f"the advantages of stream {stream.name!r} are normalised, so only its weight "
                    "decides its share: remove its ShareCap, or set normalize=False"
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


def _reduced(name: str, given: Tensor, term: Term, rollout: Rollout) -> Tensor:
    """A source [T, N] or [T, N, M] as [T, N], 0 on rows that are not valid."""
    if given.dim() == 3:
        given = given.mean(-1) if term.reduce is None else term.reduce(given, rollout)
    if given.shape != rollout.reward.shape:
        expected = tuple(rollout.reward.shape)
        raise ValueError(f"source {name!r} has shape {tuple(given.shape)}, expected {expected}")
    return torch.where(rollout.valid, given, 0.0)


def _transformed(raw: Tensor, term: Term, rollout: Rollout) -> Tensor:
    """A source [T, N] transformed and clipped, 0 on rows that are not valid."""
    scaled = raw
    if term.transform is not None:
        scaled = torch.where(rollout.valid, term.transform(raw, rollout), 0.0)
    return scaled if term.clip is None else scaled.clamp(-term.clip, term.clip)
