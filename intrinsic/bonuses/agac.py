"""`AGAC`, the episodic bonus of adversarially guided actor-critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.memory import EpisodicVisits, StateKeys
from firstlight.intrinsic.mixer.terms import Term


class AGAC(IntrinsicModule):
    """First visits of an episode, as AGAC rewards them (Flet-Berliac et al. 2021, §5).

    The bonus is ``floor(1 / sqrt(N_e(s')))``: 1 for a state's first visit in the episode, whose
    first observation counts as one, else 0. The other half of AGAC, the adversary, is the auxiliary
    `firstlight.agents.algorithms.auxiliaries.Adversary`; ``experiment=agac`` sets both.

    Args:
        obs_space: observation space of the policy.
        info_space: space of the info channels; needed to count float channels.
        keys: names of the fields that define a state, from `obs_space` or else from the rollout's
            info; default all of `obs_space`.
        bits, bins: for fields of floats, see `HashCount`.
        seed: of SimHash.

    Raises:
        ValueError: for unknown `keys`, or floats that cannot be counted.

    >>> AGAC(spaces.Dict({"obs": spaces.Discrete(5)})).default_term().weight
    0.0125
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        info_space: spaces.Dict | None = None,
        keys: Sequence[str] | None = None,
        bits: int | None = None,
        bins: int = 20,
        seed: int = 0,
    ):
        super().__init__()
        self.state_keys = StateKeys(
            obs_space, info_space=info_space, keys=keys, bits=bits, bins=bins, seed=seed
        )
        self.visits = EpisodicVisits()

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Count the rollout and compute the bonus [T, N], 0 or 1."""
        here, after = self.state_keys(rollout)
        visits = self.visits.count(here, after, rollout)
        return (visits == 1).float().to(rollout.device)

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the visits of the running episodes of `env_ids` [*] int64, or of all."""
        self.visits.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.0125 as published, not scaled."""
        return Term(weight=0.0125, gamma=0.99, episodic=True)
