"""`DRND`, distributional random network distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout, take
from firstlight.intrinsic.distillation import Distillation, Network, select
from firstlight.intrinsic.embedding import MakeEncoder, embed
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import Fitter, isolated_rng

Reduction = Literal["mean", "sum"]


class DRND(Distillation):
    """Distributional random network distillation (Yang et al. 2024).

    The predictor f learns from several frozen random networks; for each transition of a minibatch
    one of them is drawn. So it learns their mean μ, and what is left of the error estimates how
    often a state was seen. With the second moment B2 of the targets' outputs the bonus of the true
    successor is ``alpha * b1 + (1 - alpha) * b2`` (eq. 8)::

        b1 = |f - μ|²
        b2 = mean over outputs of sqrt(clip(|f² - μ²| / (B2 - μ²), least, 1))

    b1 tells new states from old ones early in training, b2 is about one over the root of the number
    of visits. Networks and inputs: `Distillation`.

    Args:
        obs_space: observation space of the policy.
        keys, network, encoder, embedding_dim, hidden, obs_clip, normalize_obs, warmup_steps: see
            `Distillation`.
        num_targets: frozen networks; 10 as published.
        shared: the targets are the outputs of one network, of `num_targets` times as many, which
            costs a fraction; False for separate networks, as published.
        alpha: weight of b1; 0.9 as published for 512 outputs, over which b1 is a sum and b2 a mean.
            With 64 outputs 0.99 gives the same balance.
        reduction: of b1 over the outputs, "sum" as published or "mean". With the sum b1 is by far
            the larger one; b2 alone tells new states from old ones less clearly.
        least: lower bound of the quotient in b2; 1e-3 in the authors' code.
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass.
        minibatch_size: transitions of a gradient step; overrides `num_minibatches` if given.
        update_proportion: probability that a transition is used in a pass.
        seed: of networks, minibatches and drawn targets.

    Raises:
        ValueError: for an unknown `reduction`, fewer than two targets, or as `Distillation`.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> DRND(space, embedding_dim=16).default_term().episodic
    False
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        keys: Sequence[str] | None = None,
        network: Network = "auto",
        encoder: MakeEncoder | None = None,
        embedding_dim: int = 64,
        hidden: int | None = None,
        num_targets: int = 10,
        shared: bool = True,
        alpha: float = 0.99,
        reduction: Reduction = "sum",
        least: float = 1e-3,
        lr: float = 1e-3,
        num_epochs: int = 1,
        num_minibatches: int = 8,
        minibatch_size: int | None = None,
        update_proportion: float = 0.25,
        obs_clip: float = 5.0,
        normalize_obs: bool = True,
        warmup_steps: int = 128,
        seed: int = 0,
    ):
        super().__init__(
            obs_space,
            keys=keys,
            network=network,
            encoder=encoder,
            embedding_dim=embedding_dim,
            hidden=hidden,
            obs_clip=obs_clip,
            normalize_obs=normalize_obs,
            warmup_steps=warmup_steps,
        )
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction is {reduction!r}, expected 'mean' or 'sum'")
        if num_targets < 2:
            raise ValueError(f"num_targets is {num_targets}, expected at least 2")
        self.num_targets, self.alpha, self.reduction = num_targets, alpha, reduction
        self.least = least
        with isolated_rng(derive(seed, "drnd")):
            outputs = num_targets * embedding_dim if shared else embedding_dim
            count = 1 if shared else num_targets
            made = [self.make_network(extra_layers=0, outputs=outputs) for _ in range(count)]
            self.targets = nn.ModuleList(made)
            self.predictor = self.make_network(extra_layers=2)
        self.targets.requires_grad_(False)
        self.fitter = Fitter(
            self.predictor.parameters(),
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            minibatch_size=minibatch_size,
            proportion=update_proportion,
            seed=derive(seed, "drnd"),
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0."""
        bonus = embed(self.novelty_of, self.successors(rollout), 2)
        return torch.where(rollout.valid, bonus, 0.0)

    def novelty_of(self, inputs: Obs) -> Tensor:
        """Return the bonus [B] of inputs [B, ...] as `successors` returns them."""
        targets = self.all_targets(inputs)  # [B, num_targets, E]
        mean, second = targets.mean(1), targets.square().mean(1)
        predicted = self.apply_network(self.predictor, inputs)
        square = (predicted - mean).square()
        first_bonus = square.mean(-1) if self.reduction == "mean" else square.sum(-1)
        variance = (second - mean.square()).clamp(min=torch.finfo(mean.dtype).tiny)
        quotient = (predicted.square() - mean.square()).abs() / variance
        second_bonus = quotient.clamp(self.least, 1.0).sqrt().mean(-1)
        return self.alpha * first_bonus + (1 - self.alpha) * second_bonus

    def all_targets(self, inputs: Obs) -> Tensor:
        """Return the outputs of all targets [B, num_targets, E] for inputs [B, ...]."""
        outputs = [self.apply_network(network, inputs) for network in self.targets]
        return torch.cat(outputs, 1).unflatten(1, (self.num_targets, -1))

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Update the moments, then fit the predictor. Returns "loss"."""
        successors = self.successors(rollout)
        self.observe([*self.targets, self.predictor], successors, rollout.valid)
        inputs = select(successors, rollout.valid)  # [T, N, ...] -> [B, ...]

        numbers = self.fitter.generator

        def target(rows: Tensor) -> Tensor:
            targets = self.all_targets(take(inputs, rows))
            drawn = torch.randint(self.num_targets, (len(rows),), generator=numbers)
            return targets[torch.arange(len(rows)), drawn.to(targets.device)]

        return {"loss": self.distill(self.fitter, self.predictor, inputs, target)}

    def warmup(self, rollout: Rollout) -> None:
        """Initialise the moments with a random agent's observations."""
        self.observe([*self.targets, self.predictor], self.successors(rollout), rollout.valid)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.01 in a stream that is not episodic, scaled by `RecentScale`."""
        return Term(weight=0.01, transform=RecentScale(), gamma=0.99, episodic=False)
