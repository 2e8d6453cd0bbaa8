"""Observations and actions of Gymnasium's batched spaces as our named tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs
from firstlight.envs.vec import dotted, lawful, leaves


def field_spaces(space: spaces.Space) -> spaces.Dict:
    """Make the `obs_space` that a reward module takes, of one environment's observation space.

    A space without fields becomes the field ``"obs"``; nested fields get dotted names; what is not
    an array, such as a text, is left out.

    Raises:
        ValueError: if no field is an array.

    >>> field_spaces(spaces.Discrete(3))
    Dict('obs': Discrete(3))
    """
    fields = {dotted(path): leaf for path, leaf in leaves(space)}
    if not fields:
        raise ValueError(f"no field of the observation space {space} is an array")
    return spaces.Dict(fields)


def field_tensors(space: spaces.Space, obs: Any) -> Obs:
    """Copy a batch of observations to tensors, each [N, ...].

    Args:
        space: of one environment.
        obs: arrays with an additional first axis N, nested as in `space`.
    """
    fields = {}
    for path, leaf in leaves(space):
        value = obs
        for key in path:
            value = value[key]
        fields[dotted(path)] = torch.from_numpy(np.array(value, lawful(np.dtype(leaf.dtype))))
    return fields


def stacked_tensors(space: spaces.Space, obs: Sequence[Any]) -> Obs:
    """Stack observations of single environments, at least one, to tensors, each [D, ...]."""
    singles = [field_tensors(space, one) for one in obs]
    return {name: torch.stack([one[name] for one in singles]) for name in singles[0]}


def action_tensor(space: spaces.Space, action: Any) -> Tensor:
    """Convert actions [N, ...] of an action space to ours: int64 from 0, or float32 for a Box."""
    if isinstance(space, spaces.Box):
        return torch.from_numpy(np.array(action, np.float32))
    start: Any = 0
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        start = space.start
    return torch.from_numpy(np.array(action, np.int64) - start)
