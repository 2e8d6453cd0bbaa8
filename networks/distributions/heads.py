"""Distributions for the outputs of a policy's last layer, by action space."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.action_spaces import ActionMask, action_range, choices, is_bounded
from firstlight.networks.distributions.base import Distribution
from firstlight.networks.distributions.discrete import (
    Categorical,
    ComponentLayout,
    JointCategorical,
    MultiBernoulli,
    MultiCategorical,
)
from firstlight.networks.distributions.gaussian import DiagGaussian, SquashedGaussian

LOG_STD_RANGE = (-5.0, 2.0)
"""Range that log standard deviations of a policy's head are clamped to, before scaling."""
MAX_COMBINATIONS = 2**16
"""Largest number of combinations that a mask over combinations may have."""


class ActionHead(nn.Module, ABC):
    """Makes the action distributions of one space from the outputs of a policy's last layer.

    Attributes:
        num_outputs: of the last layer.
        num_log_std: length of the log standard deviations that a policy learns beside its outputs;
            0 for none.
        mask: meaning of masks, if there are any.
        scale: factors of the shape of an action by which actions are larger than the outputs.
    """

    num_outputs: int
    num_log_std: int = 0
    mask: ActionMask | None = None
    scale: Tensor | float = 1.0

    @abstractmethod
    def make(
        self, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Distribution:
        """Make the distributions.

        Args:
            outputs: [..., num_outputs].
            log_std: [num_log_std], where there are any.
            mask: [..., *mask], see `ActionMask`; None allows all.
        """

    def allowed(self, mask: Tensor | None) -> Tensor | None:
        """Convert a mask to bool [..., S] over all choices; None allows all."""
        return None if mask is None or self.mask is None else self.mask.flat(mask)


def distribution_for(
    act_space: spaces.Space,
    obs_space: spaces.Dict | None = None,
    *,
    scale_actions: bool = False,
    squash: bool = False,
    state_dependent_std: bool = False,
) -> ActionHead:
    """Return what makes the distributions for an action space.

    Args:
        act_space: Discrete, MultiDiscrete, MultiBinary or Box, of any shape.
        obs_space: whose field "action_mask", if there is one, forbids discrete actions.
        scale_actions: map outputs of -1 and 1 of a Box to its bounds.
        squash: squash the normal distribution of a Box by tanh.
        state_dependent_std: take the log standard deviations of a Box from the outputs.

    Raises:
        ValueError: for another space, or a mask that does not fit.

    >>> distribution_for(spaces.MultiDiscrete([3, 5])).num_outputs
    8
    """
    if isinstance(act_space, spaces.Box):
        return GaussianHead(
            act_space,
            scale_actions=scale_actions,
            squash=squash,
            state_dependent_std=state_dependent_std,
        )
    sizes = choices(act_space)
    if not sizes:
        raise ValueError(
            f"no action distribution for {act_space}: Discrete, MultiDiscrete, MultiBinary and Box "
            "have one"
        )
    mask = None if obs_space is None else ActionMask.find(act_space, obs_space)
    if isinstance(act_space, spaces.Discrete):
        return CategoricalHead(act_space, mask)
    if isinstance(act_space, spaces.MultiBinary):
        return MultiBernoulliHead(act_space, mask)
    assert isinstance(act_space, spaces.MultiDiscrete)
    if mask is not None and mask.joint:
        return JointCategoricalHead(act_space, mask)
    return MultiCategoricalHead(act_space, mask)


class CategoricalHead(ActionHead):
    """Makes `Categorical` distributions: logits of the `n` actions.

    Args:
        act_space: of the actions.
        mask: meaning of masks, if there are any.
    """

    def __init__(self, act_space: spaces.Discrete, mask: ActionMask | None = None):
        super().__init__()
        self.num_outputs, self.mask = int(act_space.n), mask

    def make(
        self, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Categorical:
        """Make them, see `ActionHead.make`."""
        return Categorical(outputs, self.allowed(mask))


class MultiCategoricalHead(ActionHead):
    """Makes `MultiCategorical` distributions: logits of the choices of one component after another.

    Args:
        act_space: of the actions.
        mask: meaning of masks, if there are any.
    """

    def __init__(self, act_space: spaces.MultiDiscrete, mask: ActionMask | None = None):
        super().__init__()
        self.layout = ComponentLayout(choices(act_space), act_space.shape)
        self.num_outputs, self.mask = sum(self.layout.sizes), mask

    def make(
        self, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> MultiCategorical:
        """Make them, see `ActionHead.make`."""
        return MultiCategorical(outputs, self.layout, self.allowed(mask))


class JointCategoricalHead(ActionHead):
    """Makes `JointCategorical` distributions, for masks over combinations: a logit of each.

    Args:
        act_space: of the actions.
        mask: meaning of masks.

    Raises:
        ValueError: for more than `MAX_COMBINATIONS`.
    """

    def __init__(self, act_space: spaces.MultiDiscrete, mask: ActionMask):
        super().__init__()
        self.sizes, self.shape, self.mask = choices(act_space), act_space.shape, mask
        self.num_outputs = math.prod(self.sizes)
        if self.num_outputs > MAX_COMBINATIONS:
            raise ValueError(
                f"a mask over {self.num_outputs:,} combinations of actions, expected at most "
                f"{MAX_COMBINATIONS:,}: give a mask of [{sum(self.sizes)}], one for each component"
            )

    def make(
        self, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> JointCategorical:
        """Make them, see `ActionHead.make`."""
        return JointCategorical(outputs, self.sizes, self.shape, self.allowed(mask))


class MultiBernoulliHead(ActionHead):
    """Makes `MultiBernoulli` distributions: a logit of a 1 for each element.

    Args:
        act_space: of the actions.
        mask: meaning of masks, if there are any.
    """

    def __init__(self, act_space: spaces.MultiBinary, mask: ActionMask | None = None):
        super().__init__()
        self.shape, self.mask = act_space.shape, mask
        self.num_outputs = math.prod(self.shape)

    def make(
        self, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> MultiBernoulli:
        """Make them, see `ActionHead.make`."""
        allowed = self.allowed(mask)
        pairs = None if allowed is None else allowed.unflatten(-1, (-1, 2))
        return MultiBernoulli(outputs, self.shape, pairs)


class GaussianHead(ActionHead):
    """Makes `DiagGaussian` or `SquashedGaussian` distributions: means, and perhaps deviations.

    Centre and scale follow from the space, so checkpoints do not hold them.

    Args:
        act_space: of the actions.
        scale_actions: map outputs of -1 and 1 to the bounds, in the dimensions that `is_bounded`
            names; the others are used as they are.
        squash: squash by tanh, in the same dimensions.
        state_dependent_std: take the log standard deviations from the outputs too, clamped to
            `LOG_STD_RANGE`.
    """

    def __init__(
        self,
        act_space: spaces.Box,
        *,
        scale_actions: bool = False,
        squash: bool = False,
        state_dependent_std: bool = False,
    ):
        super().__init__()
        self.shape, size = act_space.shape, math.prod(act_space.shape)
        bounded = is_bounded(act_space).ravel()
        centre, half = (bound.ravel() for bound in action_range(act_space))
        if not scale_actions:
            centre, half = np.zeros(size), np.ones(size)
        self.scaled = bool(centre.any() or (half != 1).any())
        self.squash = squash and bool(bounded.any())
        self.state_dependent_std = state_dependent_std
        self.num_outputs = 2 * size if state_dependent_std else size
        self.num_log_std = 0 if state_dependent_std else size
        self._centre: Tensor
        self._half_width: Tensor
        self._log_scale: Tensor
        self._squashed: Tensor | None
        width = torch.tensor(half.tolist())
        self.register_buffer("_centre", torch.tensor(centre.tolist()), persistent=False)
        self.register_buffer("_half_width", width, persistent=False)
        self.register_buffer("_log_scale", width.log(), persistent=False)
        some = None if bounded.all() else torch.from_numpy(bounded)
        self.register_buffer("_squashed", some, persistent=False)

    @property
    def scale(self) -> Tensor | float:  # type: ignore[override]
        """Factors of the shape of an action; 1 where nothing is scaled."""
        return self._half_width.view(self.shape) if self.scaled else 1.0

    def make(
        self, outputs: Tensor, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> DiagGaussian:
        """Make them, see `ActionHead.make`; a mask has no meaning here."""
        if self.state_dependent_std:
            outputs, log_std = outputs.chunk(2, -1)
            log_std = log_std.clamp(*LOG_STD_RANGE)
        assert log_std is not None
        if self.squash:
            return SquashedGaussian(
                outputs, log_std, self._centre, self._half_width, self._squashed, self.shape
            )
        if self.scaled:  # an affine map of a normal variable is normal
            outputs = self._centre + self._half_width * outputs
            log_std = log_std + self._log_scale
        return DiagGaussian(outputs, log_std, self.shape)
