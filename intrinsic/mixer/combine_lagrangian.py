"""`Lagrangian`: maximise one source subject to thresholds on others, by learned multipliers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.combine import Combine, Heads, Stream
from firstlight.intrinsic.mixer.segments import sums
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.mixer.thresholds import ThresholdSearch
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows
from firstlight.networks import collective

_BOUND = 5.0  # of nu: keeps its sigmoid in [0.007, 0.993], where the gradient does not vanish


class Lagrangian(GrowingBuffers, Combine):
    """Maximises the objective while each constrained source reaches its threshold (2310.04373).

    One head per source, as in `Heads`. A source i with a threshold theta_i has a multiplier
    lambda_i, the sigmoid of nu_i; its advantages are weighted by ``lambda_i`` times its term's
    weight, those of the objective by ``m - sum_i lambda_i`` times its own, m being the number of
    constrained sources. After each iteration nu_i takes a step of gradient descent with momentum on
    ``lambda_i * (J_i - theta_i)``: a source below its threshold gains weight, one above it loses
    weight. With `equality` lambda is the tanh, which can be negative and push a source *down* to
    its threshold. J_i is measured on raw values. Other sources keep their weight.

    As in the paper, advantages are normalised per stream before they are weighted
    (`Rewards.advantage`), so lambda compares streams independently of their units. Constrained
    terms should then have weights near 1, not weights chosen for the scale of a bonus.

    Args:
        thresholds: source name to theta, in units of its raw value.
        objective: the source to maximise.
        per: "episode" measures the mean undiscounted sum over episodes that ended in the rollout
            (if none ended, nu does not change), "step" the mean over rows.
        equality: keep J equal to theta, instead of at least theta.
        lr: step size of nu.
        momentum: of nu.
        max_grad: bound on the gradient of each nu.
        search: search for the thresholds, starting from the given ones.
        normalize: False weights advantages without normalising them; sources then need transforms
            and weights that make them comparable.

    Attributes:
        nu: [S] float64, in the order of `thresholds`; within ±5.
        velocity: [S] float64.
        open: [E, S+1] float64, sums of each environment's running episode; the objective is last.
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
            raise ValueError(f"per is {per!r}, expected 'episode' or 'step'")
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
        """List one stream per term, in the order of the terms."""
        if unknown := {self.objective, *self.names} - set(terms):
            raise ValueError(
                f"Lagrangian names {sorted(unknown)}, but the sources are {sorted(terms)}"
            )
        return self.heads.streams(terms)

    def forward(
        self, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Compute rewards [T, N, K], 0 for sources of weight 0, and advantage weights [K]."""
        reward, weights = self.heads(scaled, weight)
        factor = dict(zip(self.names, self.multipliers().tolist(), strict=True))
        live = [factor[name] for name in self.names if weight[name] != 0]
        if live:
            factor[self.objective] = len(live) - sum(live)
        factors = [factor.get(name, 1.0) for name in weight]
        return reward, weights * torch.tensor(factors, device=weights.device)

    def multipliers(self) -> Tensor:
        """Compute lambda [S] float64."""
        return torch.tanh(self.nu) if self.equality else torch.sigmoid(self.nu)

    def thresholds(self) -> list[float]:
        """Return the current thresholds theta."""
        return self.start if self.search is None else self.search.proposal(self.start)

    @torch.no_grad()
    def update(self, raw: Mapping[str, Tensor], rollout: Rollout) -> dict[str, float]:
        """Update the multipliers. Returns ``reward/<source>/{multiplier,threshold,reached}``."""
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
        """Measure J [S+1] float64 of each source and the objective; NaN if it is unknown."""
        ids, nothing = rollout.env_ids, torch.zeros_like(rollout.reward)
        running = read_rows(self.open, ids)
        ended = rollout.valid & (rollout.terminated | rollout.truncated)
        reached = []
        for i, name in enumerate([*self.names, self.objective]):
            values = torch.where(rollout.valid, raw.get(name, nothing), 0.0)
            before = sums(values, rollout, running[:, i])
            running[:, i] = before[-1]
            if self.per == "step":
                total, count = values.double().sum(), rollout.valid.sum()
            else:
                total = torch.where(ended, before[:-1] + values, 0.0).sum()
                count = ended.sum()
            total, count = collective.sum(total), collective.sum(count)
            measured = (count > 0) & (name in raw)
            reached.append(torch.where(measured, total / count.clamp(min=1), torch.nan))
        self.open = write_rows(self.open, ids, running)
        return torch.stack(reached)
