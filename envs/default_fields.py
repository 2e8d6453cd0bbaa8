"""Wrapper that hides what reward modules added to the observation."""

from __future__ import annotations

import torch

from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.types import Obs
from firstlight.envs.wrapper import VecWrapper


class DefaultFields(VecWrapper):
    """Wrapper that gives every optional field of the observation its default.

    Shows what a policy does without the help it had in training, such as a teacher's subgoals;
    `Agent.act` puts the same numbers in the place of missing fields.

    Args:
        vec: the environments; those without an `OptionalBox` are not changed.
    """

    def _transform(self, obs: Obs, info: Obs) -> tuple[Obs, Obs]:
        hidden = {
            name: torch.full_like(field, space.default)
            for name, field in obs.items()
            if isinstance(space := self.obs_space[name], OptionalBox)
        }
        return {**obs, **hidden}, info
