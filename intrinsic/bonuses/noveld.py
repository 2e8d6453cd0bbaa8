"""`NovelD`, a bonus for steps across the border of what is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.bonuses.rnd import RND
from firstlight.intrinsic.distillation import Network
from firstlight.intrinsic.embedding import MakeEncoder, embed
from firstlight.intrinsic.memory import EpisodicVisits, StateKeys, VisitTable
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import GrowingBuffers, read_rows, write_rows

Novelty = Literal["rnd", "count"]


class NovelD(IntrinsicModule):
    """Novelty difference (Zhang et al. 2021; BeBold, Zhang et al. 2020).

    The bonus of a step from s to its true successor s' is
    ``max(n(s') - alpha * n(s), beta) * 1[s' is visited for the first time in the episode]``: steps
    out of what is known give much, steps within it, or within what is all new, little.

    The novelty n is the error of random network distillation, its Euclidean norm as published, or
    ``N^-count_power`` of the visits N over the run, as of when the state was reached; the first
    observation of an episode counts as a visit too.

    Args:
        obs_space: observation space of the policy.
        info_space: space of the info channels; needed to count float channels.
        novelty: "rnd" or "count".
        alpha: share of the novelty of s that is subtracted; 0.5 as published, 0.1 in Henaff et al.
            2023, 0 for the novelty of s' alone.
        beta: least value of the difference; 0 as published.
        first_visit: False leaves the indicator out, which another episodic bonus then replaces.
        keys: names of the fields that define a visited state, from `obs_space` or else from the
            rollout's info (the published code counts "full_grid"); default all of `obs_space`.
        bits, bins: for fields of floats, see `HashCount`.
        count_power: 0.5, or 1 as in BeBold's derivation; for "count".
        rnd_keys: names of the fields that the networks see; default all.
        network, encoder, embedding_dim, hidden, lr, num_epochs, num_minibatches: see `RND`.
        minibatch_size, update_proportion, normalize_obs, warmup_steps, distance: see `RND`.
        seed: of networks and minibatches.

    Raises:
        ValueError: for an unknown `novelty` or `keys`, or floats that cannot be counted.

    >>> space = spaces.Dict({"obs": spaces.Discrete(5)})
    >>> NovelD(space, novelty="count").warmup_steps
    0
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        info_space: spaces.Dict | None = None,
        novelty: Novelty = "rnd",
        alpha: float = 0.5,
        beta: float = 0.0,
        first_visit: bool = True,
        keys: Sequence[str] | None = None,
        bits: int | None = None,
        bins: int = 20,
        count_power: float = 0.5,
        rnd_keys: Sequence[str] | None = None,
        network: Network = "auto",
        encoder: MakeEncoder | None = None,
        embedding_dim: int = 64,
        hidden: int | None = None,
        lr: float = 3e-3,
        num_epochs: int = 1,
        num_minibatches: int = 4,
        minibatch_size: int | None = 256,
        update_proportion: float = 1.0,
        normalize_obs: bool = True,
        warmup_steps: int = 128,
        distance: Literal["mse", "l2"] = "l2",
        seed: int = 0,
    ):
        super().__init__()
        if novelty not in get_args(Novelty):
            raise ValueError(f"novelty is {novelty!r}, expected one of rnd, count")
        self.alpha, self.beta = alpha, beta
        self.state_keys = self.visits = self.rnd = self.arrivals = None
        if first_visit or novelty == "count":
            self.state_keys = StateKeys(
                obs_space, info_space=info_space, keys=keys, bits=bits, bins=bins, seed=seed
            )
        if first_visit:
            self.visits = EpisodicVisits()
        if novelty == "count":
            self.arrivals = CountNovelty(count_power)
            return
        self.rnd = RND(
            obs_space,
            keys=rnd_keys,
            network=network,
            encoder=encoder,
            embedding_dim=embedding_dim,
            hidden=hidden,
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            minibatch_size=minibatch_size,
            update_proportion=update_proportion,
            normalize_obs=normalize_obs,
            warmup_steps=warmup_steps,
            distance=distance,
            seed=derive(seed, "noveld"),
        )
        self.warmup_steps = self.rnd.warmup_steps

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least `beta` at a first visit and 0 at others."""
        hashed = None if self.state_keys is None else self.state_keys(rollout)
        if self.arrivals is not None:
            assert hashed is not None
            before, after = self.arrivals.novelty(hashed[0], hashed[1], rollout)
        else:
            before, after = self._errors(rollout)
        bonus = (after - self.alpha * before).clamp(min=self.beta)
        if self.visits is not None and hashed is not None:
            first = self.visits.count(hashed[0], hashed[1], rollout) == 1
            bonus = torch.where(first.to(bonus.device), bonus, 0.0)
        return torch.where(rollout.valid, bonus.to(rollout.device), 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Fit the predictor; returns what `RND.update` does, or the number of "states" counted."""
        if self.rnd is not None:
            return self.rnd.update(rollout)
        assert self.arrivals is not None
        return {"states": float(self.arrivals.table.used)}

    def warmup(self, rollout: Rollout) -> None:
        """Initialise the moments of `RND` with a random agent's observations."""
        if self.rnd is not None:
            self.rnd.warmup(rollout)

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the visits of the running episodes of `env_ids` [*] int64, or of all."""
        if self.visits is not None:
            self.visits.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.1 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.1, transform=RecentScale(), gamma=0.99, episodic=True)

    def _errors(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Prediction errors of observations and true successors, both [T, N]."""
        rnd = self.rnd
        assert rnd is not None
        here = embed(rnd.error, rnd.inputs(rollout.obs), 2)  # [T+1, N]
        if len(rollout.final_at) == 0:
            return here[:-1], here[1:]
        final = embed(rnd.error, rnd.inputs(rollout.final_obs))
        return here[:-1], rollout.successors(here, final)


class CountNovelty(GrowingBuffers):
    """Novelty ``N^-power`` of states when they were reached, N the visits over the run.

    Args:
        power: of the visits.

    Attributes:
        table: of all visits.
        last: [R] float32, the novelty of the last state of each environment by its id.
    """

    on_host = True
    last: Tensor

    def __init__(self, power: float):
        super().__init__()
        self.power, self.table = power, VisitTable()
        self.register_buffer("last", torch.zeros(0))

    def novelty(self, here: Tensor, after: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Count first observations and successors; return the novelty of s and of s'.

        Args:
            here: [T+1, N] int64, keys of the observations.
            after: [T, N] int64, keys of the true successors.
            rollout: defines the starts of episodes and the valid rows.

        Returns:
            Both [T, N], on the CPU. An environment without a state before has novelty 0 there.
        """
        T, N = after.shape
        opens, valid = rollout.is_first[:T].cpu(), rollout.valid.cpu()
        keys = torch.stack([here[:T], after], 1).view(2 * T, N)
        counted = self.table.count(keys, torch.stack([opens, valid], 1).view(2 * T, N))
        reached = counted.clamp(min=1).float().pow(-self.power).view(T, 2, N)
        env_ids = rollout.env_ids.cpu()
        current, before = read_rows(self.last, env_ids), []
        for t in range(T):
            current = torch.where(opens[t], reached[t, 0], current)
            before.append(current)
            current = torch.where(valid[t], reached[t, 1], current)
        self.last = write_rows(self.last, env_ids, current)
        return torch.stack(before), reached[:, 1]
