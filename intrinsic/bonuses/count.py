"""`HashCount`, a count-based bonus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.memory import EpisodicVisits, StateKeys, VisitTable
from firstlight.intrinsic.mixer.terms import Term

Scope = Literal["global", "episodic", "first_visit"]


class HashCount(IntrinsicModule):
    """Count-based bonus ``1 / sqrt(N(s'))`` for rarely visited, hashed states (Tang et al. 2017).

    The bonus of step t is that of its true successor s'. The current visit is included in the
    count, so the bonus of a first visit is 1:

    - ``"global"``: ``1 / sqrt(N(s'))``, N over the whole run;
    - ``"episodic"``: ``1 / sqrt(N_e(s'))``, N_e over the episode; its first observation counts as a
      visit, so returning to the start is not new;
    - ``"first_visit"``: ``1 / sqrt(N(s'))`` where ``N_e(s') = 1``, else 0.

    Integer fields are hashed exactly; floats are discretised first, see `bits` and `bins`. The
    published weight is 0.005 on MiniGrid, where RIDE and others count the *full* grid; here the
    policy's own view is counted, unless `keys` selects other fields.

    Args:
        obs_space: observation space of the policy.
        info_space: space of the info channels; needed to count float channels.
        scope: which count to use.
        keys: names of the fields that define a state, from `obs_space` or else from the rollout's
            info (for example "position"); default all of `obs_space` but texts.
        bits: length of a SimHash code, ``sign(A x)``, of the float fields.
        bins: number of bins per bounded float dimension, without `bits`.
        seed: of A.

    Raises:
        ValueError: for an unknown scope, an unbounded float field without `bits`, `bits` without a
            float field, or unknown `keys`.

    >>> space = spaces.Dict({"obs": spaces.Discrete(5)})
    >>> HashCount(space).default_term().weight
    0.005
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        info_space: spaces.Dict | None = None,
        scope: Scope = "global",
        keys: Sequence[str] | None = None,
        bits: int | None = None,
        bins: int = 20,
        seed: int = 0,
    ):
        super().__init__()
        if scope not in get_args(Scope):
            raise ValueError(f"scope is {scope!r}, expected one of {', '.join(get_args(Scope))}")
        self.scope = scope
        self.state_keys = StateKeys(
            obs_space, info_space=info_space, keys=keys, bits=bits, bins=bins, seed=seed
        )
        self.table = None if scope == "episodic" else VisitTable()
        self.visits = None if scope == "global" else EpisodicVisits()

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Count the rollout and compute the bonus [T, N], in [0, 1]."""
        here, after = self.state_keys(rollout)
        bonus = rollout.valid.cpu().float()
        if self.table is not None:
            bonus /= self.table.count(after, rollout.valid).clamp(min=1).sqrt()
        if self.visits is not None:
            visits = self.visits.count(here, after, rollout)
            bonus *= visits == 1 if self.scope == "first_visit" else visits.clamp(min=1).rsqrt()
        return bonus.to(rollout.device)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Return the number of states seen in the run; nothing is learned."""
        return {} if self.table is None else {"states": float(self.table.used)}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the counts of the running episodes; the count over the whole run stays."""
        if self.visits is not None:
            self.visits.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.005, as in the comparison of MiniGrid bonuses by Andres et al. 2022."""
        return Term(weight=0.005, gamma=0.99, episodic=True)
