"""`ETD`, the temporal distance to what an episode has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numba
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.envs.types import Obs, Rollout, map_obs, take
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.intrinsic.distillation import Encoded
from firstlight.intrinsic.embedding import MakeEncoder, embed_rollout, make_encoder
from firstlight.intrinsic.episodic_memory import NearestMemory
from firstlight.intrinsic.mixer.terms import Term
from firstlight.intrinsic.norm import RecentScale
from firstlight.intrinsic.state import Fitter, isolated_rng
from firstlight.networks import collective
from firstlight.networks.initialisation import orthogonal

Distance = Literal["quasimetric", "euclidean"]

_TINY = 1e-8  # added to a square, whose root has no gradient at 0


class ETD(IntrinsicModule):
    """Episodic novelty through temporal distance (Jiang et al. 2025).

    The bonus of step t is the smallest distance ``min_i d(φ(o_i), φ(s'))`` from the observations of
    the episode so far to its true successor s'. d is a quasimetric (MRN, Liu et al. 2023):
    ``max(relu(x1 - y1)) + |x2 - y2|`` of the halves of x and y.

    φ, and a potential c, are learnt by contrast: o_i should go to o_{i+k}, where k is geometric
    with parameter 1 - γ, rather than to the others of the minibatch, by symmetric InfoNCE over
    ``c(y) - d(φ(x), φ(y))``. d then grows with the number of steps from one to the other. Here k
    never goes beyond the end of the episode or the rollout: its distribution is cut off there.

    Args:
        obs_space: observation space of the policy.
        encoder: makes the encoder of φ; default `auto`.
        keys: names of the fields to embed; default all.
        width: numbers of an embedding, an even number; 64 as published.
        hidden: width of the layer before; None for none.
        distance: "quasimetric" as published, or "euclidean".
        potential: False leaves c out.
        symmetric: False has the loss of choosing y for x alone.
        temperature: divides the energies.
        logsumexp_coef: weight of a penalty on large energies, the mean of logsumexp².
        gamma: γ of k.
        k: return the distance to the k-th nearest in place of the nearest, or the farthest if there
            are fewer.
        quantile: return this quantile of the distances in its place.
        capacity: vectors in the memory of an episode.
        lr: Adam's step size.
        batch_size: pairs of a minibatch, about.
        num_epochs: passes over a rollout in one `update`.
        update_proportion: probability that a step is used in a pass.
        seed: of networks, pairs and minibatches.

    Raises:
        ValueError: for an unknown `distance`, an odd `width`, or unknown `keys`.

    >>> space = spaces.Dict({"obs": spaces.Box(0, 1, (8,))})
    >>> ETD(space, width=16).memory.cut
    8
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        width: int = 64,
        hidden: int | None = None,
        distance: Distance = "quasimetric",
        potential: bool = True,
        symmetric: bool = True,
        temperature: float = 1.0,
        logsumexp_coef: float = 0.0,
        gamma: float = 0.99,
        k: int = 1,
        quantile: float | None = None,
        capacity: int = 1024,
        lr: float = 1e-3,
        batch_size: int = 256,
        num_epochs: int = 1,
        update_proportion: float = 0.25,
        seed: int = 0,
    ):
        super().__init__()
        if distance not in get_args(Distance):
            raise ValueError(f"distance is {distance!r}, expected one of quasimetric, euclidean")
        if width % 2:
            raise ValueError(f"width is {width}, expected an even number")
        self.distance, self.symmetric, self.temperature = distance, symmetric, temperature
        self.logsumexp_coef, self.gamma, self.batch_size = logsumexp_coef, gamma, batch_size
        with isolated_rng(derive(seed, "etd")):
            features = make_encoder(obs_space, encoder, keys)
            self.network = Encoded(
                features, hidden or 0, width, extra_layers=0 if hidden is None else 1
            )
            self.potential = orthogonal(nn.Linear(width, 1), 1.0) if potential else None
        self.memory = NearestMemory(
            width,
            metric="quasimetric" if distance == "quasimetric" else "squared",
            k=k,
            quantile=quantile,
            capacity=capacity,
        )
        parameters = [*self.network.parameters()]
        parameters += [] if self.potential is None else [*self.potential.parameters()]
        self.fitter = Fitter(
            parameters,
            lr=lr,
            num_epochs=num_epochs,
            proportion=update_proportion,
            seed=derive(seed, "etd"),
        )

    @torch.no_grad()
    def compute(self, rollout: Rollout) -> Tensor:
        """Compute the bonus [T, N], at least 0, and add the rollout to the episodes' memories."""
        here, after = embed_rollout(self.network, rollout)
        found = self.memory.distances(here, after, rollout)
        nearest = torch.where(found.isfinite(), found, -1.0).amax(-1).clamp(min=0)
        if self.distance == "euclidean":
            nearest = nearest.sqrt()
        return nearest.to(rollout.device)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Fit the distance. Returns "loss", in nats."""
        past = map_obs(lambda field: field[:-1], rollout.obs)
        self.network.encoder.observe(past, rollout.valid)
        source, target = self._pairs(rollout)
        obs = map_obs(lambda field: field.flatten(0, 1), past)
        goals = map_obs(lambda field: field.flatten(0, 1), rollout.next_obs())
        used = collective.total(len(source)) * self.fitter.proportion
        self.fitter.num_minibatches = max(1, round(used / self.batch_size))

        def loss(rows: Tensor) -> Tensor:
            return self._loss(take(obs, source[rows]), take(goals, target[rows]))

        return {"loss": self.fitter.fit(len(source), loss)}

    def reset(self, env_ids: Tensor | None = None) -> None:
        """Clear the memory of the running episodes of `env_ids` [*] int64, or of all."""
        self.memory.reset(env_ids)

    @classmethod
    def default_term(cls) -> Term:
        """Weight 0.3 in an episodic stream, scaled by `RecentScale`."""
        return Term(weight=0.3, transform=RecentScale(), gamma=0.99, episodic=True)

    def _loss(self, obs: Obs, goals: Obs) -> Tensor:
        """InfoNCE [] of observations [B, ...] and later ones [B, ...] of the same episodes."""
        x, y = self.network(obs), self.network(goals)
        energy = -self._pairwise(x, y) / self.temperature  # [B, B], of each x to each y
        if self.potential is not None:
            energy = energy + self.potential(y).T / self.temperature
        right = torch.arange(len(x), device=x.device)
        loss = F.cross_entropy(energy, right)
        if self.symmetric:
            loss = (loss + F.cross_entropy(energy.T, right)) / 2
        if self.logsumexp_coef:
            loss = loss + self.logsumexp_coef * energy.logsumexp(1).square().mean()
        return loss

    def _pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances [B, B] from each of x [B, E] to each of y [B, E]."""
        cut = x.shape[1] // 2 if self.distance == "quasimetric" else 0
        a, b = x[:, cut:], y[:, cut:]
        square = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        euclidean = (square.clamp(min=0) + _TINY).sqrt()
        if cut == 0:
            return euclidean
        # of all [B, B, cut] differences only the largest have a gradient
        largest = largest_gaps(x.detach()[:, :cut], y.detach()[:, :cut])
        gap = x.gather(1, largest) - y.gather(1, largest.T).T
        return euclidean + gap.clamp(min=0)

    def _pairs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Rows ``t * N + n`` of valid steps, and of the steps whose successors they should reach.

        Returns:
            Both [B] int64.
        """
        left = steps_left(rollout)[rollout.valid]
        rows = torch.arange(rollout.valid.numel(), device=left.device).view_as(rollout.valid)
        source = rows[rollout.valid]
        chance = torch.rand(len(source), generator=self.fitter.generator).to(left.device).double()
        ahead = geometric(chance, left, self.gamma) - 1
        return source, source + ahead * rollout.num_envs


def largest_gaps(x: Tensor, y: Tensor) -> Tensor:
    """Return the k [B, C] int64 of the largest ``x[b, k] - y[c, k]``, for x [B, E] and y [C, E]."""
    if x.device.type != "cpu":
        return (x[:, None] - y).argmax(-1)
    found = np.zeros((len(x), len(y)), np.int64)
    _find_gaps(x.contiguous().numpy(), y.T.contiguous().numpy(), found)
    return torch.from_numpy(found)


@numba.njit(cache=True, nogil=True)
def _find_gaps(x, columns, found):
    """Write the k of the largest ``x[b, k] - columns[k, c]`` to the zeros of `found` [B, C]."""
    best = np.empty(columns.shape[1], np.float32)
    for b in range(x.shape[0]):
        for c in range(best.shape[0]):
            best[c] = x[b, 0] - columns[0, c]
        for k in range(1, x.shape[1]):
            for c in range(best.shape[0]):
                gap = x[b, k] - columns[k, c]
                if gap > best[c]:
                    best[c], found[b, c] = gap, k


def steps_left(rollout: Rollout) -> Tensor:
    """Count the steps from each one, itself included, to the end of its episode or the rollout.

    A row that is not valid ends the count.

    Returns:
        [T, N] int64, 0 where not valid.
    """
    valid = rollout.valid
    ends = rollout.terminated | rollout.truncated | rollout.is_first[1:]
    left, count = [], torch.zeros_like(valid[0], dtype=torch.int64)
    for end, row in zip(ends.flip(0), valid.flip(0), strict=True):
        count = torch.where(row, torch.where(end, 0, count) + 1, 0)
        left.append(count)
    return torch.stack(left).flip(0)


def geometric(chance: Tensor, most: Tensor, gamma: float) -> Tensor:
    """Turn uniform numbers into k with probability proportional to ``gamma^k``, 1 <= k <= most.

    Args:
        chance: [B] float64, in [0, 1).
        most: [B] int64, at least 1.
        gamma: in (0, 1).

    Returns:
        [B] int64.
    """
    tail = torch.full_like(chance, gamma).pow(most)
    k = torch.log1p(-chance * (1 - tail)) / torch.log(torch.full_like(chance, gamma))
    return torch.minimum(k.floor().long() + 1, most)
