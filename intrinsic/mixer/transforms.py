"""How one source is rescaled before it is weighted.

These look at each rating alone. Those that look along an episode are in `potentials`; division by
the running deviation of rewards or of returns is `firstlight.intrinsic.norm`'s.

Statistics that drift do so once per iteration, not once per row: a `decay` of 0.99 forgets half of
them in 69 iterations. All are 0 on rows that are not valid and count none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer.terms import Transform


class Chained(nn.Module):
    """Transforms one after the other; each sees, and counts, what the one before it gave.

    Args:
        transforms: the first one first; each an `nn.Module`.

    >>> from firstlight.intrinsic.norm import RewardScale
    >>> bounded = Chained([RewardScale(), ParSigmoid()])
    """

    def __init__(self, transforms: Sequence[Transform]):
        super().__init__()
        self.transforms = nn.ModuleList([cast(nn.Module, each) for each in transforms])

    def __iter__(self) -> Iterator[Transform]:
        return (cast(Transform, each) for each in self.transforms)

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """`raw` [T, N] to scaled [T, N]; stores nothing."""
        for each in self:
            raw = torch.where(rollout.valid, each(raw, rollout), 0.0)
        return raw

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N]."""
        for each in self:
            scaled = torch.where(rollout.valid, each(raw, rollout), 0.0)
            each.update(raw, rollout)
            raw = scaled


class ZScore(nn.Module):
    """``(r - mean) / std``, both forgetting exponentially; ``r / std`` if not centred.

    Scaling or shifting the source changes nothing. A centred bonus is negative half of the time:
    where episodes may end early, ending them early then pays. The forgetting is ours; PAR's
    comparison (arXiv 2502.18770) counts everything alike, which is a decay near 1.

    Args:
        decay: of the statistics, per iteration, in (0, 1).
        center: subtract the mean.
        epsilon: added to the deviation, so that a constant gives 0.

    Attributes:
        weight: [] float64, of all that was counted; at most 1.
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
        """`raw` [T, N] to scaled [T, N], the rollout at hand counted in; stores nothing."""
        _, mean, var = self._merged(raw[rollout.valid])
        centred = raw - mean if self.center else raw
        return torch.where(rollout.valid, centred / (var.sqrt() + self.epsilon), 0.0).float()

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N]."""
        self.weight, self.mean, self.var = self._merged(raw[rollout.valid])

    def _merged(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, mean and variance with `x` [*] counted in."""
        if len(x) == 0:
            return self.weight, self.mean, self.var
        x = x.double()
        weight = self.decay * self.weight + (1 - self.decay)
        share = (1 - self.decay) / weight  # 1 at first: there is nothing older
        away = x.mean() - self.mean
        spread = share * (1 - share) * away.square()
        var = (1 - share) * self.var + share * x.var(correction=0) + spread
        return weight, self.mean + share * away, var


class MinMax(nn.Module):
    """``(r - min) / (max - min)`` of everything seen, in [0, 1] (as compared in arXiv 2502.18770).

    Scaling up or shifting the source changes nothing. One outlier presses all else together for
    ever; a constant gives 0.

    Attributes:
        low: [] smallest rating so far.
        high: [] largest.
        started: [] bool.
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
        """`raw` [T, N] to scaled [T, N], the rollout at hand counted in; stores nothing."""
        low, high, _ = self._merged(raw[rollout.valid])
        span = (high - low).clamp(min=torch.finfo(raw.dtype).tiny)
        return torch.where(rollout.valid, (raw - low) / span, 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N]."""
        self.low, self.high, self.started = self._merged(raw[rollout.valid])

    def _merged(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(x) == 0:
            return self.low, self.high, self.started
        low, high = x.min(), x.max()
        low = torch.where(self.started, torch.minimum(low, self.low), low)
        high = torch.where(self.started, torch.maximum(high, self.high), high)
        return low, high, torch.ones_like(self.started)


class LogSigmoid(nn.Module):
    """``log sigmoid((r - ref) / scale) + shift`` (Transforming & Combining, arXiv 2402.00742).

    Far below the reference it rises with slope 1, above it is flat: of several sources so
    transformed, the worst gets the effort, and their sum is the log-probability that *all* are
    good, if r is a Bradley-Terry rating. The reference is the 0.85 quantile under the first policy,
    as published. Per step it is a penalty for living, at most `shift`: meant for ratings given once
    an episode, or before `Potential` in a `Chained`.

    Args:
        quantile: of the reference.
        decay: 1.0 keeps the reference of the first rollout, as published; below, it rolls.
        scale: what counts as one unit of the rating.
        shift: added; ``log(2)`` makes the reference worth 0.

    Attributes:
        reference: [1] and whether there is one.
    """

    def __init__(
        self, *, quantile: float = 0.85, decay: float = 1.0, scale: float = 1.0, shift: float = 0.0
    ):
        super().__init__()
        self.scale, self.shift = scale, shift
        self.reference = _Quantiles([quantile], decay)

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """`raw` [T, N] to scaled [T, N]; stores nothing."""
        above = (raw - self.reference.merged(raw[rollout.valid])) / self.scale
        scaled = nn.functional.logsigmoid(above) + self.shift
        return torch.where(rollout.valid, scaled, 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N]."""
        self.reference.update(raw[rollout.valid])


class ParSigmoid(nn.Module):
    """``mean_m sigmoid(k (r - ref_m))``, preference as reward (PAR, arXiv 2502.18770).

    Bounded by 0 and 1, steepest near the references, flat far from them: nothing is gained by a
    rating that is merely extreme. The published references are ratings of answers by the policy
    that training began with; here they are evenly spaced quantiles of the first rollout's ratings.

    Args:
        num_references: M.
        k: steepness.
        decay: 1.0 keeps the references of the first rollout; below, they roll.
        center: subtract 1/2, so that the references' level is worth about 0.

    Attributes:
        reference: [M] and whether there are any.
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
        """`raw` [T, N] to scaled [T, N]; stores nothing."""
        references = self.reference.merged(raw[rollout.valid])
        scaled = torch.zeros_like(raw)
        for reference in references:
            scaled += torch.sigmoid(self.k * (raw - reference))
        scaled = scaled / len(references) - 0.5 * self.center
        return torch.where(rollout.valid, scaled, 0.0)

    @torch.no_grad()
    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Count `raw` [T, N]."""
        self.reference.update(raw[rollout.valid])


class Clip(nn.Module):
    """``min(r - threshold, 0)``: from a bonus to a penalty for falling short (arXiv 2410.15115).

    Being good again and again then pays nothing, so it cannot be farmed; every step that is not
    good costs, so ending early may pay. The paper uses it with `Delta`, as
    ``Chained([Clip(threshold=...), Delta()])``, and publishes no threshold. (To bound a source on
    both sides there is ``Term.clip``.)

    Args:
        threshold: eta, a rating that is good enough.
    """

    def __init__(self, *, threshold: float):
        super().__init__()
        self.threshold = threshold

    @torch.no_grad()
    def forward(self, raw: Tensor, rollout: Rollout) -> Tensor:
        """`raw` [T, N] to scaled [T, N]."""
        return torch.where(rollout.valid, (raw - self.threshold).clamp(max=0), 0.0)

    def update(self, raw: Tensor, rollout: Rollout) -> None:
        """Nothing to store."""


class _Quantiles(nn.Module):
    """Quantiles of a rollout's ratings: the first rollout's, moved by later ones if decay < 1."""

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
        """The quantiles [Q] as if ratings `x` [*] were counted too; nothing is stored."""
        if len(x) == 0:
            return self.values
        now = torch.quantile(x, self.levels)
        moved = self.decay * self.values + (1 - self.decay) * now
        return torch.where(self.started, moved, now)

    def update(self, x: Tensor) -> None:
        """Count ratings `x` [*]."""
        self.values = self.merged(x)
        self.started = self.started | (len(x) > 0)
