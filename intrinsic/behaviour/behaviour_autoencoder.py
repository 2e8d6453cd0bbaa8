"""A space of behaviours that is learned: the code of a small autoencoder of numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.intrinsic.embedding import embed
from firstlight.intrinsic.state import Fitter, isolated_rng
from firstlight.networks.normalisation import RunningMoments

CLIP = 5.0
"""Largest absolute value of a normalised number."""


class BehaviourAutoencoder(nn.Module):
    """Autoencoder of vectors, normalised by their running moments.

    Trainings become rarer, as in TAXONS (Paolo et al. 2019): after 1, 2, 3, ... times `train_every`
    further episodes.

    Args:
        dim: `D`, numbers of a vector.
        latent: `L`, numbers of a code.
        hidden: width of the hidden layers.
        lr: of Adam.
        num_epochs: of a training.
        train_every: episodes before the first training, and by which each interval is longer.
        seed: of weights and minibatches.

    Attributes:
        trainings: [] int64, number of trainings so far.
        waiting: [] int64, episodes since the last one.

    Raises:
        ValueError: for numbers below 1.
    """

    trainings: Tensor
    waiting: Tensor

    def __init__(
        self,
        dim: int,
        *,
        latent: int,
        hidden: int,
        lr: float,
        num_epochs: int,
        train_every: int,
        seed: int,
    ):
        super().__init__()
        if min(latent, hidden, num_epochs, train_every) < 1:
            raise ValueError(
                f"latent {latent}, hidden {hidden}, num_epochs {num_epochs} and train_every "
                f"{train_every} must be at least 1"
            )
        self.train_every = train_every
        self.moments = RunningMoments((dim,))
        with isolated_rng(derive(seed, "behaviour_autoencoder")):
            self.encoder = nn.Sequential(
                nn.Linear(dim, hidden), nn.SELU(), nn.Linear(hidden, latent)
            )
            self.decoder = nn.Sequential(
                nn.Linear(latent, hidden), nn.SELU(), nn.Linear(hidden, dim)
            )
        self.fitter = Fitter(
            [*self.encoder.parameters(), *self.decoder.parameters()],
            lr=lr,
            num_epochs=num_epochs,
            minibatch_size=128,
            seed=derive(seed, "behaviour_autoencoder"),
        )
        for name in ("trainings", "waiting"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def codes(self, vectors: Tensor) -> Tensor:
        """Compute the codes of vectors [*lead, D], as [*lead, L] without gradient."""
        return embed(self._encode, {"x": vectors}, vectors.dim() - 1)

    def train_if_due(self, vectors: Tensor, new: int) -> float | None:
        """Count episodes, and learn if enough of them have passed.

        Args:
            vectors: [B, D] to learn from.
            new: episodes since the last call.

        Returns:
            Mean loss of a training; None if there was none.
        """
        self.waiting += new
        if self.waiting < self.train_every * (self.trainings + 1):
            return None
        return self.learn(vectors)

    def learn(self, vectors: Tensor) -> float:
        """Learn from vectors [B, D]. Returns the mean squared error of normalised numbers."""
        self.moments.update(vectors)
        x = self.moments.normalize(vectors, CLIP)

        def loss(rows: Tensor) -> Tensor:
            return (self.decoder(self.encoder(x[rows])) - x[rows]).square().mean()

        self.trainings += 1
        self.waiting.zero_()
        return self.fitter.fit(len(x), loss)

    def _encode(self, obs: dict[str, Tensor]) -> Tensor:
        return self.encoder(self.moments.normalize(obs["x"], CLIP))
