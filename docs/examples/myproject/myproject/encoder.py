"""An encoder that knows nothing of firstlight but one decorator."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.networks import rebuildable


@rebuildable  # so that a checkpoint can make it again, without this project's config
class Gated(nn.Module):
    """Gated linear layer over one field.

    Args:
        obs_space: of one environment.
        key: name of the field.
        width: of the features.
    """

    def __init__(self, obs_space: spaces.Dict, *, key: str = "obs", width: int = 32):
        super().__init__()
        self.key, self.out_dim = key, width
        inputs = spaces.flatdim(obs_space[key])
        self.linear, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Encode fields [B, ...] as [B, width]."""
        field = obs[self.key].flatten(1).float()
        return torch.tanh(self.linear(field)) * torch.sigmoid(self.gate(field))
