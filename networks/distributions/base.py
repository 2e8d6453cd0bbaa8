"""Action distributions over any leading axes, with the few operations that learning needs.

Lighter than `torch.distributions`: nothing is validated, and samples come from a given generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Distribution(ABC):
    """A batch of action distributions.

    Attributes:
        params: [..., P], what the distributions are determined by.
    """

    params: Tensor

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one action each, [..., *action], int64 or float32."""

    @abstractmethod
    def mode(self) -> Tensor:
        """Return the most likely action each, of the shape of a sample."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability (density) [...] of `action` [..., *action]."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return the entropy [...] in nats."""

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw one action each. Returns them and their log-probabilities [...].

        With the same generator, `sample` draws the same action.
        """
        action = self.sample(generator)
        return action, self.log_prob(action)

    def fisher_diagonal(self) -> Tensor:
        """Return the Fisher matrix over `params`, which must be diagonal, as [..., P].

        Raises:
            ValueError: for a distribution that does not implement it.
        """
        raise ValueError(
            f"no natural gradient for a {type(self).__name__}: it does not implement "
            "fisher_diagonal()"
        )
