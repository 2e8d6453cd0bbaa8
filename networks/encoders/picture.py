"""Base class of the encoders of one picture: its axes, its scale and its description."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.fields import channel_axes
from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder


class PictureEncoder(Encoder):
    """Base class for encoders that read one picture as [B, depth, height, width].

    Args:
        obs_space: of one environment, with a field `key`, a Box [H, W], [C, H, W], [H, W, C],
            [S, C, H, W] or [S, H, W, C]: the channels are the first axis of [C, H, W], unless the
            last one is smaller. Those of stacked frames [S, ...] are joined, frame after frame.
        key: name of the picture; other fields are not used.
        divisor: what pictures are divided by; default the upper bound of uint8 ones, 1 for others.

    Attributes:
        depth: number of channels, of all frames together.
        size: height and width.
        network: what `describe_fields` calls the layers.

    Raises:
        ValueError: for a field that is not a picture of such dimensions.
    """

    network: ClassVar[str]

    def __init__(self, obs_space: spaces.Dict, key: str, divisor: float | None):
        super().__init__()
        space = obs_space[key]
        if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3, 4):
            raise ValueError(f"observation {key!r} is {space}, expected a Box of 2 to 4 axes")
        self.key, self.shape = key, space.shape
        if divisor is None:
            divisor = float(space.high.max()) if space.dtype == np.uint8 else 1.0
        self.divisor = divisor
        channels, sides = channel_axes(space.shape) if len(space.shape) > 2 else ((), (0, 1))
        self._order = (0, *(axis + 1 for axis in (*channels, *sides)))
        self._moved = self._order != tuple(range(len(self._order)))
        self.size = [space.shape[axis] for axis in sides]
        self.depth = math.prod(space.shape[axis] for axis in channels)

    def planes(self, obs: Obs) -> Tensor:
        """Read the picture [B, ...] as [B, depth, height, width] float32, divided by `divisor`."""
        frames = obs[self.key]
        if self._moved:
            frames = frames.permute(self._order)
        frames = frames.float() / self.divisor
        if frames.dim() != 4:  # [B, S, C, H, W] or [B, H, W]
            frames = frames.reshape(frames.shape[0], -1, *frames.shape[-2:])
        return frames

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        size = " x ".join(map(str, self.shape))
        scaled = "unscaled" if self.divisor == 1 else f"divided by {self.divisor:g}"
        return {self.key: f"{self.network} over {size}, {scaled}"}
