"""The encoder for images."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable


@rebuildable
class Pixel(Encoder):
    """Convolutional network of Mnih et al. 2015 over uint8 frames, scaled to [0, 1].

    Args:
        obs_space: of one environment, with a field `key`, Box uint8 [C, H, W] (H, W at least 36).
        key: name of the image field; other fields are not used.
        out_dim: width of the last layer.
    """

    def __init__(self, obs_space: spaces.Dict, *, key: str = "obs", out_dim: int = 512):
        super().__init__()
        shape = obs_space[key].shape
        assert shape is not None
        self.key, self.out_dim = key, out_dim
        self.convs = nn.Sequential(
            nn.Conv2d(shape[0], 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        for layer in self.convs:
            if isinstance(layer, nn.Conv2d):
                orthogonal(layer)
        with torch.no_grad():
            width = self.convs(torch.zeros(1, *shape)).shape[1]
        self.linear = orthogonal(nn.Linear(width, out_dim))

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, out_dim]."""
        return torch.relu(self.linear(self.convs(obs[self.key].float() / 255)))
