"""Action distributions over any leading axes, with the few operations that learning needs.

Lighter than `torch.distributions`: nothing is validated, and samples come from a given generator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

WIDEST = 1e6
"""Half width of the widest bounds that actions are scaled to: float32's maximum is no bound."""


class Distribution(ABC):
    """A batch of action distributions.

    Attributes:
        params: [..., P], what the distributions are determined by.
        has_log_std: whether a policy learns a log standard deviation [A] beside its outputs.
    """

    params: Tensor
    has_log_std: bool = False

    @classmethod
    @abstractmethod
    def from_outputs(
        cls, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Distribution:
        """Make the distributions from what a policy head returns.

        Args:
            outputs: [..., A].
            log_std: [A], where `has_log_std`.
            mask: [..., A], nonzero for actions that are allowed; None allows all.
        """

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one action each, [...] int64 or [..., A] float32."""

    @abstractmethod
    def mode(self) -> Tensor:
        """Return the most likely action each, of the shape of a sample."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability (density) [...] of `action`."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return the entropy [...] in nats."""


class Categorical(Distribution):
    """One of `A` actions.

    Args:
        logits: [..., A], unnormalised.
    """

    def __init__(self, logits: Tensor):
        self.params = torch.log_softmax(logits, -1)

    @classmethod
    def from_outputs(
        cls, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Categorical:
        """Make it from logits; actions that the mask excludes have probability 0."""
        if mask is not None:
            outputs = outputs.masked_fill(~mask.bool(), torch.finfo(outputs.dtype).min)
        return cls(outputs)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [...] int64, by an exponential race."""
        race = torch.empty_like(self.params).exponential_(generator=generator)
        return self.params.exp().div_(race).argmax(-1)

    def mode(self) -> Tensor:
        """Return [...] int64."""
        return self.params.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for `action` [...] int64."""
        return self.params.gather(-1, action[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return -(self.params.exp() * self.params).sum(-1)


class DiagGaussian(Distribution):
    """Independent normal distributions, one for each dimension of the action.

    Args:
        mean: [..., A].
        log_std: [A] or [..., A].
    """

    has_log_std = True

    def __init__(self, mean: Tensor, log_std: Tensor):
        self.mean, self.log_std = mean, log_std.expand_as(mean)
        self.params = torch.cat([self.mean, self.log_std], -1)

    @classmethod
    def from_outputs(
        cls, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> DiagGaussian:
        """Make it from means and log standard deviations; a mask has no meaning here."""
        assert log_std is not None
        return cls(outputs, log_std)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [..., A] float32, unbounded; environments clip."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        """Return the mean [..., A]."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for `action` [..., A]."""
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Return [...] in nats."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def distribution_for(act_space: spaces.Space) -> tuple[int, type[Distribution]]:
    """Return how many outputs a policy head needs for an action space, and their distribution.

    Raises:
        ValueError: for a space that is neither Discrete nor a one-dimensional Box.

    >>> distribution_for(spaces.Discrete(3))
    (3, <class 'firstlight.networks.distributions.Categorical'>)
    """
    if isinstance(act_space, spaces.Discrete):
        return int(act_space.n), Categorical
    if isinstance(act_space, spaces.Box) and len(act_space.shape) == 1:
        return act_space.shape[0], DiagGaussian
    raise ValueError(f"no action distribution for {act_space}; Discrete and 1-D Box have one")


def is_bounded(act_space: spaces.Box) -> np.ndarray:
    """Return which dimensions [A] of a Box have usable bounds.

    Both are finite, not equal, and no more than twice `WIDEST` apart.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        half = (act_space.high.astype(np.float64) - act_space.low.astype(np.float64)) / 2
    return act_space.bounded_below & act_space.bounded_above & (half > 0) & (half <= WIDEST)


def action_range(act_space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and half width [A] float64 of the bounds; 0 and 1 without usable ones.

    >>> action_range(spaces.Box(25, 35, (1,)))
    (array([30.]), array([5.]))
    """
    low, high = act_space.low.astype(np.float64), act_space.high.astype(np.float64)
    usable = is_bounded(act_space)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(usable, (low + high) / 2, 0.0), np.where(usable, (high - low) / 2, 1.0)
