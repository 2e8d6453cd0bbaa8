"""The residual network of IMPALA."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs
from firstlight.networks.encoders.picture import PictureEncoder
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable

_BLOCKS = 2  # residual blocks of each stage


@rebuildable
class Impala(PictureEncoder):
    """Residual network over a picture: the large one of Espeholt et al. 2018, Figure 3, right.

    Each stage is a convolution of kernel 3, a maximum over 3 x 3 pixels at every second one, and
    two residual blocks; after the last one a ReLU, a linear layer and a ReLU. Fifteen convolutions
    in all. A stage halves the sides, rounded up. The paper's LSTM is ``core=lstm``.

    The second convolution of each block begins smaller by the square root of the number of blocks,
    so that the features of all blocks together begin about as large as without them; the paper
    does not say how it began.

    Args:
        obs_space: of one environment.
        key: name of the picture; other fields are not used.
        channels: of each stage, before they are multiplied by `width`.
        width: factor of all channels.
        out_dim: width of the last layer.
        divisor: see `PictureEncoder`, which defines what a picture is.

    Raises:
        ValueError: for a field that is not a picture, or no or non-positive channels.
    """

    network = "residual convolutions"

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        key: str = "obs",
        channels: Sequence[int] = (16, 32, 32),
        width: int = 1,
        out_dim: int = 256,
        divisor: float | None = None,
    ):
        super().__init__(obs_space, key, divisor)
        if not channels or min(*channels, width) < 1:
            raise ValueError(
                f"channels is {channels} and width {width}, expected positive whole numbers"
            )
        self.out_dim = out_dim
        widths = [self.depth, *(width * one for one in channels)]
        blocks = _BLOCKS * len(channels)
        self.stages = nn.Sequential(*(_stage(i, o, blocks) for i, o in itertools.pairwise(widths)))
        height, breadth = (math.ceil(side / 2 ** len(channels)) for side in self.size)
        self.linear = orthogonal(nn.Linear(widths[-1] * height * breadth, out_dim))

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, out_dim]."""
        features = torch.relu(self.stages(self.planes(obs)))
        return torch.relu(self.linear(features.flatten(1)))


class _Residual(nn.Module):
    """Add two convolutions of [B, C, H, W], each after a ReLU, to their input.

    Args:
        channels: `C`.
        gain: of the second convolution's first weights.
    """

    def __init__(self, channels: int, gain: float):
        super().__init__()
        self.first = orthogonal(_conv(channels, channels))
        self.second = orthogonal(_conv(channels, channels), gain)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Make one stage of a network that has `blocks` residual blocks in all."""
    gain = (2 / blocks) ** 0.5
    residual = [_Residual(outputs, gain) for _ in range(_BLOCKS)]
    first = orthogonal(_conv(inputs, outputs), 1.0)  # no ReLU between it and the next sum
    return nn.Sequential(first, nn.MaxPool2d(3, stride=2, padding=1), *residual)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
