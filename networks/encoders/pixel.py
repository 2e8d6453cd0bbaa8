"""The convolutional network of Mnih et al. 2015."""

from __future__ import annotations

import itertools

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.fields import LARGE
from firstlight.envs.types import Obs
from firstlight.networks.encoders.picture import PictureEncoder
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable


@rebuildable
class Pixel(PictureEncoder):
    """Convolutional network of Mnih et al. 2015 over a picture, a uint8 one scaled to [0, 1].

    Pictures with a side below 36, which it does not fit, go through three layers of kernels of 3.

    Args:
        obs_space: of one environment.
        key: name of the picture; other fields are not used.
        out_dim: width of the last layer.
        divisor: see `PictureEncoder`, which defines what a picture is.

    Raises:
        ValueError: for a field that is not a picture.
    """

    network = "convolutions"

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        key: str = "obs",
        out_dim: int = 512,
        divisor: float | None = None,
    ):
        super().__init__(obs_space, key, divisor)
        self.out_dim = out_dim
        self.convs = nn.Sequential(
            *_layers(self.depth, large=min(self.size) >= LARGE), nn.Flatten()
        )
        for layer in self.convs:
            if isinstance(layer, nn.Conv2d):
                orthogonal(layer)
        with torch.no_grad():
            width = self.convs(torch.zeros(1, self.depth, *self.size)).shape[1]
        self.linear = orthogonal(nn.Linear(width, out_dim))

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, out_dim]."""
        return torch.relu(self.linear(self.convs(self.planes(obs))))


def _layers(depth: int, *, large: bool) -> list[nn.Module]:
    """Make convolutions over images of `depth` channels, each with its ReLU."""
    widths = (depth, 32, 64, 64)
    kernels = ((8, 4, 0), (4, 2, 0), (3, 1, 0)) if large else ((3, 1, 1), (3, 2, 1), (3, 2, 1))
    layers: list[nn.Module] = []
    for (i, o), (size, stride, padding) in zip(itertools.pairwise(widths), kernels, strict=True):
        layers += [nn.Conv2d(i, o, size, stride=stride, padding=padding), nn.ReLU()]
    return layers
