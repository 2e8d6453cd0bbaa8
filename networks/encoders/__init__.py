"""Encoders turn observation fields [B, ...] into features [B, out_dim]."""

import numpy as np
from gymnasium import spaces

from firstlight.networks.encoders.base import Encoder, TwinEncoder
from firstlight.networks.encoders.grid import Grid
from firstlight.networks.encoders.mlp import MLP, Flat, TwinMLP
from firstlight.networks.encoders.nethack import NetHack
from firstlight.networks.encoders.oni import ONINet
from firstlight.networks.encoders.pixel import Pixel


def auto(obs_space: spaces.Dict) -> Encoder:
    """Choose the first encoder that suits a space, of `NetHack`, `Grid`, `Pixel` and `MLP`."""
    if {"glyphs", "blstats"} <= obs_space.spaces.keys():
        return NetHack(obs_space)
    for key, space in obs_space.spaces.items():
        if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
            if space.shape[2] == 3 and max(space.shape) < 36:
                return Grid(obs_space, key=key)
            if min(space.shape[1:]) >= 36:
                return Pixel(obs_space, key=key)
    return MLP(obs_space)


__all__ = [
    "MLP",
    "Encoder",
    "Flat",
    "Grid",
    "NetHack",
    "ONINet",
    "Pixel",
    "TwinEncoder",
    "TwinMLP",
    "auto",
]
