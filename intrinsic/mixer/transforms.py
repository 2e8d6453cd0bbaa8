"""Transforms that rescale each value of a source before it is weighted.

Transforms that look along an episode are in `potentials`; division by the running deviation of
rewards or returns is in `firstlight.intrinsic.norm`.

Statistics with a `decay` are updated once per iteration, not once per row: a `decay` of 0.99 has a
half-life of 69 iterations. All transforms return 0 on rows that are not valid and ignore them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Transform
from firstlight.networks import collective


class Chained(Transform):
    """Applies several transforms in sequence, each to the output of the one before.

    Args:
        transforms: in the order in which they apply.

    >>> from firstlight.intrinsic.norm import RewardScale
    >>> bounded = Chained([RewardScale(), ParSigmoid()])
    """

    def __init__(self, transforms: Sequence[Transform]):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def __iter__(self) -> Iterator[Transform]:
        return (cast(Transform, each) for each in self.transforms)

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N] to scaled [T, N]; store nothing."""
        for each in self:
            raw = torch.where(rollout.valid, each(raw, rollout), 0.0)
        return raw

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        for each in self:
            scaled = torch.where(rollout.valid, each(raw, rollout), 0.0)
            each.update(raw, rollout)
            raw = scaled


class ZScore(Transform):
    """``(r - mean) / std`` with exponentially decaying statistics; ``r / std`` if not centred.

    The result does not depend on the scale or offset of the source. A centred bonus is negative
    about half of the time, which rewards ending episodes early where that is possible. The decay is
    our choice; PAR's comparison (arXiv 2502.18770) weights all values alike, as a decay near 1.

    Args:
        decay: of the statistics, per iteration, in (0, 1).
        center: subtract the mean.
        epsilon: added to the deviation, so that a constant gives 0.

    Attributes:
        weight: [] float64, total weight of all values so far; at most 1.
        mean: [] float64.
        var: [] float64.
    """

    weight: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, *, decay: float = 0.99, center: bool = True, epsilon: float = 1e-8):
        super().__init__()
        self.decay, self.center, self.epsilon = decay, center, epsilon
        for name in ("weight", "mean", "var"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N], including its own statistics; store nothing."""
        _, mean, var = self._merged(raw[rollout.valid])
        centred = raw - mean if self.center else raw
        return torch.where(rollout.valid, centred / (var.sqrt() + self.epsilon), 0.0).float()

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        self.weight, self.mean, self.var = self._merged(raw[rollout.valid])

    def _merged(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, mean and variance including `x` [*]."""
        if collective.total(len(x)) == 0:
            return self.weight, self.mean, self.var
        new_mean, new_var = collective.mean_and_var(x.double())
        weight = self.decay * self.weight + (1 - self.decay)
        share = (1 - self.decay) / weight  # 1 at first: there is nothing older
        away = new_mean - self.mean
        spread = share * (1 - share) * away.square()
        var = (1 - share) * self.var + share * new_var + spread
        return weight, self.mean + share * away, var


class MinMax(Transform):
    """``(r - min) / (max - min)`` over all values so far, in [0, 1] (compared in arXiv 2502.18770).

    The result does not depend on the scale or offset of the source. A single outlier compresses all
    other values permanently; a constant gives 0.

    Attributes:
        low: [] smallest rating so far.
        high: [] largest rating so far.
        started: [] bool, whether there was any rating.
    """

    low: Tensor
    high: Tensor
    started: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N], including its own statistics; store nothing."""
        low, high, _ = self._merged(raw[rollout.valid])
        span = (high - low).clamp(min=torch.finfo(raw.dtype).tiny)
        return torch.where(rollout.valid, (raw - low) / span, 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        self.low, self.high, self.started = self._merged(raw[rollout.valid])

    def _merged(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if collective.total(len(x)) == 0:
            return self.low, self.high, self.started
        none = x.new_tensor(torch.inf)  # of a process without ratings
        low = collective.minimum(x.min() if len(x) else none)
        high = collective.maximum(x.max() if len(x) else -none)
        low = torch.where(self.started, torch.minimum(low, self.low), low)
        high = torch.where(self.started, torch.maximum(high, self.high), high)
        return low, high, torch.ones_like(self.started)


class LogSigmoid(Transform):
    """``log sigmoid((r - ref) / scale) + shift`` (Transforming & Combining, arXiv 2402.00742).

    The slope is 1 far below the reference and 0 far above it: among several sources with this
    transform the worst has the largest gradient, and their sum is the log-probability that *all*
    are good, if r is a Bradley-Terry rating. The reference is the 0.85 quantile under the first
    policy, as published. Values are at most `shift`, so given every step it is a penalty per step:
    intended for ratings given once an episode, or before `Potential` in a `Chained`.

    Args:
        quantile: that defines the reference.
        decay: 1.0 keeps the reference of the first rollout, as published; less lets it follow.
        scale: divides the rating.
        shift: added; with ``log(2)`` the reference maps to 0.

    Attributes:
        reference: the reference [1], and whether it is known.
    """

    def __init__(
        self, *, quantile: float = 0.85, decay: float = 1.0, scale: float = 1.0, shift: float = 0.0
    ):
        super().__init__()
        self.scale, self.shift = scale, shift
        self.reference = _Quantiles([quantile], decay)

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N] to scaled [T, N]; store nothing."""
        above = (raw - self.reference.merged(raw[rollout.valid])) / self.scale
        scaled = nn.functional.logsigmoid(above) + self.shift
        return torch.where(rollout.valid, scaled, 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        self.reference.update(raw[rollout.valid])


class ParSigmoid(Transform):
    """``mean_m sigmoid(k (r - ref_m))``, preference as reward (PAR, arXiv 2502.18770).

    Bounded by 0 and 1, steepest near the references and flat far from them: extreme ratings gain
    almost nothing. The published references are ratings of answers by the initial policy; here they
    are evenly spaced quantiles of the first rollout's ratings.

    Args:
        num_references: M.
        k: steepness.
        decay: 1.0 keeps the references of the first rollout; less lets them follow.
        center: subtract 1/2, so that ratings near the references map to about 0.

    Attributes:
        reference: the references [M], and whether they are known.
    """

    def __init__(
        self, *, num_references: int = 10, k: float = 1.0, decay: float = 1.0, center: bool = False
    ):
        super().__init__()
        self.k, self.center = k, center
        levels = [(m + 0.5) / num_references for m in range(num_references)]
        self.reference = _Quantiles(levels, decay)

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N] to scaled [T, N]; store nothing."""
        references = self.reference.merged(raw[rollout.valid])
        scaled = torch.zeros_like(raw)
        for reference in references:
            scaled += torch.sigmoid(self.k * (raw - reference))
        scaled = scaled / len(references) - 0.5 * self.center
        return torch.where(rollout.valid, scaled, 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Add `raw` [T, N] to the running statistics."""
        self.reference.update(raw[rollout.valid])


class Clip(Transform):
    """``min(r - threshold, 0)``: a penalty for ratings below a threshold (arXiv 2410.15115).

    Good steps give 0, so repeating them gains nothing; other steps cost, which can reward ending
    episodes early. The paper uses it with `Delta`, as
    ``Chained([Clip(threshold=...), Delta()])``, and publishes no threshold. (To bound a source on
    both sides use ``Term.clip``.)

    Args:
        threshold: eta, a rating that is good enough.
    """

    def __init__(self, *, threshold: float):
        super().__init__()
        self.threshold = threshold

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """Transform `raw` [T, N] to scaled [T, N]."""
        return torch.where(rollout.valid, (raw - self.threshold).clamp(max=0), 0.0)


class _Quantiles(nn.Module):
    """Quantiles of the first rollout's ratings, moved towards those of later ones if decay < 1."""

    values: Tensor
    started: Tensor
    levels: Tensor

    def __init__(self, levels: Sequence[float], decay: float):
        super().__init__()
        self.decay = decay
        self.register_buffer("levels", torch.tensor(list(levels)), persistent=False)
        self.register_buffer("values", torch.zeros(len(levels)))
        self.register_buffer("started", torch.tensor(False))

    def merged(self, x: Tensor) -> Tensor:
        """Compute the quantiles [Q] including ratings `x` [*]; store nothing."""
        x = collective.gather_rows(x)
        if len(x) == 0:
            return self.values
        now = torch.quantile(x, self.levels)
        moved = self.decay * self.values + (1 - self.decay) * now
        return torch.where(self.started, moved, now)

    def update(self, x: Tensor) -> None:
        """Add ratings `x` [*]."""
        self.values = self.merged(x)
        self.started = self.started | (collective.total(len(x)) > 0)
