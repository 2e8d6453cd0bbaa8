"""`Disagreement`, the variance of an ensemble of forward models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.embedding import InverseDynamics, MakeEncoder, Transitions
from firstlight.intrinsic.forward_models import ForwardModels, rate_rows
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import Fitter, isolated_rng

Embedding = Literal["random", "inverse"]


class Disagreement(IntrinsicModule):
    """Exploration by disagreement: where forward models differ (Pathak et al. 2019).

    The bonus of a step is the variance over an ensemble of predictions of the next embedding, mean
    over its numbers (eq. 1). It vanishes where all models have learnt the same, also where what
    comes next is random: they agree about its mean. Members begin with different weights, and each
    leaves out other transitions of a minibatch.

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions.
        encoder: makes the encoder of the embedding; default `networks.encoders.auto`.
        keys: names of the fields to embed; default all.
        embedding: "random" as published, frozen, or "inverse" for inverse dynamics.
        width: `E`, numbers of an embedding; None for the encoder's own output.
        hidden: width of the hidden layers.
        num_blocks: residual blocks of each model; 4 in the authors' code.
        num_models: members of the ensemble; 5 as published.
        member_proportion: probability that a member learns from a transition; 0.8 in the authors'
            code.
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass.
        minibatch_size: transitions of a gradient step; overrides `num_minibatches` if given.
        update_proportion: probability that a transition is used in a pass.
        seed: of networks, minibatches and what members leave out.

    Raises:
        ValueError: for an unknown `embedding`, fewer than two models, or unknown `keys`.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> Disagreement(space, spaces.Discrete(3)).models.num_models
    5
    """

    novelty = False  # a bonus of states and actions: it cannot know where a step will lead

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        embedding: Embedding = "random",
        width: int | None = 64,
        hidden: int = 64,
        num_blocks: int = 0,
        num_models: int = 5,
        member_proportion: float = 0.8,
        lr: float = 3e-3,
        num_epochs: int = 1,
        num_minibatches: int = 8,
        minibatch_size: int | None = 256,
        update_proportion: float = 0.25,
        seed: int = 0,
    ):
        super().__init__()
        if embedding not in get_args(Embedding):
            raise ValueError(f"embedding is {embedding!r}, expected 'random' or 'inverse'")
        if num_models < 2:
            raise ValueError(f"num_models is {num_models}, expected at least 2")
        self.member_proportion, self.learns_embedding = member_proportion, embedding == "inverse"
        self.dynamics = InverseDynamics(
            obs_space,
            act_space,
            encoder=encoder,
            keys=keys,
            width=width,
            hidden=hidden,
            seed=derive(seed, "disagreement"),
        )
        with isolated_rng(derive(seed, "disagreement")):
            self.models = ForwardModels(
                num_models, self.dynamics.out_dim, act_space, hidden=hidden, num_blocks=num_blocks
            )
        learnt = self.parameters() if self.learns_embedding else self.models.parameters()
        self.fitter = Fitter(
            learnt,
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            minibatch_size=minibatch_size,
            proportion=update_proportion,
            seed=derive(seed, "disagreement"),
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0."""
        here, _ = self.dynamics.embed_rollout(rollout)
        bonus = rate_rows(self._variance, here[:-1], rollout.action)
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Fit the models. Returns "loss"."""
        return self.dynamics.fit(self.fitter, rollout, self._loss)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in a stream that is not episodic, scaled by `RecentScale`."""
        return Term(weight=0.3, transform=RecentScale(), gamma=0.99, episodic=False)

    def _variance(self, here: Tensor, action: Tensor) -> Tensor:
        """Variance over models [B], mean over the numbers of an embedding."""
        predicted = self.models(here, action)  # [M, B, E]
        away = predicted - predicted.mean(0)  # faster than `var`
        return away.square_().mean(-1).mean(0)

    def _loss(self, steps: Transitions) -> Tensor:
        """Mean loss [] of transitions, each member's of its own share."""
        with torch.set_grad_enabled(self.learns_embedding):
            here, after = self.dynamics.embed_pair(steps)
        predicted = self.models(here.detach(), steps.action)
        error = (predicted - after.detach()).square().mean(-1)  # [M, B]
        kept = torch.rand(error.shape, generator=self.fitter.generator) < self.member_proportion
        forward = (error * kept.to(error.device)).mean() / self.member_proportion
        if not self.learns_embedding:
            return forward
        return forward + self.dynamics.action_loss(here, after, steps.action)
