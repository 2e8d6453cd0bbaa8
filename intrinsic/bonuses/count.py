"""Bonuses from counting states."""

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
    """Pays for arriving where one has seldom been, by counting hashed states (Tang et al. 2017).

    The bonus of step t is about its true successor s', and the visit at hand is counted, so the
    first visit pays 1:

    - ``"global"``: ``1 / sqrt(N(s'))``, N over the whole run;
    - ``"episodic"``: ``1 / sqrt(N_e(s'))``, N_e over the episode, whose first observation counts
      as a visit, so that going back to the start is nothing new;
    - ``"first_visit"``: ``1 / sqrt(N(s'))`` where ``N_e(s') = 1``, else 0.

    Integer fields are hashed as they are; floats are made coarse first, see `bits` and `bins`.
    The published weight is 0.005 on MiniGrid, where RIDE and others count the *full* grid; here
    the policy's own view is counted unless `keys` says otherwise.

    Args:
        obs_space: what policies see.
        info_space: side channels; needed to count one that is a float.
        scope: which count.
        keys: names of the fields that make a state, from `obs_space` or else from the rollout's
            info (say "position"); default all of `obs_space`.
        bits: length of a SimHash code, ``sign(A x)``, of the float fields.
        bins: cuts of each bounded float dimension, without `bits`.
        seed: of A.

    Raises:
        ValueError: for an unknown scope, an unbounded float field without `bits`, `bits` without a
            float field, or `keys` that name nothing.

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
            raise ValueError(f"scope is one of {', '.join(get_args(Scope))}, not {scope!r}")
        self.scope = scope
        self.state_keys = StateKeys(
            obs_space, info_space=info_space, keys=keys, bits=bits, bins=bins, seed=seed
        )
        self.table = None if scope == "episodic" else VisitTable()
        self.visits = None if scope == "global" else EpisodicVisits()

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Returns [T, N] in [0, 1]."""
        here, after = self.state_keys(rollout)
        bonus = rollout.valid.cpu().float()
        if self.table is not None:
            bonus /= self.table.count(after, rollout.valid).clamp(min=1).sqrt()
        if self.visits is not None:
            visits = self.visits.count(here, after, rollout)
            bonus *= visits == 1 if self.scope == "first_visit" else visits.clamp(min=1).rsqrt()
        return bonus.to(rollout.device)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learns nothing. Returns how many states were ever seen."""
        return {} if self.table is None else {"states": float(self.table.used)}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Forget the running episodes; the count over the whole run stays."""
        if self.visits is not None:
            self.visits.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.005 (the comparison of MiniGrid bonuses by Andres et al. 2022)."""
        return Term(weight=0.005, gamma=0.99, episodic=True)
