"""Encoders turn observation fields [B, ...] into features [B, out_dim]."""

import numpy as np
from gymnasium import spaces
from torch import nn

from firstlight.agents.encoders.grid import Grid
from firstlight.agents.encoders.mlp import MLP, Flat, TwinMLP, orthogonal
from firstlight.agents.encoders.pixel import Pixel


def auto(obs_space: spaces.Dict) -> nn.Module:
    """The encoder that suits an observation space: `Grid`, `Pixel` or `MLP`, in this order."""
    for key, space in obs_space.spaces.items():
        if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
            if space.shape[2] == 3 and max(space.shape) < 36:
                return Grid(obs_space, key=key)
            if min(space.shape[1:]) >= 36:
                return Pixel(obs_space, key=key)
    return MLP(obs_space)


__all__ = ["MLP", "Flat", "Grid", "Pixel", "TwinMLP", "auto", "orthogonal"]
