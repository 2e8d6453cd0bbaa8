"""Fit Motif's reward model to comparisons, and keep it in a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from firstlight.envs.files import replacing
from firstlight.intrinsic.language.comparisons import ComparedPairs
from firstlight.intrinsic.language.reward_models import Ranking

FORMAT = "firstlight motif 1"
_NETWORK = ("encoder.", "head.")  # of the parameters of `Ranking`


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a model explains comparisons.

    Args:
        loss: mean cross-entropy.
        share: of the pairs that are no ties, those that the model orders as the judge did; None
            without any.
        pairs: number of pairs.
    """

    loss: float
    share: float | None
    pairs: int


class MotifTraining:
    """Fits a `Ranking` to comparisons, epoch by epoch (Bradley and Terry 1952; ties are ½).

    Of every fifth pair only the agreement is measured. One gradient step rates each sentence of its
    pairs once, however many pairs name it.

    Args:
        model: its network is fitted; its size and step size are its own.
        sentences: S texts that the pairs number.
        pairs: the comparisons.
        batch_size: pairs of a gradient step.
    """

    def __init__(
        self, model: Ranking, sentences: Sequence[str], pairs: ComparedPairs, *, batch_size: int
    ):
        self.model, self.batch_size = model, batch_size
        self._bytes = model.bytes_of(sentences).to(torch.uint8)  # [S, length]
        self._train = _as_tensors(pairs, ~pairs.held_back)
        self._held_back = _as_tensors(pairs, pairs.held_back)
        if not len(self._train[1]):
            raise ValueError("there is no comparison to learn from")

    def run_epoch(self) -> float:
        """Take a gradient step for each minibatch of the pairs; returns their mean loss."""
        rows, score = self._train
        size = min(self.batch_size, len(score))
        self.model.fitter.minibatch_size = size

        def loss(chosen: Tensor) -> Tensor:
            logits = self._logits(rows[chosen])
            return F.binary_cross_entropy_with_logits(logits, score[chosen])

        mean = self.model.fitter.fit(len(score), loss)
        self.model.fitted = torch.ones_like(self.model.fitted)
        return mean

    @torch.no_grad()
    def agreement(self, *, held_back: bool = True) -> Agreement:
        """Measure the agreement with the pairs that are held back, or with the others."""
        rows, score = self._held_back if held_back else self._train
        if not len(score):
            return Agreement(float("nan"), None, 0)
        logits = torch.cat([self._logits(part) for part in rows.split(4096)])
        loss = F.binary_cross_entropy_with_logits(logits, score)
        decided = score != 0.5
        right = (logits > 0) == (score > 0.5)
        share = float(right[decided].float().mean()) if bool(decided.any()) else None
        return Agreement(float(loss), share, len(score))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Rate all sentences: r [S]."""
        return torch.cat([self.model.output(part.long()) for part in self._bytes.split(1024)]).cpu()

    def _logits(self, rows: Tensor) -> Tensor:
        """Compute r₂ − r₁ [B] of pairs of sentences [B, 2]."""
        sentences, places = rows.unique(return_inverse=True)
        padded = F.pad(sentences, (0, _round_up(len(sentences)) - len(sentences)))
        first, second = self.model.output(self._bytes[padded].long())[places].unbind(1)
        return second - first


def _round_up(number: int) -> int:
    """Round a batch's size up by at most a quarter.

    torch keeps memory for every size of a convolution that it has met.

    >>> [_round_up(n) for n in (6, 8, 9, 100, 1030)]
    [6, 8, 10, 112, 1280]
    """
    step = 1 << max(0, number.bit_length() - 3)
    return -(-number // step) * step


def _as_tensors(pairs: ComparedPairs, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Numbers of sentences [P, 2] int64, and scores [P], of the chosen pairs."""
    rows = np.stack([pairs.first[chosen], pairs.second[chosen]], 1).astype(np.int64)
    return torch.from_numpy(rows), torch.from_numpy(pairs.score[chosen])


@dataclass(frozen=True)
class MotifReward:
    """A fitted reward model with what normalises it.

    Args:
        model: rates texts by `raw`.
        mean: of the scores over all recorded steps with a sentence.
        std: their deviation, above 0.
        ratings: [S] float32, normalised scores of the different sentences, in rising order.
        facts: about the training, values of JSON.
    """

    model: Ranking
    mean: float
    std: float
    ratings: Tensor
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def fitted(
        cls, model: Ranking, scores: Tensor, counts: np.ndarray, facts: dict[str, Any]
    ) -> MotifReward:
        """Normalise scores as Motif does (Klissarov et al. 2023, §3).

        Args:
            model: the fitted model.
            scores: [S] r of the different sentences.
            counts: [S] int64, recorded steps of each.
            facts: to keep.
        """
        r = scores.double()
        weight = torch.from_numpy(counts).double() / int(counts.sum())
        mean = (weight * r).sum()
        std = (weight * (r - mean).square()).sum().sqrt().clamp(min=1e-6)
        ratings = ((r - mean) / std).sort().values.float()
        return cls(model, float(mean), float(std), ratings, facts)

    def threshold(self, epsilon: float) -> float:
        """Return the ε-quantile of the normalised scores of the different sentences."""
        return float(torch.quantile(self.ratings, epsilon))

    def save(self, path: Path) -> None:
        """Write the model to a file of safetensors, atomically."""
        parameters = {
            name: x.contiguous() for name, x in self.model.state_dict().items() if _is_network(name)
        }
        numbers = torch.tensor([self.mean, self.std], dtype=torch.float64)
        tensors = {**parameters, "ratings": self.ratings, "normalisation": numbers}
        encoder, head = self.model.encoder, self.model.head
        about = {
            "format": FORMAT,
            "width": encoder.layers[0].out_channels,
            "length": encoder.length,
            "hidden": head[0].out_features,
            "facts": self.facts,
        }
        with replacing(path) as temporary:
            temporary.write_bytes(save(tensors, {"about": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path | str) -> MotifReward:
        """Read a file that `save` wrote.

        Raises:
            ValueError: if there is no such file, or it is another kind of file.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"there is no reward model {path}: firstlight-motif makes one")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about["format"] != FORMAT:
                raise ValueError(about["format"])
            model = Ranking(**{name: about[name] for name in ("width", "length", "hidden")})
            parameters = {name: tensors[name] for name in model.state_dict() if _is_network(name)}
            model.load_state_dict(parameters, strict=False)
            mean, std = tensors["normalisation"].tolist()
            ratings, facts = tensors["ratings"], about["facts"]
        except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is no reward model of firstlight-motif") from error
        model.fitted = torch.ones_like(model.fitted)
        return cls(model, mean, std, ratings, facts)


def _is_network(name: str) -> bool:
    return name.startswith(_NETWORK)


def best_and_worst(
    sentences: Sequence[str], ratings: Tensor, number: int
) -> Iterator[tuple[str, float]]:
    """Yield the sentences with the highest and the lowest ratings, highest first."""
    order = ratings.argsort(descending=True).tolist()
    shown = order if len(order) <= 2 * number else [*order[:number], *order[-number:]]
    yield from ((sentences[i], float(ratings[i])) for i in shown)
