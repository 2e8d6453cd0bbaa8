"""Reward models of ONI: learn from the labels of sentences, and rate sentences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.envs.seeding import derive
from firstlight.intrinsic.language.store import Item
from firstlight.intrinsic.state import Fitter, isolated_rng
from firstlight.networks.normalisation import RunningMoments

_FEW = 25_000
"""Labels up to which each arrival is followed by `steps` gradient steps; then one a rollout."""

_SMOOTHING = 0.05
"""Share of doubt in a label of the classifier, which so can still learn a corrected one."""


def text_bytes(texts: Sequence[str], length: int) -> Tensor:
    """Encode B texts as latin-1 bytes, 0 where there is no letter: [B, length] int64."""
    rows = [t.encode("latin-1", "replace")[:length].ljust(length, b"\0") for t in texts]
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(-1, length).long()


class CharacterCNN(nn.Module):
    """Encode a text by convolutions over its bytes.

    Embeds each byte; six convolutions, with maximum pooling by 3 after the first, the second and
    the last; then a linear layer (the layout of ONI's and Motif's message encoder).

    Args:
        width: channels.
        length: bytes of a text that are read, at least 27.
        out_dim: features.
    """

    def __init__(self, width: int = 32, length: int = 128, out_dim: int = 128):
        super().__init__()
        if length < 27:
            raise ValueError(f"length is {length}, expected at least 27")
        self.length = length
        self.embedding = nn.Embedding(256, 32, padding_idx=0)
        self.layers = nn.Sequential(
            *_convolution(32, width, 7),
            nn.MaxPool1d(3),
            *_convolution(width, width, 7),
            nn.MaxPool1d(3),
            *(layer for _ in range(4) for layer in _convolution(width, width, 3)),
            nn.MaxPool1d(3),
            nn.Flatten(),
            nn.Linear(width * (length // 27), out_dim),
            nn.ReLU(),
        )

    def forward(self, texts: Tensor) -> Tensor:
        """Map bytes [B, length] int64 to features [B, out_dim]."""
        return self.layers(self.embedding(texts).transpose(1, 2))


def _convolution(inputs: int, outputs: int, size: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv1d(inputs, outputs, size, padding=size // 2), nn.ReLU()


class RewardModel(nn.Module, ABC):
    """Learns from labels of texts or of pairs of texts, and rates texts.

    Attributes:
        learns_from_pairs: whether the labels are comparisons.
        labels: item to score; an item that a judge abstained on is in it with None.
    """

    learns_from_pairs: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.labels: dict[Item, float | None] = {}

    def add(self, labels: Mapping[Item, float | None]) -> bool:
        """Add labels, or replace them; whether there is something new to learn."""
        changed = False
        for item in sorted(labels):  # answers come in any order; learning must not depend on it
            changed |= labels[item] is not None and self.labels.get(item) != labels[item]
            self.labels[item] = labels[item]
        return changed

    def learn(self, arrived: bool) -> dict[str, float]:
        """Learn from the labels, once per rollout. Returns scalars to log. Default: nothing.

        Args:
            arrived: whether labels arrived since the last call.
        """
        return {}

    @abstractmethod
    def rate(self, texts: Sequence[str]) -> Tensor:
        """Reward of each text before its count, [B] float32."""

    def observe(self, rewards: Tensor) -> None:
        """Add outputs [B] of `raw` to running statistics, if there are any. Default: nothing."""

    def raw(self, texts: Sequence[str]) -> Tensor:
        """Output before running statistics are used, [B] float32; default that of `rate`."""
        return self.rate(texts)

    def known(self) -> list[tuple[Item, float]]:
        """The labels with a score, in the order in which they came."""
        return [(item, score) for item, score in self.labels.items() if score is not None]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the labels."""
        return {"items": [[*item] for item in self.labels], "scores": [*self.labels.values()]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        items = (tuple(item) for item in state["items"])
        self.labels = dict(zip(items, state["scores"], strict=True))


class Retrieval(RewardModel):
    """Reward texts whose label is above a threshold by 1, all others by 0.

    Args:
        threshold: η, in [0, 1).
    """

    def __init__(self, threshold: float = 0.5):
        super().__init__()
        self.threshold = threshold

    def rate(self, texts: Sequence[str]) -> Tensor:
        """Look labels up: 1 or 0, [B]."""
        scores = [self.labels.get((text,)) for text in texts]
        return torch.tensor([float(x is not None and x > self.threshold) for x in scores])


class _Learnt(RewardModel):
    """A character network with one output, fitted to labels.

    Args:
        width, length: of the network.
        hidden: width of the layers after it.
        lr: Adam's step size.
        steps: gradient steps after labels arrived.
        batch_size: labels of a step.
        seed: of the network and the order of the labels.

    Attributes:
        fitted: [] bool, whether the network has taken a gradient step.
    """

    fitted: Tensor

    def __init__(
        self,
        *,
        width: int = 32,
        length: int = 128,
        hidden: int = 128,
        lr: float = 1e-3,
        steps: int = 32,
        batch_size: int = 64,
        seed: int = 0,
    ):
        super().__init__()
        self.steps, self.batch_size = steps, batch_size
        with isolated_rng(derive(seed, "reward model")):
            self.encoder = CharacterCNN(width, length)
            self.head = nn.Sequential(
                nn.Linear(128, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, 1),
            )
        self.fitter = Fitter(self.parameters(), lr=lr, seed=derive(seed, "labels"))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def output(self, texts: Tensor) -> Tensor:
        """Compute the network's output [B] for bytes of texts [B, length] int64."""
        return self.head(self.encoder(texts)).squeeze(-1)

    def bytes_of(self, texts: Iterable[str]) -> Tensor:
        """Encode texts for the network: [B, length] int64."""
        return text_bytes([*texts], self.encoder.length).to(self.encoder.embedding.weight.device)

    def learn(self, arrived: bool) -> dict[str, float]:
        """Take `steps` gradient steps if labels arrived and are few, one if they are many."""
        known = self.known()
        steps = self.steps if arrived and len(known) < _FEW else int(len(known) >= _FEW)
        if not known or not steps or not self.can_learn(known):
            return {}
        size = min(self.batch_size, len(known))
        items = [self.bytes_of(item[k] for item, _ in known) for k in range(len(known[0][0]))]
        target = torch.tensor([score for _, score in known], device=items[0].device)
        self.fitter.minibatch_size = size

        def loss(rows: Tensor) -> Tensor:  # more rows than labels: each label several times
            rows = rows % len(known)
            return self.loss([item[rows] for item in items], target[rows])

        logs = {"loss": self.fitter.fit(steps * size, loss)}
        self.fitted = torch.ones_like(self.fitted)
        return logs

    def can_learn(self, known: Sequence[tuple[Item, float]]) -> bool:
        """Whether there are labels enough. Default: yes."""
        return True

    @abstractmethod
    def loss(self, items: list[Tensor], target: Tensor) -> Tensor:
        """Mean loss [] of the texts of items, each [B, length], with scores `target` [B]."""


class Classification(_Learnt):
    """Reward 1 for a text that a classifier of characters finds helpful with more than η.

    The classifier is fitted to the labels by cross-entropy, so it also rates texts that nobody
    labelled. It gives nothing before there are `min_labels` labels of each class: a random network
    finds about half of all texts helpful.

    Args:
        threshold: η, in [0, 1).
        min_labels: K, labels of each class before the first reward, at least 1.
        **network: width, length, hidden, lr, steps, batch_size and seed, see `_Learnt`.
    """

    def __init__(self, *, threshold: float = 0.5, min_labels: int = 3, **network: Any):
        if min_labels < 1:
            raise ValueError(f"min_labels is {min_labels}, expected at least 1")
        super().__init__(**network)
        self.threshold, self.min_labels = threshold, min_labels

    def can_learn(self, known: Sequence[tuple[Item, float]]) -> bool:
        """Whether each class has `min_labels`."""
        helpful = sum(score > 0.5 for _, score in known)
        return min(helpful, len(known) - helpful) >= self.min_labels

    def loss(self, items: list[Tensor], target: Tensor) -> Tensor:
        """Cross-entropy of the smoothed labels."""
        helpful = (target > 0.5).float() * (1 - 2 * _SMOOTHING) + _SMOOTHING
        return F.binary_cross_entropy_with_logits(self.output(items[0]), helpful)

    @torch.no_grad()
    def rate(self, texts: Sequence[str]) -> Tensor:
        """Classify texts: 1 or 0, [B]; 0 for all before the first fit."""
        if not self.fitted or not texts:
            return torch.zeros(len(texts))
        return (self.output(self.bytes_of(texts)).sigmoid() > self.threshold).float().cpu()


class Ranking(_Learnt):
    """Reward by a score learnt from comparisons (Bradley and Terry 1952), as Motif and ONI do.

    The score r of a text is fitted so that ``P(second is better) = sigmoid(r2 − r1)``; a tie has
    the target ½. The reward is ``z = (r − μ) / σ`` with the mean and deviation of the scores of
    all steps so far, and 0 where z is not above the threshold. It is this reward that is used; in
    the published code the normalised value is computed and dropped. Nothing is given before the
    first fit.

    Args:
        z_threshold: ε.
        **network: width, length, hidden, lr, steps, batch_size and seed, see `_Learnt`.
    """

    learns_from_pairs = True

    def __init__(self, *, z_threshold: float = 0.0, **network: Any):
        super().__init__(**network)
        self.z_threshold = z_threshold
        self.moments = RunningMoments(prior=0)

    def loss(self, items: list[Tensor], target: Tensor) -> Tensor:
        """Cross-entropy of the comparisons."""
        first, second = items
        return F.binary_cross_entropy_with_logits(self.output(second) - self.output(first), target)

    @torch.no_grad()
    def raw(self, texts: Sequence[str]) -> Tensor:
        """Scores r, [B]."""
        return self.output(self.bytes_of(texts)).cpu() if texts else torch.zeros(0)

    def observe(self, rewards: Tensor) -> None:
        """Add scores [B] to mean and deviation."""
        if self.fitted and len(rewards):
            self.moments.update(rewards)

    def rate(self, texts: Sequence[str]) -> Tensor:
        """Normalised scores above the threshold, else 0, [B]."""
        if not self.fitted or not self.moments.count:
            return torch.zeros(len(texts))
        z = (self.raw(texts) - self.moments.mean) / self.moments.var.sqrt().clamp(min=1e-6)
        return torch.where(z > self.z_threshold, z, 0.0).float()
