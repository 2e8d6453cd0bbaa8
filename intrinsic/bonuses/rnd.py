"""`RND`, random network distillation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout
from firstlight.intrinsic.distillation import Distillation, Network, select
from firstlight.intrinsic.embedding import MakeEncoder, embed
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import Fitter, isolated_rng


class RND(Distillation):
    """Random network distillation: the prediction error of a random network (Burda et al. 2018).

    The bonus is the mean squared difference between a frozen random network and a predictor of it,
    both applied to the *true successor* observation. Networks and inputs: `Distillation`.

    The defaults are meant for a million steps on a small machine: encoders of the policy's kind,
    many small gradient steps, so that what was seen often is soon known, and a scale that follows
    the bonus (`RecentScale`). The published use is
    ``intrinsic=[rnd_paper]``: the published networks and optimisation, division by the deviation of
    all returns of the bonus so far (`ReturnScale`), γ 0.99 past episode ends, and advantages
    combined as ``2 * A_E + 1 * A_I``: set weight 2 and γ 0.999 in the reward's term.

    Args:
        obs_space: observation space of the policy.
        keys, network, encoder, embedding_dim, hidden, obs_clip, normalize_obs, warmup_steps: see
            `Distillation`.
        lr: Adam's step size.
        num_epochs: passes over a rollout in one `update`.
        num_minibatches: gradient steps per pass, without a `minibatch_size`.
        minibatch_size: transitions of a gradient step, before `update_proportion`.
        update_proportion: probability that a transition is used in a pass; published are 1 with 32
            environments and 0.25 with 128.
        distance: "mse" over the embedding as published, or "l2", its Euclidean norm (NovelD).
        seed: of the networks, the order of the minibatches and the choice of transitions.

    Raises:
        ValueError: for unknown `keys`, `network` or `distance`, or no single field of pixels for
            "conv".

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> RND(space, embedding_dim=16).default_term().episodic
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
        lr: float = 5e-3,
        num_epochs: int = 1,
        num_minibatches: int = 8,
        minibatch_size: int | None = 256,
        update_proportion: float = 0.5,
        obs_clip: float = 5.0,
        normalize_obs: bool = True,
        warmup_steps: int = 128,
        distance: Literal["mse", "l2"] = "mse",
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
        if distance not in ("mse", "l2"):
            raise ValueError(f"distance is {distance!r}, expected 'mse' or 'l2'")
        self.distance = distance
        with isolated_rng(derive(seed, "rnd")):
            self.target = self.make_network(extra_layers=0)
            self.predictor = self.make_network(extra_layers=2)
        self.target.requires_grad_(False)
        self.fitter = Fitter(
            self.predictor.parameters(),
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            minibatch_size=minibatch_size,
            proportion=update_proportion,
            seed=derive(seed, "rnd"),
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0."""
        bonus = embed(self.error, self.successors(rollout), 2)
        return torch.where(rollout.valid, bonus, 0.0)

    def error(self, inputs: Obs) -> Tensor:
        """Return the prediction error [B] of inputs [B, ...] as `successors` returns them."""
        predicted = self.apply_network(self.predictor, inputs)
        square = (predicted - self.apply_network(self.target, inputs)).square()  # [B, E]
        return square.mean(-1) if self.distance == "mse" else square.sum(-1).sqrt()

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Update the moments, then fit the predictor. Returns "loss" and "obs_std"."""
        successors = self.successors(rollout)
        self.observe((self.target, self.predictor), successors, rollout.valid)
        inputs = select(successors, rollout.valid)  # [T, N, ...] -> [B, ...]
        target = embed(functools.partial(self.apply_network, self.target), inputs)  # [B, E]
        mean_loss = self.distill(
            self.fitter, self.predictor, inputs, lambda rows: target.index_select(0, rows)
        )
        return {"loss": mean_loss, "obs_std": self.moments.var.sqrt().mean().item()}

    def warmup(self, rollout: Rollout) -> None:
        """Initialise the moments with a random agent's observations."""
        self.observe((self.target, self.predictor), self.successors(rollout), rollout.valid)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.03 in a stream that is not episodic, scaled by `RecentScale`."""
        return Term(weight=0.03, transform=RecentScale(), gamma=0.99, episodic=False)
