"""`RIDE`, a bonus for steps that change the embedding of what is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.embedding import InverseDynamics, MakeEncoder, Transitions
from firstlight.intrinsic.memory import EpisodicVisits, StateKeys
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import Fitter, isolated_rng
from firstlight.networks.encoders import Flat
from firstlight.networks.initialisation import orthogonal

Scaling = Literal["count", "first_visit", "none"]


class RIDE(IntrinsicModule):
    """Rewarding impact-driven exploration (Raileanu & Rocktäschel 2020, eq. 3).

    The bonus of a step from s to its true successor s' is ``|φ(s') - φ(s)| / sqrt(N_e(s'))``, where
    N_e counts the visits of s' in the episode, the first observation included. By default only a
    first visit counts, see `scaling`. φ is learnt by an inverse model (predict the action) and a
    forward model (predict φ(s') from φ(s) and the action; half the squared distance), so that it
    keeps what actions change.

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions.
        info_space: space of the info channels; needed to count float channels.
        encoder: makes the encoder of φ; default `auto`.
        keys: names of the fields to embed; default all.
        width: numbers of an embedding; 128 as published.
        hidden: width of the hidden layers of both models; 256 as published.
        forward_coef, inverse_coef: weights of their losses; 10 and 0.1 as published, by which, at
            the default `lr`, φ and the bonus shrink to nothing within half a million steps.
        scaling: "count" as published, "none", their ablation, or "first_visit", our default:
            ``1[N_e = 1]`` in place of the root, because turning around in place gives much for
            long.
        count_keys: names of the fields that define a visited state, from `obs_space` or else from
            the rollout's info (the published code counts "full_grid"); default all of `obs_space`.
        bits, bins: for fields of floats, see `HashCount`.
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass.
        update_proportion: probability that a transition is used in a pass.
        seed: of networks and minibatches.

    Raises:
        ValueError: for an unknown `scaling` or keys, or floats that cannot be counted.

    >>> space = spaces.Dict({"obs": spaces.Discrete(5)})
    >>> RIDE(space, spaces.Discrete(3)).default_term().episodic
    True
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        info_space: spaces.Dict | None = None,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        width: int | None = 64,
        hidden: int = 64,
        forward_coef: float = 0.1,
        inverse_coef: float = 1.0,
        scaling: Scaling = "first_visit",
        count_keys: Sequence[str] | None = None,
        bits: int | None = None,
        bins: int = 20,
        lr: float = 1e-3,
        num_epochs: int = 1,
        num_minibatches: int = 4,
        update_proportion: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        if scaling not in get_args(Scaling):
            options = ", ".join(get_args(Scaling))
            raise ValueError(f"scaling is {scaling!r}, expected one of {options}")
        self.forward_coef, self.inverse_coef, self.scaling = forward_coef, inverse_coef, scaling
        self.state_keys = self.visits = None
        if scaling != "none":
            self.state_keys = StateKeys(
                obs_space, info_space=info_space, keys=count_keys, bits=bits, bins=bins, seed=seed
            )
            self.visits = EpisodicVisits()
        self.dynamics = InverseDynamics(
            obs_space,
            act_space,
            encoder=encoder,
            keys=keys,
            width=width,
            hidden=hidden,
            seed=derive(seed, "ride"),
        )
        self.actions = Flat(spaces.Dict({"action": act_space}))
        size = self.dynamics.out_dim
        with isolated_rng(derive(seed, "ride_forward")):
            self.forward_model = nn.Sequential(
                orthogonal(nn.Linear(size + self.actions.out_dim, hidden)),
                nn.ReLU(),
                orthogonal(nn.Linear(hidden, size)),
            )
        self.fitter = Fitter(
            [*self.dynamics.parameters(), *self.forward_model.parameters()],
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            proportion=update_proportion,
            seed=derive(seed, "ride"),
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0, and count the rollout's visits."""
        here, after = self.dynamics.embed_rollout(rollout)
        bonus = torch.linalg.vector_norm(after - here[:-1], dim=-1)
        if self.visits is not None and self.state_keys is not None:
            key, next_key = self.state_keys(rollout)
            visits = self.visits.count(key, next_key, rollout).to(bonus.device)
            bonus *= visits == 1 if self.scaling == "first_visit" else visits.clamp(min=1).rsqrt()
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Fit φ and both models. Returns "loss", their weighted sum."""
        return self.dynamics.fit(self.fitter, rollout, self._loss)

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the visits of the running episodes of `env_ids` [*] int64, or of all."""
        if self.visits is not None:
            self.visits.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.1 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.1, transform=RecentScale(), gamma=0.99, episodic=True)

    def _loss(self, steps: Transitions) -> Tensor:
        here, after = self.dynamics.embed_pair(steps)
        action = self.actions({"action": steps.action})
        predicted = self.forward_model(torch.cat([here, action], 1))
        forward = 0.5 * (predicted - after).square().sum(1).mean()
        inverse = self.dynamics.action_loss(here, after, steps.action)
        return self.forward_coef * forward + self.inverse_coef * inverse
