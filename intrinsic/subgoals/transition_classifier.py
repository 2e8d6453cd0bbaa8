"""`TransitionClassifier`, which learns from verdicts which transitions achieve a subgoal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.intrinsic.state import Fitter, GrowingBuffers, isolated_rng
from firstlight.intrinsic.subgoals.transitions import NUM_TOKENS

_MINIBATCH = 64


class TransitionClassifier(GrowingBuffers):
    """Sums a table row for each token of a transition, and rates each subgoal by two layers.

    It learns from the last verdicts: up to `capacity` with a subgoal, and as many without. Both
    kinds have the same weight.

    Args:
        num_subgoals: S.
        hidden: width.
        capacity: verdicts of each kind that are kept.
        lr: Adam's step size.
        num_epochs: passes over the kept verdicts for each `learn`.
        seed: of the parameters and minibatches.
    """

    tokens: Tensor
    targets: Tensor

    def __init__(
        self,
        num_subgoals: int,
        *,
        hidden: int = 64,
        capacity: int = 1024,
        lr: float = 3e-3,
        num_epochs: int = 4,
        seed: int = 0,
    ):
        super().__init__()
        with isolated_rng(seed):
            self.table = nn.EmbeddingBag(NUM_TOKENS, hidden, mode="sum", padding_idx=0)
            nn.init.normal_(self.table.weight, std=0.1)
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(hidden, num_subgoals))
        self.capacity, self.num_subgoals = capacity, num_subgoals
        self.register_buffer("tokens", torch.zeros(0, 0, dtype=torch.int64))
        self.register_buffer("targets", torch.zeros(0, num_subgoals))
        parameters = [*self.table.parameters(), *self.head.parameters()]
        self.fitter = Fitter(
            parameters, lr=lr, num_epochs=num_epochs, minibatch_size=_MINIBATCH, seed=seed
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Rate transitions: logits [B, S] from tokens [B, L] int64."""
        return self.head(self.table(tokens))

    @property
    def is_ready(self) -> bool:
        """Whether there have been verdicts of both kinds."""
        positive = self.targets.any(1)
        return bool(positive.any()) and not bool(positive.all())

    def add(self, tokens: Tensor, targets: Tensor) -> None:
        """Keep verdicts [B, S] bool on transitions [B, L], and drop the oldest of each kind."""
        device = self.targets.device
        tokens, targets = tokens.to(device), targets.float().to(device)
        if not len(self.targets):
            self.tokens = tokens[:0]
        self.tokens = torch.cat([self.tokens, tokens])
        self.targets = torch.cat([self.targets, targets])
        positive = self.targets.any(1)
        kept = [kind.nonzero()[:, 0][-self.capacity :] for kind in (positive, ~positive)]
        rows = torch.cat(kept).sort().values
        self.tokens, self.targets = self.tokens[rows], self.targets[rows]

    def learn(self) -> float:
        """Fit the kept verdicts; returns the mean loss, 0 if one kind is missing."""
        ready = self.is_ready
        positive = self.targets.any(1)
        share = positive.float().mean().clamp(1e-3, 1 - 1e-3)
        weight = torch.where(positive, 0.5 / share, 0.5 / (1 - share))

        def loss(rows: Tensor) -> Tensor:
            each = F.binary_cross_entropy_with_logits(
                self(self.tokens[rows]), self.targets[rows], reduction="none"
            )
            return (each.mean(1) * weight[rows]).mean()

        return self.fitter.fit(len(self.targets) if ready else 0, loss)

    @torch.no_grad()
    def verdicts(self, tokens: Tensor) -> Tensor:
        """Whether each transition achieves each subgoal: [B, S] bool; all False if not ready."""
        if not self.is_ready:
            return torch.zeros(len(tokens), self.num_subgoals, dtype=torch.bool)
        return (self(tokens.to(self.targets.device)) > 0).cpu()
