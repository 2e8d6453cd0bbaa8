"""Bounds of continuous actions, and masks of discrete ones."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

WIDEST = 1e6
"""Half width of the widest bounds that actions are scaled to: float32's maximum is no bound."""
MASK = "action_mask"
"""Name of the observation field that forbids actions."""


def is_bounded(act_space: spaces.Box) -> np.ndarray:
    """Return which elements of an action, of its shape, have usable bounds.

    Both are finite, not equal, and no more than twice `WIDEST` apart.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        half = (act_space.high.astype(np.float64) - act_space.low.astype(np.float64)) / 2
    return act_space.bounded_below & act_space.bounded_above & (half > 0) & (half <= WIDEST)


def action_range(act_space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and half width, float64, of the bounds; 0 and 1 without usable ones.

    >>> action_range(spaces.Box(25, 35, (1,)))
    (array([30.]), array([5.]))
    """
    low, high = act_space.low.astype(np.float64), act_space.high.astype(np.float64)
    usable = is_bounded(act_space)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(usable, (low + high) / 2, 0.0), np.where(usable, (high - low) / 2, 1.0)


def choices(act_space: spaces.Space) -> tuple[int, ...]:
    """Return the number of choices of each component of a discrete action; empty for others.

    >>> choices(spaces.Discrete(3)), choices(spaces.MultiDiscrete([2, 4]))
    ((3,), (2, 4))
    >>> choices(spaces.MultiBinary(2)), choices(spaces.Box(0, 1))
    ((2, 2), ())
    """
    if isinstance(act_space, spaces.Discrete):
        return (int(act_space.n),)
    if isinstance(act_space, spaces.MultiDiscrete):
        return tuple(int(n) for n in act_space.nvec.flat)
    if isinstance(act_space, spaces.MultiBinary):
        return (2,) * math.prod(act_space.shape)
    return ()


class ActionMask:
    """Meaning of the observation field "action_mask", nonzero for what is allowed.

    ===============  ============================================================================
    Discrete         [n]
    MultiDiscrete    [sum(nvec)], the choices of each component after each other, in any nesting
                     of that size such as [M, n]; or [*nvec], the *combinations* that are allowed
    MultiBinary      [*shape] for the elements that may be 1 (0 is always allowed), or
                     [*shape, 2] for the elements that may be 0 and those that may be 1
    ===============  ============================================================================

    Args:
        act_space: Discrete, MultiDiscrete or MultiBinary.
        shape: of the field.

    Attributes:
        sizes: number of choices of each of `M` components, or of all combinations in one.
        joint: whether the mask is over combinations.

    Raises:
        ValueError: for a shape that does not fit the actions.

    >>> ActionMask(spaces.MultiDiscrete([3, 5]), (3, 5)).sizes
    (15,)
    """

    def __init__(self, act_space: spaces.Space, shape: tuple[int, ...]):
        self.shape, size, sizes = tuple(shape), math.prod(shape), choices(act_space)
        self._ones_only = isinstance(act_space, spaces.MultiBinary) and size == len(sizes)
        fits = size == sum(sizes) or self._ones_only
        multi = isinstance(act_space, spaces.MultiDiscrete)
        self.joint = multi and not fits and self.shape == sizes
        if not fits and not self.joint:
            wanted = f"[{sum(sizes)}]" + (f" or {list(sizes)}" if multi else "")
            raise ValueError(
                f"the observation {MASK!r} has shape {list(self.shape)}, expected {wanted} for "
                f"actions of {act_space}"
            )
        self.sizes: tuple[int, ...] = (size,) if self.joint else sizes
        width, places = max(self.sizes), np.cumsum((0, *self.sizes))
        index = np.full((len(self.sizes), width), places[-1])  # of a column that is always False
        for row, start, n in zip(index, places[:-1], self.sizes, strict=True):
            row[:n] = start + np.arange(n)
        self._index = None if len({*self.sizes}) == 1 else torch.from_numpy(index)

    @classmethod
    def find(cls, act_space: spaces.Space, obs_space: spaces.Dict) -> ActionMask | None:
        """Return the mask of discrete actions among the observations; None if there is none."""
        if MASK not in obs_space.spaces or not choices(act_space):
            return None
        return cls(act_space, obs_space[MASK].shape or ())

    def flat(self, mask: Tensor) -> Tensor:
        """Convert the field [..., *shape] to bool [..., S], all choices after each other."""
        lead = mask.shape[: mask.dim() - len(self.shape)]
        flat = mask.reshape(*lead, -1).bool()
        if self._ones_only:
            flat = torch.stack([torch.ones_like(flat), flat], -1).flatten(-2)
        return flat

    def components(self, mask: Tensor) -> Tensor:
        """Convert the field [..., *shape] to bool [..., M, n]; False where there is no choice."""
        flat = self.flat(mask)
        if self._index is None:
            return flat.unflatten(-1, (len(self.sizes), -1))
        padded = F.pad(flat, (0, 1))
        return padded[..., self._index.to(flat.device)]

    def forbidden(self, mask: Tensor, used: Tensor) -> Tensor:
        """Compute the share of used rows [M] in which nothing is allowed.

        A distribution is uniform there: some environments have states in which no action counts.

        Args:
            mask: [T, N, *shape], the field.
            used: [T, N] bool, rows whose action is taken.
        """
        nothing = ~self.components(mask[used]).any(-1)
        return nothing.double().mean(0) if len(nothing) else nothing.new_zeros(len(self.sizes))
