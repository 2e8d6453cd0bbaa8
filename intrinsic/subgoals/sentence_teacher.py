"""`SentenceTeacher`, networks that propose sentences as goals, by what is seen at the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.types import Obs
from firstlight.intrinsic.embedding import MakeEncoder, default_fields, make_encoder
from firstlight.intrinsic.language.judges.embedding_judge import Embed, SentenceEmbedding
from firstlight.intrinsic.state import GrowingBuffers, isolated_rng

WIDTH = 384
"""Numbers of an embedding by all-MiniLM-L6-v2."""


class Match(nn.Module):
    """Rates pairs of an observation and a sentence by the dot product of their codes.

    Args:
        obs_space: of the fields to encode.
        encoder: makes the encoder; default `auto`.
        hidden: numbers of a code.
    """

    def __init__(self, obs_space: spaces.Dict, encoder: MakeEncoder | None, hidden: int):
        super().__init__()
        self.encoder = make_encoder(obs_space, encoder)
        self.state = nn.Linear(self.encoder.out_dim, hidden)
        self.sentence = nn.Linear(WIDTH, hidden)
        self.scale = hidden**-0.5

    def forward(self, obs: Obs, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Rate fields [B, ...] and sentences [G, WIDTH]: [B, G], and the features [B, E]."""
        features = self.encoder(obs)
        codes = self.sentence(embeddings * WIDTH**0.5)  # numbers of about 1
        rated = self.state(features) @ codes.T * self.scale
        return rated, features


class SentenceTeacher(GrowingBuffers):
    """Probabilities of the sentences known so far as goals: the policy's times the grounding's.

    The grounding says whether a sentence can come in the episode. Each sentence is embedded once.

    Args:
        obs_space: observation space of the policy.
        encoder: makes the encoders; default `auto`.
        keys: names of the fields to use; default all but masks and texts.
        hidden: numbers of the codes of observations and sentences.
        embed: maps B texts to embeddings [B, WIDTH] float32; default all-MiniLM-L6-v2, from the
            extra `text`.
        seed: of the parameters.

    Attributes:
        sentences: those known so far, in the order of their numbers, which begin with 1.
        numbers: number of each sentence as a goal.
        embeddings: [G, WIDTH] float32.
    """

    embeddings: Tensor

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        encoder: MakeEncoder | None = None,
        keys: Sequence[str] | None = None,
        hidden: int = 64,
        embed: Embed | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.keys = default_fields(obs_space) if keys is None else [*keys]
        space = spaces.Dict({name: obs_space[name] for name in self.keys})
        with isolated_rng(seed):
            self.policy, self.grounding = (Match(space, encoder, hidden) for _ in range(2))
            self.reward = nn.Linear(self.policy.encoder.out_dim, 1)
        self.sentences: list[str] = []
        self.numbers: dict[str, int] = {}
        self._embed = embed
        self.register_buffer("embeddings", torch.zeros(0, WIDTH))

    def add(self, sentences: Sequence[str]) -> None:
        """Add sentences that are not known yet."""
        new = [text for text in dict.fromkeys(sentences) if text not in self.numbers]
        if not new:
            return
        if self._embed is None:
            self._embed = SentenceEmbedding(batch_size=1)
        rows = self._embed(new).to(self.embeddings)
        self._name([*self.sentences, *new])
        self.embeddings = torch.cat([self.embeddings, rows])  # last: an actor may read meanwhile

    def _name(self, sentences: Sequence[str]) -> None:
        self.sentences = [*sentences]
        self.numbers = {text: number for number, text in enumerate(sentences, 1)}

    def forward(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Rate the sentences as goals of fields [B, ...]: logits [B, G], expected reward [B]."""
        rated, features = self.policy(obs, self.embeddings)
        return rated + F.logsigmoid(self.ground(obs).detach()), self.reward(features)[:, 0]

    def ground(self, obs: Obs) -> Tensor:
        """Rate whether each sentence can come: logits [B, G]."""
        return self.grounding(obs, self.embeddings)[0]

    @torch.no_grad()
    def propose(self, obs: Obs, seeds: np.ndarray) -> Tensor:
        """Sample a goal for each of B observations: [B] int64, all 0 as long as none is known.

        Args:
            obs: fields [B, ...].
            seeds: [B] int64, of the draws: equal ones draw equally.
        """
        if not len(self.embeddings):
            return torch.zeros(len(seeds), dtype=torch.int64)
        device = self.embeddings.device
        logits = self({name: obs[name].to(device) for name in self.keys})[0].cpu()
        noise = [np.random.default_rng(int(n)).gumbel(size=logits.shape[1]) for n in seeds]
        return 1 + (logits + torch.from_numpy(np.stack(noise))).argmax(1)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the sentences in the order of their numbers."""
        return {"sentences": [*self.sentences]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self._name(state["sentences"])
