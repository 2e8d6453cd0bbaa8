"""Measure judges on the labelled texts that they may not see.

``python -m firstlight.scripts.benchmarks.judges embedding rule`` prints a table. A word
``llm=NAME``, with ``url=URL``, measures a language model, ``llm=local`` the embedded one. The word
``train`` is for choosing constants: each text is rated by examples among the others, of those not
held back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from firstlight.intrinsic.language.embedding_judge import (
    EmbeddingJudge,
    SentenceEmbedding,
    read_examples,
)
from firstlight.intrinsic.language.judge import Judge
from firstlight.intrinsic.language.rule_judge import RuleJudge


def area_under_curve(scores: Sequence[float], labels: Sequence[float]) -> float:
    """Chance that a helpful text has the higher score than an unhelpful one; a tie counts half."""
    helpful = [x for x, y in zip(scores, labels, strict=True) if y]
    others = [x for x, y in zip(scores, labels, strict=True) if not y]
    wins = sum((x > y) + 0.5 * (x == y) for x in helpful for y in others)
    return wins / (len(helpful) * len(others)) if helpful and others else float("nan")


def measure(
    judge: Judge, rows: Sequence[tuple[str, float]], batch_size: int = 8
) -> dict[str, float]:
    """Measure a judge: as `summarise`, and texts per second."""
    began, scores = time.perf_counter(), []
    for start in range(0, len(rows), batch_size):
        scores += judge.rate([text for text, _ in rows[start : start + batch_size]])
    seconds = time.perf_counter() - began
    return {**summarise(scores, rows), "texts_per_second": len(rows) / seconds}


def summarise(
    scores: Sequence[float | None], rows: Sequence[tuple[str, float]]
) -> dict[str, float]:
    """Accuracy, balanced accuracy and AUC of ratings that are not None, and the share of None."""
    kept = [(x, y) for x, (_, y) in zip(scores, rows, strict=True) if x is not None]
    right = [(x > 0.5) == bool(y) for x, y in kept]
    by_class = [[r for r, (_, y) in zip(right, kept, strict=True) if y == c] for c in (0.0, 1.0)]
    shares = [sum(each) / len(each) for each in by_class if each]
    return {
        "texts": len(rows),
        "helpful": sum(y for _, y in rows),
        "accuracy": sum(right) / max(len(right), 1),
        "balanced": sum(shares) / max(len(shares), 1),
        "auc": area_under_curve([x for x, _ in kept], [y for _, y in kept]),
        "abstained": 1 - len(kept) / len(rows),
    }


def cross_validate(family: str, strength: float, embed: SentenceEmbedding) -> dict[str, float]:
    """Measure the embedding judge on each tenth of the training texts with the rest as examples."""
    rows = read_examples(family)
    table = dict(zip([t for t, _ in rows], embed([t for t, _ in rows]), strict=True))

    def look_up(texts: Sequence[str]) -> Tensor:
        return torch.stack([table[text] for text in texts])

    held_back, scores = [], []
    for part in range(10):
        others = [row for i, row in enumerate(rows) if i % 10 != part]
        judge = EmbeddingJudge(others, embed=look_up, strength=strength)
        held_back += (mine := rows[part::10])
        scores += judge.rate([text for text, _ in mine])
    return summarise(scores, held_back)


def main(words: Sequence[str]) -> None:
    """Print one line for each judge and family."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word and word != "train"]
    embed = SentenceEmbedding() if "train" in words or "embedding" in names else None
    for family in ("minigrid", "nethack"):
        if "train" in words:
            assert embed is not None
            for strength in (1.0, 10.0, 100.0, 1000.0):
                print(family, strength, _show(cross_validate(family, strength, embed)))
            rows = read_examples(family)
            print(family, "rule", _show(measure(RuleJudge(family), rows)))
            continue
        rows = read_examples(family, "held_back")
        for name in names:
            judge: Judge
            if name == "embedding":
                assert embed is not None
                judge = EmbeddingJudge(read_examples(family), embed=embed)
            else:
                judge = RuleJudge(family)
            print(family, name, _show(measure(judge, rows)))
        if "llm" in options:
            from firstlight.intrinsic.language.llm_judge import LLMJudge
            from firstlight.intrinsic.language.prompts import Prompt

            model = None if options["llm"] == "local" else options["llm"]
            asked = LLMJudge(model=model, url=options.get("url"), prompt=Prompt.load(family))
            print(family, asked.model, _show(measure(asked, rows)))
            asked.close()


def _show(found: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in found.items())


if __name__ == "__main__":
    main(sys.argv[1:])
