"""Action distributions over any leading axes, with the few operations that learning needs.

Lighter than `torch.distributions`: no validation, and sampling from a generator of one's own.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """A batch of action distributions."""

    params: Tensor  # [..., P]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One action each, [...] int64 or [..., A] float32."""
        ...

    def mode(self) -> Tensor:
        """The likeliest action each."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """[...] log-probability (density) of `action`."""
        ...

    def entropy(self) -> Tensor:
        """[...] entropy in nats."""
        ...


class Categorical:
    """One of `A` actions.

    Args:
        logits: [..., A], unnormalised.
    """

    def __init__(self, logits: Tensor):
        self.params = torch.log_softmax(logits, -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """[...] int64, by an exponential race."""
        race = torch.empty_like(self.params).exponential_(generator=generator)
        return self.params.exp().div_(race).argmax(-1)

    def mode(self) -> Tensor:
        """[...] int64."""
        return self.params.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[...] of `action` [...] int64."""
        return self.params.gather(-1, action[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """[...]."""
        return -(self.params.exp() * self.params).sum(-1)


class DiagGaussian:
    """Independent normals.

    Args:
        mean: [..., A].
        log_std: [A] or [..., A].
    """

    def __init__(self, mean: Tensor, log_std: Tensor):
        self.mean, self.log_std = mean, log_std.expand_as(mean)
        self.params = torch.cat([self.mean, self.log_std], -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """[..., A] float32, unbounded; environments clip."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        """[..., A]."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """[...] of `action` [..., A]."""
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """[...]."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
