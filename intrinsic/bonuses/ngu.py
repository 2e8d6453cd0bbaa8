"""`NGU`, episodic novelty by nearest neighbours times lifelong novelty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive
from firstlight.envs.types import Rollout
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.bonuses.rnd import RND
from firstlight.intrinsic.distillation import Network
from firstlight.intrinsic.embedding import InverseDynamics, MakeEncoder
from firstlight.intrinsic.episodic_memory import NearestMemory
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.mixer.transforms import ZScore
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import Fitter
from firstlight.networks import collective


class NGU(IntrinsicModule):
    """Never Give Up's bonus: episodic times lifelong novelty (Badia et al. 2020, §3).

    The embedding f is learnt by inverse dynamics. With d_i, the squared distances from f(s') to its
    k nearest neighbours in the memory of the episode, and their running mean d_m, that of the k-th
    (algorithm 1)::

        K_i = eps / (max(d_i / d_m - cluster_distance, 0) + eps)
        s = sqrt(sum K_i) + c
        episodic = 1 / s if s <= max_similarity else 0

    It is multiplied by ``min(max(1 + (e - mean) / std, 1), max_lifelong)``, where e is the error of
    random network distillation (eq. 1).

    The memory begins with the first observation of the episode, so there is always a neighbour;
    where there is none because memories were lost, the bonus is 0. Mean and deviation of e and d_m
    change in `update` and are remembered with a `decay`, as the embedding changes; d_m starts from
    a random agent (`warmup`).

    Args:
        obs_space: observation space of the policy.
        act_space: of the actions.
        encoder: makes the encoders of f and, if `network` is "encoder", of RND; default `auto`.
        keys: names of the fields to embed; default all.
        width: numbers of an embedding; 32 as published.
        hidden: width of the layer that predicts actions; 128 as published.
        k: neighbours.
        kernel_epsilon: eps.
        cluster_distance: relative distance below which states are the same.
        pseudo_count: c.
        max_similarity: s above which the episodic novelty is 0.
        capacity: vectors in the memory of an episode; 30,000 as published.
        lifelong: False leaves the lifelong factor out.
        max_lifelong: L, its bound.
        decay: of the running means, per update.
        lr, num_epochs, num_minibatches, update_proportion: of the embedding, see `Fitter`.
        network, embedding_dim, rnd_lr, normalize_obs, warmup_steps: of RND, see `RND`.
        seed: of networks and minibatches.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> NGU(space, spaces.Discrete(3)).memory.k
    10
    """

    mean_distance: Tensor

    def __init__(
        self,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        width: int | None = 32,
        hidden: int = 64,
        k: int = 10,
        kernel_epsilon: float = 1e-3,
        cluster_distance: float = 8e-3,
        pseudo_count: float = 1e-3,
        max_similarity: float = 8.0,
        capacity: int = 1024,
        lifelong: bool = True,
        max_lifelong: float = 5.0,
        decay: float = 0.99,
        lr: float = 1e-3,
        num_epochs: int = 1,
        num_minibatches: int = 4,
        update_proportion: float = 1.0,
        network: Network = "auto",
        embedding_dim: int = 64,
        rnd_lr: float = 1e-3,
        normalize_obs: bool = True,
        warmup_steps: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        self.epsilon, self.cluster_distance = kernel_epsilon, cluster_distance
        self.pseudo_count, self.max_similarity = pseudo_count, max_similarity
        self.max_lifelong, self.decay, self.warmup_steps = max_lifelong, decay, warmup_steps
        self.dynamics = InverseDynamics(
            obs_space,
            act_space,
            encoder=encoder,
            keys=keys,
            width=width,
            hidden=hidden,
            seed=derive(seed, "ngu"),
        )
        self.memory = NearestMemory(self.dynamics.out_dim, k=k, capacity=capacity)
        self.fitter = Fitter(
            self.dynamics.parameters(),
            lr=lr,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            proportion=update_proportion,
            seed=derive(seed, "ngu"),
        )
        self.rnd = None
        if lifelong:
            self.rnd = RND(
                obs_space,
                keys=keys,
                network=network,
                encoder=encoder,
                embedding_dim=embedding_dim,
                lr=rnd_lr,
                num_epochs=num_epochs,
                num_minibatches=num_minibatches,
                minibatch_size=None,
                update_proportion=update_proportion,
                normalize_obs=normalize_obs,
                warmup_steps=warmup_steps,
                seed=derive(seed, "ngu"),
            )
        self.errors = ZScore(decay=decay)
        self.register_buffer("mean_distance", torch.zeros((), dtype=torch.float64))
        self._seen: tuple[Tensor, Tensor | None] | None = None  # what `update` adds to the means

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0, and add the rollout to the episodes' memories."""
        distances = self._distances(rollout)
        episodic = self._episodic(distances)
        error = None if self.rnd is None else self.rnd.compute(rollout)
        self._seen = (distances[..., -1], error)
        bonus = episodic.to(rollout.device)
        if error is not None:
            bonus = bonus * self._lifelong(error)
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn. Returns the mean "distance", the action "loss" in nats, and "rnd_loss"."""
        if self._seen is not None:
            distance, error = self._seen
            self._add_distances(distance, rollout.valid)
            if error is not None:
                self.errors.update(error, rollout)
            self._seen = None
        metrics = self.dynamics.fit(self.fitter, rollout)
        metrics["distance"] = self.mean_distance.item()
        if self.rnd is not None:
            metrics["rnd_loss"] = self.rnd.update(rollout)["loss"]
        return metrics

    def warmup(self, rollout: Rollout) -> None:
        """Initialise RND's moments, the mean and deviation of its error, and d_m."""
        if self.rnd is not None:
            self.rnd.warmup(rollout)
            self.errors.update(self.rnd.compute(rollout), rollout)
        self.memory.reset()
        self._add_distances(self._distances(rollout)[..., -1], rollout.valid)
        self.memory.reset()

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the memory of the running episodes of `env_ids` [*] int64, or of all."""
        self.memory.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.1 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.1, transform=RecentScale(), gamma=0.99, episodic=True)

    def _distances(self, rollout: Rollout) -> Tensor:
        """Squared distances to the k nearest neighbours [T, N, k], inf where there are fewer."""
        here, after = self.dynamics.embed_rollout(rollout)
        return self.memory.distances(here, after, rollout)

    def _episodic(self, distances: Tensor) -> Tensor:
        """The episodic novelty [T, N] for distances [T, N, k]."""
        mean = self.mean_distance if self.mean_distance > 0 else torch.ones(())
        relative = distances / mean.float().cpu()
        kernel = self.epsilon / ((relative - self.cluster_distance).clamp(min=0) + self.epsilon)
        similarity = kernel.sum(-1).sqrt() + self.pseudo_count
        known = (similarity > self.max_similarity) | distances[..., 0].isinf()
        return torch.where(known, 0.0, 1 / similarity)

    def _lifelong(self, error: Tensor) -> Tensor:
        """The lifelong factor [T, N] for prediction errors [T, N]; 1 before any are known."""
        if self.errors.weight == 0:
            return torch.ones_like(error)
        mean, std = self.errors.mean.float(), self.errors.var.sqrt().float()
        return (1 + (error - mean) / (std + self.errors.epsilon)).clamp(1.0, self.max_lifelong)

    def _add_distances(self, distance: Tensor, valid: Tensor) -> None:
        """Add distances [T, N] of the k-th neighbours, where valid, to their running mean."""
        found = distance[valid.cpu() & distance.isfinite()]
        if collective.total(len(found)):
            new = collective.mean(found.double()).to(self.mean_distance.device)
            share = 1 - self.decay if self.mean_distance > 0 else 1.0
            self.mean_distance = torch.lerp(self.mean_distance, new, share)
