"""`RE3`, state entropy by nearest neighbours of random embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive, generator
from firstlight.envs.types import Rollout, map_obs
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.embedding import CHUNK, MakeEncoder, embed, make_encoder
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import GrowingBuffers, isolated_rng
from firstlight.networks import collective


class RE3(GrowingBuffers, IntrinsicModule):
    """State entropy by random encoders for efficient exploration (Seo et al. 2021).

    The bonus of a step is ``log(1 + d)``, where d is the distance of the embedding of its true
    successor from the k-th nearest embedding of a memory of earlier states (eq. 3), so that its sum
    estimates the entropy of the states that are visited. The encoder is random and frozen.

    The memory is a ring of states drawn at random from each rollout when the rollout has been
    learnt from, so a bonus does not depend on how rollouts are cut. The authors compare with a
    replay buffer, or with the minibatch itself. Until there are k states, the bonus is 0; the first
    ones come from a random agent (`warmup`).

    The published weight falls as ``β_0 (1 - ρ)^t``, for which `Exponential` is the schedule.

    Args:
        obs_space: observation space of the policy.
        encoder: makes the encoder; default `networks.encoders.auto`.
        keys: names of the fields to embed; default all.
        k: which neighbour; 3 as published.
        average: mean distance of the k nearest ones in place of that of the k-th; with k = 5, what
            the authors' code does on MiniGrid.
        log: False gives the distance itself.
        normalize: divide distances by their running deviation before the logarithm, as the authors'
            code does on MiniGrid.
        capacity: states in the memory.
        samples: states drawn from each rollout.
        warmup_steps: steps per environment of a random agent that begin the memory.
        seed: of the encoder and of the states drawn.

    Attributes:
        states: [C, E] float32, the memory.
        added: [] int64, states added so far.

    Raises:
        ValueError: for k above `capacity`, sizes below 1, or unknown `keys`.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> RE3(space).k
    3
    """

    states: Tensor
    added: Tensor
    square: Tensor
    total: Tensor
    count: Tensor

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        k: int = 3,
        average: bool = False,
        log: bool = True,
        normalize: bool = True,
        capacity: int = 2048,
        samples: int = 256,
        warmup_steps: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        if not 1 <= k <= capacity or samples < 1:
            raise ValueError(
                f"k is {k}, capacity {capacity} and samples {samples}, expected at least 1 each, "
                "and k at most capacity"
            )
        self.k, self.average, self.log, self.normalize = k, average, log, normalize
        self.capacity, self.samples = capacity, min(samples, capacity)
        self.warmup_steps = warmup_steps
        with isolated_rng(derive(seed, "re3")):
            self.encoder = make_encoder(obs_space, encoder, keys)
        self.encoder.requires_grad_(False)
        self.register_buffer("states", torch.zeros(0, self.encoder.out_dim))
        for name in ("added", "count"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        for name in ("total", "square"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.seed = derive(seed, "re3")
        self._seen: tuple[Rollout, Tensor, Tensor] | None = None  # what `update` needs as well

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0."""
        embedding = self._embed(rollout)
        distance = self._distances(embedding)
        self._seen = rollout, embedding, distance
        if self.normalize:
            distance = distance / self._deviation()
        bonus = distance.log1p() if self.log else distance
        return torch.where(rollout.valid, bonus, 0.0)

    @torch.no_grad()
    def update(self, rollout: Rollout) -> dict[str, float]:
        """Add states to the memory. Returns the mean "distance" of the rollout."""
        if self._seen is None or self._seen[0] is not rollout:
            self.compute(rollout)
        assert self._seen is not None
        _, embedding, distances = self._seen
        self._seen, distance = None, distances[rollout.valid].double()
        self.count = self.count + collective.total(len(distance))
        self.total = self.total + collective.sum(distance.sum())
        self.square = self.square + collective.sum(distance.square().sum())
        self._remember(embedding[rollout.valid])
        self.encoder.observe(map_obs(lambda field: field[:-1], rollout.obs), rollout.valid)
        return {"distance": distance.mean().item() if len(distance) else 0.0}

    @torch.no_grad()
    def warmup(self, rollout: Rollout) -> None:
        """Begin the memory, and initialise the encoder's moments, if it has any."""
        self.encoder.observe(map_obs(lambda field: field[:-1], rollout.obs), rollout.valid)
        self._remember(self._embed(rollout)[rollout.valid])

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.1 in a stream that is not episodic, scaled by `RecentScale`."""
        return Term(weight=0.1, transform=RecentScale(), gamma=0.99, episodic=False)

    def _embed(self, rollout: Rollout) -> Tensor:
        """Embeddings of the true successors [T, N, E]."""
        return embed(self.encoder, rollout.next_obs(), 2)

    def _distances(self, embedding: Tensor) -> Tensor:
        """Distances [T, N] of embeddings [T, N, E] from their neighbours; 0 without k of them."""
        if len(self.states) < self.k:
            return torch.zeros_like(embedding[..., 0])
        parts = embedding.flatten(0, 1).split(CHUNK)
        return torch.cat([self._distance(part) for part in parts]).view(embedding.shape[:2])

    def _distance(self, x: Tensor) -> Tensor:
        """Distances [B] of embeddings [B, E]."""
        half = 0.5 * self.states.square().sum(1)
        nearness = torch.addmm(half, x, self.states.T, beta=-1)  # x·m - |m|²/2, [B, C]
        nearest = nearness.topk(self.k, 1, sorted=False).indices
        exact = (x[:, None] - self.states[nearest]).square().sum(-1).sqrt()  # no cancellation
        return exact.mean(1) if self.average else exact.amax(1)

    def _deviation(self) -> Tensor:
        """Running deviation of the distances [], or 1 where there is none yet."""
        count = self.count.clamp(min=1)
        variance = self.square / count - (self.total / count).square()
        return torch.where(variance > 0, variance.clamp(min=0).sqrt(), 1.0).float()

    def _remember(self, embedding: Tensor) -> None:
        """Add some of the embeddings [B, E] of all processes to the ring."""
        embedding = collective.gather_rows(embedding)
        numbers = generator(self.seed, f"re3 {int(self.added)}")
        chosen = torch.randperm(len(embedding), generator=numbers)[: self.samples]
        new = embedding[chosen.to(embedding.device)]
        place = (int(self.added) + torch.arange(len(new))) % self.capacity
        missing = min(int(self.added) + len(new), self.capacity) - len(self.states)
        room = self.states.new_zeros(max(missing, 0), self.states.shape[1])
        states = torch.cat([self.states, room])
        states[place.to(states.device)] = new
        self.states = states
        self.added = self.added + len(new)
