"""The encoder for texts."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from firstlight.envs.text import TextBytes
from firstlight.envs.types import Obs
from firstlight.networks.encoders.base import Encoder
from firstlight.networks.encoders.words_kernels import distinct_rows, hash_bytes, hash_tensor
from firstlight.networks.initialisation import orthogonal
from firstlight.networks.spec import rebuildable


@rebuildable
class Words(Encoder):
    """Embed the words of a text, and runs of words, by their hashes; add them up; apply one layer.

    The hashing trick (Weinberger et al. 2009) with runs of words (Joulin et al. 2017): there is no
    vocabulary to build or to save, the same words have the same embeddings in every run and
    process, and unknown words are embedded too. Runs tell "the red ball by the blue box" from "the
    blue ball by the red box". Two words share an embedding with a probability of 1 / `buckets`. The
    sum is divided by the root of the number of embeddings, so that long texts are no larger.

    On the CPU a text that occurs more than once in a batch is embedded once.

    Args:
        obs_space: of one environment, with a field `key`, a `TextBytes`.
        key: name of the text; other fields are not used.
        out_dim: width of the features.
        embedding: width of an embedding.
        buckets: number of embeddings.
        longest: words in the longest run; 1 ignores the order of words.

    Raises:
        ValueError: for a field that is no text, or a size that is not positive.
    """

    exportable = False

    def __init__(
        self,
        obs_space: spaces.Dict,
        *,
        key: str = "mission",
        out_dim: int = 64,
        embedding: int = 64,
        buckets: int = 2048,
        longest: int = 2,
    ):
        super().__init__()
        if not isinstance(obs_space[key], TextBytes):
            raise ValueError(f"observation {key!r} is {obs_space[key]}, expected a TextBytes")
        if min(out_dim, embedding, buckets, longest) < 1:
            raise ValueError("out_dim, embedding, buckets and longest must be at least 1")
        self.key, self.out_dim = key, out_dim
        self.buckets, self.longest = buckets, longest
        self.table = nn.Parameter(torch.randn(buckets, embedding))
        self.linear = orthogonal(nn.Linear(embedding, out_dim))

    def forward(self, obs: Obs) -> Tensor:
        """Encode fields [B, ...] as [B, out_dim]."""
        texts = obs[self.key]
        if texts.device.type != "cpu":
            return self._embed(texts)
        rows, inverse = map(torch.from_numpy, distinct_rows(texts.contiguous().numpy()))
        return self._embed(texts[rows]).index_select(0, inverse)

    def describe_fields(self) -> dict[str, str]:
        """Describe what happens to each field, see `Encoder.describe_fields`."""
        runs = "" if self.longest == 1 else f" and runs of up to {self.longest}"
        return {self.key: f"text, its words{runs} hashed to {self.buckets:,} embeddings"}

    def _embed(self, texts: Tensor) -> Tensor:
        """Features [B, out_dim] of texts [B, size]."""
        ids, counts = self._hashes(texts)
        first = counts.cumsum(0) - counts
        bags = nn.functional.embedding_bag(ids, self.table, first, mode="sum")
        return torch.relu(self.linear(bags * counts.clamp(min=1).rsqrt()[:, None]))

    def _hashes(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Hashes [F] of all texts [B, size], and how many each has, [B]."""
        if texts.device.type != "cpu":
            return hash_tensor(texts, self.longest, self.buckets)
        ids, counts = hash_bytes(texts.contiguous().numpy(), self.longest, self.buckets)
        return torch.from_numpy(ids), torch.from_numpy(counts)
