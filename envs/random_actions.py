"""Uniform action distributions over any action space."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.action_spaces import ActionMask, choices, is_bounded


class RandomChoices:
    """Uniform over what is allowed of Discrete, MultiDiscrete and MultiBinary actions.

    Args:
        act_space: of one environment.
        like: [...], gives the leading axes and the device.
        mask: [..., *mask], see `ActionMask`; None allows all.

    Raises:
        ValueError: for another space.
    """

    def __init__(self, act_space: spaces.Space, like: Tensor, mask: Tensor | None = None):
        self.sizes, self.shape = choices(act_space), act_space.shape or ()
        if not self.sizes:
            raise ValueError(f"no uniform action over {act_space}: use a Box or (multi-)discrete")
        self.like, self.allowed = like, None
        self._mask: ActionMask | None = None
        if mask is not None:
            self._mask = ActionMask(act_space, mask.shape[like.dim() :])
            self.allowed = self._mask.components(mask)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [..., *shape] int64; 0 where nothing is allowed."""
        lead, device = self.like.shape, self.like.device
        if self.allowed is not None:  # the largest of uniform numbers, of those that are allowed
            noise = torch.rand(self.allowed.shape, generator=generator, device=device)
            choice = noise.masked_fill_(~self.allowed, -1.0).argmax(-1)
            if self._mask is not None and self._mask.joint:
                choice = torch.stack(torch.unravel_index(choice[..., 0], self.sizes), -1)
        elif len(self.sizes) == 1:
            choice = torch.randint(self.sizes[0], lead, generator=generator, device=device)
        else:
            noise = torch.rand((*lead, len(self.sizes)), generator=generator, device=device)
            choice = (noise.double() * torch.tensor(self.sizes, device=device)).long()
        return choice.reshape(*lead, *self.shape)

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw actions; return them and their log-probabilities [...]."""
        action = self.sample(generator)
        return action, self.log_prob(action)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return [...] for an `action` that is allowed."""
        if self.allowed is not None:
            return -self.allowed.sum(-1).clamp(min=1).float().log().sum(-1)
        return torch.full(self.like.shape, -sum(map(math.log, self.sizes)))


class RandomBox:
    """Uniform over a Box; standard normal where it has no usable bounds.

    Args:
        act_space: of one environment.
        like: [...], gives the leading axes and the device.
    """

    def __init__(self, act_space: spaces.Box, like: Tensor):
        self.act_space, self.like = act_space, like
        self.bounded = torch.as_tensor(is_bounded(act_space), device=like.device)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw [..., *shape] float32."""
        low, high = self._bounds()
        size = (*self.like.shape, *low.shape)
        action = low + (high - low) * torch.rand(size, generator=generator, device=low.device)
        if not self.bounded.all():
            noise = torch.empty(size, device=low.device).normal_(generator=generator)
            action = torch.where(self.bounded, action, noise)
        return action

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw actions; return them and their log-densities [...]."""
        action = self.sample(generator)
        return action, self.log_prob(action)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density [...] of `action`."""
        low, high = self._bounds()
        normal = -0.5 * action.square() - 0.5 * math.log(2 * math.pi)
        each = torch.where(self.bounded, -(high - low).log(), normal)
        return each.flatten(self.like.dim()).sum(-1) if low.dim() else each

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Return the usable bounds, 0 and 1 for others; of integers half a number further out."""
        integers = np.dtype(self.act_space.dtype).kind != "f"
        low, high = (
            torch.where(
                self.bounded,
                torch.as_tensor(bound.astype(np.float32), device=self.like.device),
                float(value),
            )
            for bound, value in ((self.act_space.low, 0), (self.act_space.high, 1))
        )
        return (low - 0.5, high + 0.5) if integers else (low, high)
