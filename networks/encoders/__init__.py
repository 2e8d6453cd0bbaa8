"""Encoders turn observation fields [B, ...] into features [B, out_dim]."""

from gymnasium import spaces

from firstlight.envs.fields import is_bytes
from firstlight.networks.encoders.base import Encoder, TwinEncoder
from firstlight.networks.encoders.grid import Grid
from firstlight.networks.encoders.impala import Impala
from firstlight.networks.encoders.mlp import MLP, Flat, TwinMLP
from firstlight.networks.encoders.multi_input import FieldKinds, MultiInput
from firstlight.networks.encoders.nethack import SCREENS, NetHack
from firstlight.networks.encoders.oni import ONINet
from firstlight.networks.encoders.pixel import Pixel
from firstlight.networks.encoders.sparse_nethack import SparseNetHack
from firstlight.networks.encoders.words import Words


def auto(obs_space: spaces.Dict, *, normalize_obs: bool = False) -> Encoder:
    """Choose an encoder that uses every field of a space.

    Args:
        obs_space: of one environment.
        normalize_obs: of `MLP` and `MultiInput`, see `Flat`.

    Returns:
        `SparseNetHack`, `Grid`, `Pixel` or `MLP` where one of them suits all fields, else
        `MultiInput`.
    """
    kinds = FieldKinds(obs_space)
    if {"glyphs", "blstats"} <= obs_space.spaces.keys():
        others = [*kinds.grids, *kinds.pictures, *kinds.texts, *kinds.rest]
        # its other views of the screen repeat the glyphs: the encoder refuses them, with a sentence
        return (
            SparseNetHack(obs_space)
            if set(others) <= set(SCREENS)
            else MultiInput(obs_space, normalize_obs=normalize_obs)
        )
    if kinds.texts:
        return MultiInput(obs_space, normalize_obs=normalize_obs)
    if not kinds.grids and not kinds.pictures:
        return MLP(obs_space, normalize_obs=normalize_obs)
    plain = not any(is_bytes(obs_space[name]) for name in kinds.rest)
    if len(kinds.grids) == 1 and not kinds.pictures and plain:
        return Grid(obs_space, key=kinds.grids[0])
    if len(kinds.pictures) == 1 and not kinds.grids and not kinds.rest:
        return Pixel(obs_space, key=kinds.pictures[0])
    return MultiInput(obs_space, normalize_obs=normalize_obs)


def auto_normalized(
    obs_space: spaces.Dict,
    act_space: spaces.Space | None = None,
    *,
    normalize_obs: bool = True,
    twin: bool = True,
) -> Encoder:
    """Choose the encoder of a policy: the commands' default.

    As `auto`, but fields of floats are normalised, and with continuous actions an `MLP` becomes a
    `TwinMLP`, one network for the policy and another for the values (docs/learner.md has what it
    changes on Hopper).

    Args:
        obs_space: of one environment.
        act_space: of one environment; None for one set of features.
        normalize_obs: see `auto`.
        twin: False for one set of features. The commands have one beside a bonus.
    """
    chosen = auto(obs_space, normalize_obs=normalize_obs)
    if twin and isinstance(chosen, MLP) and isinstance(act_space, spaces.Box):
        return TwinMLP(obs_space, normalize_obs=normalize_obs)
    return chosen


__all__ = [
    "MLP",
    "Encoder",
    "Flat",
    "Grid",
    "Impala",
    "MultiInput",
    "NetHack",
    "ONINet",
    "Pixel",
    "SparseNetHack",
    "TwinEncoder",
    "TwinMLP",
    "Words",
    "auto",
    "auto_normalized",
]
