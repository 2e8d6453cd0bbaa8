"""`ICM`, the intrinsic curiosity module."""

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

Embedding = Literal["inverse", "random"]


class ICM(IntrinsicModule):
    """Curiosity: the error of predicting the next embedding (Pathak et al. 2017).

    The bonus of a step is ``1/2 |f(φ(s), a) - φ(s')|²``, where the forward model f and the
    embedding φ are learnt together, φ by inverse dynamics (eq. 2 to 7). The loss is ``(1 - beta) *
    inverse + beta * forward``, and its gradient reaches φ through both. η, the published factor of
    the bonus, is the weight of its term.

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions.
        encoder: makes the encoder of φ; default `networks.encoders.auto`.
        keys: names of the fields to embed; default all.
        embedding: "inverse" as published, or "random": φ is frozen (Burda et al. 2019).
        width: `E`, numbers of an embedding; None for the encoder's own output.
        hidden: width of the hidden layers of both models.
        num_blocks: residual blocks of the forward model, see `ForwardModels`; 0 as published.
        beta: share of the forward loss; 0.2 as published.
        stop_gradient: the forward loss does not change φ; False as published.
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass.
        minibatch_size: transitions of a gradient step; overrides `num_minibatches` if given.
        update_proportion: probability that a transition is used in a pass.
        seed: of networks and minibatches.

    Raises:
        ValueError: for an unknown `embedding`, a `beta` outside of 0 to 1, or unknown `keys`.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> ICM(space, spaces.Discrete(3)).beta
    0.2
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        embedding: Embedding = "inverse",
        width: int | None = 64,
        hidden: int = 64,
        num_blocks: int = 0,
        beta: float = 0.2,
        stop_gradient: bool = False,
        lr: float = 3e-3,
        num_epochs: int = 1,
        num_minibatches: int = 8,
        minibatch_size: int | None = 256,
        update_proportion: float = 0.25,
        seed: int = 0,
    ):
        super().__init__()
        if embedding not in get_args(Embedding):
            raise ValueError(f"embedding is {embedding!r}, expected 'inverse' or 'random'")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta}, expected 0 to 1")
        self.beta, self.stop_gradient = beta, stop_gradient
        self.learns_embedding = embedding == "inverse"
        self.dynamics = InverseDynamics(
            obs_space,
            act_space,
            encoder=encoder,
            keys=keys,
            width=width,
            hidden=hidden,
            seed=derive(seed, "icm"),
        )
        with isolated_rng(derive(seed, "icm")):
            self.model = ForwardModels(
                1, self.dynamics.out_dim, act_space, hidden=hidden, num_blocks=num_blocks
            )
        learnt = self.parameters() if self.learns_embedding else self.model.parameters()
        self.fitter = Fitter(
            learnt,
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            minibatch_size=minibatch_size,
            proportion=update_proportion,
            seed=derive(seed, "icm"),
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0."""
        here, after = self.dynamics.embed_rollout(rollout)
        bonus = rate_rows(self._error, here[:-1], after, rollout.action)
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn. Returns "loss"."""
        return self.dynamics.fit(self.fitter, rollout, self._loss)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in a stream that is not episodic, scaled by `RecentScale`."""
        return Term(weight=0.3, transform=RecentScale(), gamma=0.99, episodic=False)

    def _error(self, here: Tensor, after: Tensor, action: Tensor) -> Tensor:
        """Half the squared distance [B] of prediction and embedding [B, E]."""
        return 0.5 * (self.model(here, action)[0] - after).square().sum(-1)

    def _loss(self, steps: Transitions) -> Tensor:
        """Mean loss [] of transitions."""
        with torch.set_grad_enabled(self.learns_embedding):
            here, after = self.dynamics.embed_pair(steps)
        stopped = (here.detach(), after.detach()) if self.stop_gradient else (here, after)
        forward = self._error(*stopped, steps.action).mean()
        if not self.learns_embedding:
            return forward
        inverse = self.dynamics.action_loss(here, after, steps.action)
        return (1 - self.beta) * inverse + self.beta * forward
