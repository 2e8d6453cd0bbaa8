"""The encoder for images."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.fields import LARGE, channel_axes
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable


@rebuildable
class Pixel(Encoder):
    """Convolutional network of Mnih et al. 2015 over frames, uint8 ones scaled to [0, 1].

    Frames with a side below 36, which it does not fit, go through three layers of kernels of 3.

    Args:
        obs_space: of one environment, with a field `key`, a Box [H, W], [C, H, W], [H, W, C],
            [S, C, H, W] or [S, H, W, C]: the channels are the first axis of [C, H, W], unless the
            last one is smaller.
        key: name of the image field; other fields are not used.
        out_dim: width of the last layer.
        divisor: what frames are divided by; default the upper bound of uint8 frames, 1 for others.

    Raises:
        ValueError: for a field that is not a picture of such dimensions.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        key: str = "obs",
        out_dim: int = 512,
        divisor: float | None = None,
    ):
        super().__init__()
        space = obs_space[key]
        if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3, 4):
            raise ValueError(f"observation {key!r} is {space}, expected a Box of 2 to 4 axes")
        self.key, self.out_dim, self.shape = key, out_dim, space.shape
        if divisor is None:
            divisor = float(space.high.max()) if space.dtype == np.uint8 else 1.0
        self.divisor = divisor
        channels, sides = channel_axes(space.shape) if len(space.shape) > 2 else ((), (0, 1))
        self._order = (0, *(axis + 1 for axis in (*channels, *sides)))
        self._moved = self._order != tuple(range(len(self._order)))
        size = [space.shape[axis] for axis in sides]
        depth = int(np.prod([space.shape[axis] for axis in channels]))
        self.convs = nn.Sequential(*_layers(depth, large=min(size) >= LARGE), nn.Flatten())
        for layer in self.convs:
            if isinstance(layer, nn.Conv2d):
                orthogonal(layer)
        with torch.no_grad():
            width = self.convs(torch.zeros(1, depth, *size)).shape[1]
        self.linear = orthogonal(nn.Linear(width, out_dim))

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, out_dim]."""
        frames = obs[self.key]
        if self._moved:
            frames = frames.permute(self._order)
        frames = frames.float() / self.divisor
        if frames.dim() != 4:  # [B, S, C, H, W] or [B, H, W]
            frames = frames.reshape(len(frames), -1, *frames.shape[-2:])
        return torch.relu(self.linear(self.convs(frames)))

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        size = " x ".join(map(str, self.shape))
        scaled = "unscaled" if self.divisor == 1 else f"divided by {self.divisor:g}"
        return {self.key: f"convolutions over {size}, {scaled}"}


def _layers(depth: int, *, large: bool) -> list[nn.Module]:
    """Make convolutions over images of `depth` channels, each with its ReLU."""
    widths = (depth, 32, 64, 64)
    kernels = ((8, 4, 0), (4, 2, 0), (3, 1, 0)) if large else ((3, 1, 1), (3, 2, 1), (3, 2, 1))
    layers: list[nn.Module] = []
    for (i, o), (size, stride, padding) in zip(itertools.pairwise(widths), kernels, strict=True):
        layers += [nn.Conv2d(i, o, size, stride=stride, padding=padding), nn.ReLU()]
    return layers
