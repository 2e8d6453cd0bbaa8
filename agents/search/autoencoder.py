"""Descriptors that are learned from pictures: the code of a small autoencoder."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from firstlight.agents.search.descriptors import Descriptor
from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.individuals import Individuals
from firstlight.envs.seeding import derive

_CHANNELS = (3, 32, 64, 32, 16)
_SIDE = 4  # of the last feature map, of pictures of 64
_BATCH = 512  # pictures described at a time


class Autoencoder(nn.Module):
    """Convolutional autoencoder of pictures of 64 x 64, as in STAX (Paolo et al. 2024).

    Args:
        latent: numbers of the code.
    """

    def __init__(self, latent: int):
        super().__init__()
        down: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(_CHANNELS):
            down += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.SELU()]
        size = _CHANNELS[-1] * _SIDE * _SIDE
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(size, latent), nn.SELU())
        up: list[nn.Module] = [nn.Linear(latent, size), nn.SELU()]
        up += [nn.Unflatten(1, (_CHANNELS[-1], _SIDE, _SIDE))]
        back = _CHANNELS[::-1]
        for inputs, outputs in itertools.pairwise(back):
            up += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.SELU()]
        self.decoder = nn.Sequential(*up[:-1], nn.ReLU())

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Compute codes [B, latent], and the mean squared errors [B] of what is decoded.

        Args:
            pictures: [B, 3, 64, 64] from 0 to 1.
        """
        code = self.encoder(pictures)
        return code, (self.decoder(code) - pictures).square().mean((1, 2, 3))


class PictureDescriptor(Descriptor):
    """Describes an episode by codes of its pictures; the surprise is their error.

    Codes of several pictures are put one after another, errors are added.

    Args:
        evaluator: draws pictures.
        seed: of weights and of the order of training.
        latent: numbers of a code.
        learning_rate: of Adam.
        batch_size: pictures of a gradient step.
        max_epochs: of a training.
        held_out: share of the pictures that training is stopped by.
        patience: a training ends when the error on these stays above its last lower value for more
            than this number of epochs in a row.
        max_pictures: individuals that a training uses, drawn at random; None: all.
        restart: each training begins with new weights.
        last_only: describe by the last picture, and train on all.

    Raises:
        ValueError: for an evaluator without pictures, or numbers out of range.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seed: int,
        *,
        latent: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        max_epochs: int = 100,
        held_out: float = 0.2,
        patience: int = 3,
        max_pictures: int | None = None,
        restart: bool = False,
        last_only: bool = False,
    ):
        if not evaluator.draws:
            raise ValueError(f"{type(evaluator).__name__} has no pictures of its environment")
        if min(latent, batch_size, max_epochs) < 1 or not 0 <= held_out < 1:
            raise ValueError(
                f"latent {latent}, batch_size {batch_size} and max_epochs {max_epochs} must be at "
                f"least 1, and held_out {held_out} from 0 to below 1"
            )
        self.evaluator, self.seed, self.latent = evaluator, seed, latent
        self.learning_rate, self.batch_size, self.max_epochs = learning_rate, batch_size, max_epochs
        self.held_out, self.patience, self.max_pictures = held_out, patience, max_pictures
        self.restart, self.last_only = restart, last_only
        self.trainings = 0
        self.random = np.random.Generator(np.random.PCG64(derive(seed, "autoencoder")))
        self._new_weights()

    def describe(self, individuals: Individuals) -> Individuals:
        """Describe by codes and errors of the pictures."""
        scenes = individuals.scene[:, -1:] if self.last_only else individuals.scene
        count, samples = scenes.shape[:2]
        codes = np.zeros((count * samples, self.latent))
        errors = np.zeros(count * samples)
        step = max(1, _BATCH // samples)
        for first in range(0, count, step):
            pictures = self._pictures(scenes[first : first + step])
            rows = slice(first * samples, first * samples + len(pictures))
            with torch.no_grad():
                code, error = self.autoencoder(pictures)
            codes[rows], errors[rows] = code.numpy(), error.numpy()
        return individuals.with_values(
            descriptor=codes.reshape(count, samples * self.latent),
            surprise=errors.reshape(count, samples).sum(1),
        )

    def train(self, individuals: Individuals) -> dict[str, float]:
        """Train until the error on held out pictures grows. Returns errors and epochs."""
        if self.restart and self.trainings:
            self._new_weights()
        scenes = individuals.scene
        if self.max_pictures is not None and len(scenes) > self.max_pictures:
            scenes = scenes[self.random.permutation(len(scenes))[: self.max_pictures]]
        order = self.random.permutation(len(scenes))
        held = int(len(scenes) * self.held_out)
        kept, used = self._pictures(scenes[order[:held]]), self._pictures(scenes[order[held:]])
        accepted, worse, epochs, error = np.inf, 0, 0, 0.0
        while epochs < self.max_epochs:
            epochs += 1
            error = self._train_epoch(used)
            checked = self._error(kept) if held else error
            if checked > accepted:
                worse += 1
                if worse > self.patience:
                    break
            else:
                accepted, worse = checked, 0
        self.trainings += 1
        return {
            "search/autoencoder/error": error,
            "search/autoencoder/held_out_error": float(accepted),
            "search/autoencoder/epochs": float(epochs),
            "search/autoencoder/trainings": float(self.trainings),
        }

    def _new_weights(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "autoencoder", self.trainings))
            self.autoencoder = Autoencoder(self.latent)
        self.optimizer = torch.optim.Adam(self.autoencoder.parameters(), self.learning_rate)

    def _pictures(self, scenes: np.ndarray) -> Tensor:
        """Draw scenes [B, S, ...], as [B * S, 3, 64, 64] from 0 to 1."""
        drawn = torch.from_numpy(self.evaluator.draw(scenes)).flatten(0, 1)
        return drawn.permute(0, 3, 1, 2).float().div_(255).contiguous()

    def _train_epoch(self, pictures: Tensor) -> float:
        order = torch.from_numpy(self.random.permutation(len(pictures)))
        total = 0.0
        for rows in order.split(self.batch_size):
            loss = self.autoencoder(pictures[rows])[1].mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach()) * len(rows)
        return total / len(pictures)

    def _error(self, pictures: Tensor) -> float:
        with torch.no_grad():
            parts = [self.autoencoder(part)[1].sum() for part in pictures.split(_BATCH)]
        return float(sum(parts)) / len(pictures)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, the optimiser's state and the random state."""
        return {
            "autoencoder": self.autoencoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "trainings": self.trainings,
            "random": self.random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.autoencoder.load_state_dict(state["autoencoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.trainings = state["trainings"]
        self.random.bit_generator.state = state["random"]
