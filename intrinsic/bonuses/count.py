"""`HashCount`, a count-based bonus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.optional_box import OptionalBox
from firstlight.envs.types import Obs, Rollout
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.memory import EpisodicVisits, StateKeys, VisitTable
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.observed_memory import ObservedMemory

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
        observe_memory: the policy observes the counts that the bonus depends on, see
            `ObservedCounts`.

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
        observe_memory: bool = False,
    ):
        super().__init__()
        self.observe_memory = observe_memory
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

    def wrap(self, vec: VecEnv) -> VecEnv:
        """Add the field `count_memory`, if `observe_memory`."""
        return ObservedCounts(vec, self) if self.observe_memory else vec

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.005, as in the comparison of MiniGrid bonuses by Andres et al. 2022."""
        return Term(weight=0.005, gamma=0.99, episodic=True)


class ObservedCounts(ObservedMemory):
    """Adds the field `count_memory`: ``1 / sqrt(N)`` of the current observation, in (0, 1].

    It has one number for each count that the bonus uses: first that over the run, then that of the
    episode, the observation included. The count over the run is the module's own, so it is as of
    the last rollout that the module computed, 1 for an observation that it does not know, and an
    evaluation reads it without adding to it. Where the field is missing, 1 stands for "new".

    Args:
        vec: the environments.
        module: whose keys and table are used.
    """

    def __init__(self, vec: VecEnv, module: HashCount):
        size = (module.table is not None) + (module.visits is not None)
        super().__init__(vec, "count_memory", OptionalBox(0, 1, (size,), default=1.0))
        self._keys, self._table = module.state_keys, module.table
        self._episodic = module.visits is not None
        self._visits: list[dict[int, int]] = [{} for _ in range(vec.num_envs)]

    def _advance(self, env_ids: Tensor, obs: Obs, info: Obs, opens: Tensor, adds: Tensor) -> Tensor:
        keys = self._keys.of(obs, info)
        counts = [] if self._table is None else [self._table.look_up(keys).clamp(min=1)]
        if self._episodic:
            listed = (x.tolist() for x in (env_ids, keys, opens, adds))
            visits = [self._visit(*row) for row in zip(*listed, strict=True)]
            counts.append(torch.tensor(visits, dtype=torch.int64))
        return torch.stack(counts, -1).float().rsqrt()

    def _visit(self, n: int, key: int, opens: bool, adds: bool) -> int:
        """Count a visit in the episode of environment `n`; return the visits, at least 1."""
        visits = self._visits[n]
        if opens:
            visits.clear()
        if opens or adds:
            visits[key] = visits.get(key, 0) + 1
        return max(visits.get(key, 0), 1)

    def _save(self, n: int) -> dict[str, Tensor]:
        pairs = torch.tensor([*self._visits[n].items()], dtype=torch.int64).reshape(-1, 2)
        return {"keys": pairs[:, 0], "counts": pairs[:, 1]}

    def _load(self, n: int, arrays: Mapping[str, Tensor]) -> None:
        listed = (arrays["keys"].tolist(), arrays["counts"].tolist())
        self._visits[n] = dict(zip(*listed, strict=True))
