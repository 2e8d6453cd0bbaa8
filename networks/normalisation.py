"""Running means and deviations, of observations and of returns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.networks import collective

_RESOLUTION = 1e-6
"""Deviation, relative to the mean, below which float32 numbers count as constant."""
_TINY = 1e-30  # least scale of returns; its square root and reciprocal are float32 numbers


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance; float64."""

    count: Tensor
    mean: Tensor
    var: Tensor


def merge_moments(first: Moments, second: Moments) -> Moments:
    """Compute the moments of two sets of observations together (Chan et al. 1979).

    The counts must not both be 0. Also for moments from several processes.
    """
    total, delta = first.count + second.count, second.mean - first.mean
    spread = delta.square() * (first.count * second.count / total)
    var = (first.var * first.count + second.var * second.count + spread) / total
    return Moments(total, first.mean + delta * (second.count / total), var)


class RunningMoments(nn.Module):
    """Running mean and variance per element, merged batch by batch.

    Parallel merge of Chan et al. 1979, in float64, also of the processes of a run. Starts as if
    `prior` observations of mean 0 and variance 1 had been seen, as in the code of Burda et al.
    2018, so the variance is never 0.

    Args:
        shape: of one observation.
        prior: count of the initial mean and variance; with 0 the moments are those of the data.

    Attributes:
        count: [] float64.
        mean: [*shape] float64.
        var: [*shape] float64.

    >>> moments = RunningMoments()
    >>> moments.update(torch.tensor([1.0, 3.0]))
    >>> round(float(moments.mean), 3), round(float(moments.var), 3)
    (2.0, 1.0)
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, shape: Sequence[int] = (), *, prior: float = 1e-4):
        super().__init__()
        self.register_buffer("count", torch.tensor(prior, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(tuple(shape), dtype=torch.float64))
        self.register_buffer("var", torch.ones(tuple(shape), dtype=torch.float64))

    @torch.no_grad()
    def merged(self, x: Tensor) -> Moments:
        """Compute the moments including `x` [*, *shape] of any dtype; store nothing."""
        so_far = Moments(self.count, self.mean.flatten(), self.var.flatten())
        for new in _of_all_processes(self._parts(x), self.mean.numel(), self.mean.device):
            so_far = merge_moments(so_far, new)
        mean, var = so_far.mean.view_as(self.mean), so_far.var.view_as(self.var)
        return Moments(so_far.count, mean, var)

    def _parts(self, x: Tensor) -> Iterator[Moments]:
        """Compute the moments of `x`, 16 MB of float64 at a time."""
        rows = max(1, 2**21 // self.mean.numel())
        for part in x.reshape(-1, self.mean.numel()).split(rows):
            if len(part) == 0:
                break
            part = part.double()
            average = part.new_full((len(part),), 1 / len(part))  # faster than `mean(0)`
            part_mean = average @ part
            part_var = average @ (part - part_mean).square_()
            yield Moments(self.count.new_tensor(len(part)), part_mean, part_var)

    def update(self, x: Tensor) -> None:
        """Add observations `x` [*, *shape] of any dtype."""
        moments = self.merged(x)
        self.count, self.mean, self.var = moments.count, moments.mean, moments.var

    def normalize(self, x: Tensor, clip: float) -> Tensor:
        """Normalise `x` [*, *shape] of any dtype to float32 of unit variance, within ±`clip`."""
        x = x.float() - self.mean.float()
        return x.div_(self.var.sqrt().float()).clamp_(-clip, clip)


def _of_all_processes(
    parts: Iterator[Moments], size: int, device: torch.device
) -> Iterable[Moments]:
    """Return the moments [size] of each process by rank; in a run of one process the `parts`."""
    if collective.size() == 1:
        return parts
    own = torch.zeros(1 + 2 * size, dtype=torch.float64, device=device)
    if (first := next(parts, None)) is not None:
        whole = functools.reduce(merge_moments, parts, first)
        own = torch.cat([whole.count[None], whole.mean, whole.var])
    rows = collective.stack(own)
    return [Moments(row[0], row[1 : 1 + size], row[1 + size :]) for row in rows if row[0] > 0]


class ObservationNormaliser(nn.Module):
    """Normalises some columns of a vector by their running mean and deviation, and clips them.

    Other columns, and all before the first `update`, are only clipped, or left as they are. A
    column that has not varied yet is centred and not divided. Statistics change in `update` alone,
    so acting and learning in between use the same ones.

    Args:
        chosen: [D] bool, which columns to normalise.
        clip: largest absolute value of a normalised number.

    Attributes:
        moments: of the chosen columns.
    """

    mean: Tensor
    scale: Tensor
    bound: Tensor
    chosen: Tensor

    def __init__(self, chosen: Sequence[bool], *, clip: float = 10.0):
        super().__init__()
        columns = torch.tensor(chosen)
        self.moments = RunningMoments((int(columns.sum()),), prior=0.0)
        self.register_buffer("mean", torch.zeros(len(columns)))
        self.register_buffer("scale", torch.ones(len(columns)))
        bound = torch.full((len(columns),), torch.inf).masked_fill(columns, clip)
        self.register_buffer("bound", bound, persistent=False)
        self.register_buffer("chosen", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [B, D]."""
        return ((x - self.mean) * self.scale).clamp(-self.bound, self.bound)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add observations `x` [R, C] of the chosen columns only."""
        if collective.total(len(x)) == 0:
            return
        self.moments.update(x)
        mean, std = self.moments.mean, self.moments.var.sqrt()
        varied = std > _RESOLUTION * mean.abs()
        scale = torch.where(varied, 1 / std, 1.0)
        self.mean = torch.zeros_like(self.mean).masked_scatter(self.chosen, mean.float())
        self.scale = torch.ones_like(self.scale).masked_scatter(self.chosen, scale.float())


class ReturnNormaliser(nn.Module):
    """Running mean and scale of the returns of each stream (van Hasselt et al. 2016).

    Moments are moving means over rollouts, corrected for their start. Until a stream's first reward
    that is not 0 its mean is 0 and its scale 1; from then on its scale is the deviation of its
    returns, or the root mean square of the rewards that are not 0 if that is more. So the scale
    does not shrink while a sparse reward is absent, follows the units of the rewards exactly, and
    is not set by a few rewards that are many times larger than the others.

    Args:
        num_streams: `K`.
        centred: use the mean; else it is 0, and the scale is the root of the mean square.
        decay: of the moments, per rollout.
        reward_decay: of the rewards' mean square, per rollout with a reward.

    Attributes:
        mean: [K].
        scale: [K], above 0.
        rewarded: [K] bool, whether a reward that is not 0 has occurred.
    """

    mean: Tensor
    scale: Tensor
    rewarded: Tensor
    total: Tensor
    first: Tensor
    second: Tensor
    reward_total: Tensor
    reward_square: Tensor

    def __init__(
        self,
        num_streams: int,
        *,
        centred: bool = True,
        decay: float = 0.95,
        reward_decay: float = 0.999,
    ):
        super().__init__()
        self.centred, self.decay, self.reward_decay = centred, decay, reward_decay
        self.register_buffer("mean", torch.zeros(num_streams))
        self.register_buffer("scale", torch.ones(num_streams))
        self.register_buffer("rewarded", torch.zeros(num_streams, dtype=torch.bool))
        for name in ("total", "first", "second", "reward_total", "reward_square"):
            self.register_buffer(name, torch.zeros(num_streams, dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Tensor, target: Tensor) -> None:
        """Add a rollout.

        Args:
            reward: [R, K] of valid rows.
            target: [R, K] returns, the targets of the values.
        """
        if collective.total(len(reward)) == 0:
            return
        squares, number = collective.sum(
            torch.stack([reward.double().square().sum(0), (reward != 0).double().sum(0)])
        )
        new = number > 0
        self.rewarded = self.rewarded | new
        keep = 1 - (1 - self.reward_decay) * new.double()
        self.reward_total = keep * self.reward_total + (1 - keep)
        square = squares / number.clamp(min=1)
        self.reward_square = keep * self.reward_square + (1 - keep) * square
        target = target.double()
        self.total = self._moved(self.total, torch.ones_like(self.total))
        self.first = self._moved(self.first, collective.mean(target))
        self.second = self._moved(self.second, collective.mean(target.square()))
        weight = self.total.clamp(min=1 - self.decay)  # of a stream without rewards it is 0
        mean = self.first / weight if self.centred else torch.zeros_like(self.first)
        std = (self.second / weight - mean.square()).clamp(min=0).sqrt()
        typical = (self.reward_square / self.reward_total.clamp(min=1 - self.reward_decay)).sqrt()
        scale = torch.maximum(std, typical)
        self.mean = torch.where(self.rewarded, mean, 0.0).float()
        self.scale = torch.where(self.rewarded, scale, 1.0).float().clamp(min=_TINY)

    def _moved(self, before: Tensor, new: Tensor) -> Tensor:
        """Move a moving mean [K] of the streams that have had a reward."""
        return torch.where(self.rewarded, self.decay * before + (1 - self.decay) * new, before)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Load; a checkpoint of before has the largest reward in place of the mean square."""
        if (largest := state_dict.pop(f"{prefix}largest", None)) is not None:
            state_dict[f"{prefix}reward_square"] = largest.square()
            state_dict[f"{prefix}reward_total"] = (largest > 0).double()
        super()._load_from_state_dict(state_dict, prefix, *args)
