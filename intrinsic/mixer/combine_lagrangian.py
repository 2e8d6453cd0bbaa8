"""Streams that are wanted up to a threshold, with weights that see to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.combine import Heads, Stream
from firstlight.intrinsic.mixer.segments import known, sums
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.mixer.thresholds import ThresholdSearch
from firstlight.intrinsic.state import GrowingBuffers

_BOUND = 5.0  # of nu: its sigmoid lies in [0.007, 0.993] and can still come back


class Lagrangian(GrowingBuffers):
    """Maximise the objective while every source with a threshold gets that much (2310.04373).

    A head for each source, as in `Heads`. A source i with a threshold theta_i has a multiplier
    lambda_i, the sigmoid of nu_i, and its advantages weigh ``lambda_i`` times its term's weight;
    those of the objective weigh ``m - sum_i lambda_i`` times theirs, m being the number of such
    sources. After each iteration nu_i takes a step of gradient descent, with momentum, on
    ``lambda_i * (J_i - theta_i)``: a source that falls short gains weight, one that has enough
    loses it. With `equality` lambda is the tanh instead, which may turn negative and push a source
    *down* to its threshold. J_i is measured on the source's raw values. Sources without a threshold
    keep their weight.

    As in the paper, the advantages of each stream are normalised by themselves before they are
    weighted (`Rewards.advantage`), so that lambda compares streams whatever their units. Terms with
    a threshold then want weights near 1, not those made for the size of a bonus.

    Args:
        thresholds: source name to theta, in units of its raw value.
        objective: the source that is maximised otherwise.
        per: "episode" measures the mean undiscounted sum over episodes that ended in the rollout
            (no end, no step), "step" the mean over rows.
        equality: hold J at theta, instead of at least theta.
        lr: of nu.
        momentum: of nu.
        max_grad: bound on the gradient of each nu.
        search: of the thresholds; those given are where it begins.
        normalize: False weights advantages as they are; sources then need transforms and weights
            that make them comparable.

    Attributes:
        nu: [S] float64, by the order of thresholds; within 5 of 0.
        velocity: [S] float64.
        open: [E, S+1] float64, sums of each environment's open episode; the objective's last.
    """

    nu: Tensor
    velocity: Tensor
    open: Tensor

    def __init__(
        self,
        *,
        thresholds: Mapping[str, float],
        objective: str = "reward",
        per: Literal["episode", "step"] = "episode",
        equality: bool = False,
        lr: float = 0.1,
        momentum: float = 0.1,
        max_grad: float = 0.5,
        search: ThresholdSearch | None = None,
        normalize: bool = True,
    ):
        super().__init__()
        if per not in ("episode", "step"):
            raise ValueError(f"per is 'episode' or 'step', not {per!r}")
        if objective in thresholds:
            raise ValueError(f"{objective!r} is the objective and cannot have a threshold")
        self.names, self.start = list(thresholds), [float(t) for t in thresholds.values()]
        self.objective, self.per, self.equality = objective, per, equality
        self.lr, self.momentum, self.max_grad = lr, momentum, max_grad
        self.search = search if thresholds else None
        self.heads = Heads(normalize=normalize)
        S = len(self.names)
        self.register_buffer("nu", torch.zeros(S, dtype=torch.float64))
        self.register_buffer("velocity", torch.zeros(S, dtype=torch.float64))
        self.register_buffer("open", torch.zeros((0, S + 1), dtype=torch.float64))

    def streams(self, terms: Mapping[str, Term]) -> list[Stream]:
        """One stream for each term, in the order of the terms."""
        if unknown := {self.objective, *self.names} - set(terms):
            raise ValueError(
                f"Lagrangian names {sorted(unknown)}, but the sources are {sorted(terms)}"
            )
        return self.heads.streams(terms)

    def forward(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Returns rewards [T, N, K] and advantage weights [K]; weight 0 means reward 0."""
        reward, weights = self.heads(scaled, weight)
        factor = dict(zip(self.names, self.multipliers().tolist(), strict=True))
        live = [factor[name] for name in self.names if weight[name] != 0]
        if live:
            factor[self.objective] = len(live) - sum(live)
        factors = [factor.get(name, 1.0) for name in weight]
        return reward, weights * torch.tensor(factors, device=weights.device)

    def multipliers(self) -> Tensor:
        """Lambda [S] float64."""
        return torch.tanh(self.nu) if self.equality else torch.sigmoid(self.nu)

    def thresholds(self) -> list[float]:
        """Theta, in the order of the names."""
        return self.start if self.search is None else self.search.proposal(self.start)

    @torch.no_grad()
    def update(self, raw: Mapping[str, Tensor], rollout: Rollout) -> dict[str, float]:
        """Move the multipliers. Returns ``reward/<source>/{multiplier,threshold,reached}``."""
        reached = self._reached(raw, rollout)
        thresholds = torch.tensor(self.thresholds(), dtype=torch.float64, device=self.nu.device)
        measured = reached[:-1].isfinite()
        miss = torch.where(measured, reached[:-1] - thresholds, 0.0)
        squashed = self.multipliers()
        slope = 1 - squashed.square() if self.equality else squashed * (1 - squashed)
        gradient = (slope * miss).clamp(-self.max_grad, self.max_grad)
        velocity = self.momentum * self.velocity + gradient
        self.velocity = torch.where(measured, velocity, self.velocity)
        step = torch.where(measured, self.lr * velocity, 0.0)
        self.nu = (self.nu - step).clamp(-_BOUND, _BOUND)
        table = torch.stack([self.multipliers(), thresholds, reached[:-1]]).tolist()
        if self.search is not None:
            *sources, objective = reached.tolist()
            self.search.update(self.start, sources, objective)
        return {
            f"reward/{name}/{what}": value
            for what, row in zip(("multiplier", "threshold", "reached"), table, strict=True)
            for name, value in zip(self.names, row, strict=True)
            if math.isfinite(value)
        }

    def _reached(self, raw: Mapping[str, Tensor], rollout: Rollout) -> Tensor:
        """J [S+1] float64 of each source and the objective; NaN where there is no telling."""
        ids, nothing = rollout.env_ids, torch.zeros_like(rollout.reward)
        memory = known(self.open, ids)
        ended = rollout.valid & (rollout.terminated | rollout.truncated)
        reached = []
        for i, name in enumerate([*self.names, self.objective]):
            values = torch.where(rollout.valid, raw.get(name, nothing), 0.0)
            before = sums(values, rollout, memory[ids, i])
            memory[ids, i] = before[-1]
            if self.per == "step":
                total, count = values.double().sum(), rollout.valid.sum()
            else:
                total = torch.where(ended, before[:-1] + values, 0.0).sum()
                count = ended.sum()
            known_at_all = (count > 0) & (name in raw)
            reached.append(torch.where(known_at_all, total / count.clamp(min=1), torch.nan))
        self.open = memory
        return torch.stack(reached)
