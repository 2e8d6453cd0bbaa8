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

from firstlight.intrinsic.language.judges.embedding_judge import (
    EmbeddingJudge,
    SentenceEmbedding,
    read_examples,
)
from firstlight.intrinsic.language.judges.judge import Judge
from firstlight.intrinsic.language.judges.label_scores import Calibration
from firstlight.intrinsic.language.judges.rule_judge import RuleJudge

MARGIN = 0.05
"""Half the width of the ratings that are no label."""


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
    """Measure ratings: those that are not None, and the share of None.

    Accuracy, that balanced over both classes, AUC, and the mean squared error (Brier 1950).
    """
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
        "brier": sum((x - y) ** 2 for x, y in kept) / max(len(kept), 1),
        "abstained": 1 - len(kept) / len(rows),
    }


def cross_validated(
    family: str, strength: float, embed: SentenceEmbedding
) -> tuple[list[float | None], list[tuple[str, float]]]:
    """Rate each tenth of the training texts with the rest as examples; ratings and their rows."""
    rows = read_examples(family)
    table = dict(zip([t for t, _ in rows], embed([t for t, _ in rows]), strict=True))

    def look_up(texts: Sequence[str]) -> Tensor:
        return torch.stack([table[text] for text in texts])

    held_back: list[tuple[str, float]] = []
    scores: list[float | None] = []
    for part in range(10):
        others = [row for i, row in enumerate(rows) if i % 10 != part]
        judge = EmbeddingJudge(others, embed=look_up, strength=strength, margin=0.0)
        held_back += (mine := rows[part::10])
        scores += judge.rate([text for text, _ in mine])
    return scores, held_back


def within_margin(scores: Sequence[float | None], margin: float = MARGIN) -> list[float | None]:
    """Replace scores within `margin` of 0.5 by None, as judges do."""
    return [None if x is None or abs(x - 0.5) < margin else x for x in scores]


def calibrated(
    scores: Sequence[float | None],
    train: Sequence[float | None],
    labels: Sequence[float],
) -> list[float | None]:
    """Calibrate scores by those of training texts and their labels."""
    fitted = Calibration.fit(train, labels)
    return [None if x is None else fitted(x) for x in scores]


def rate(judge: Judge, rows: Sequence[tuple[str, float]]) -> list[float | None]:
    """Rate all texts, eight at a time."""
    texts = [text for text, _ in rows]
    return [x for i in range(0, len(texts), 8) for x in judge.rate(texts[i : i + 8])]


def measure_llm(model: str | None, url: str | None, family: str) -> None:
    """Print lines for a language model: its labels, its scores, and its calibrated scores."""
    from firstlight.intrinsic.language.judges.llm_judge import LLMJudge
    from firstlight.intrinsic.language.prompts import Prompt

    train, rows = read_examples(family), read_examples(family, "held_back")
    for with_logprobs in (True, False):
        judge = LLMJudge(
            model=model,
            url=url,
            prompt=Prompt.load(family),
            with_logprobs=with_logprobs,
            margin=0.0,
        )
        began = time.perf_counter()
        scores = rate(judge, rows)
        found = summarise(within_margin(scores), rows)
        found["texts_per_second"] = len(rows) / (time.perf_counter() - began)
        name = f"{judge.model}, {'scores' if with_logprobs else 'labels'}"
        print(family, name, _show(found), flush=True)
        if with_logprobs:
            fitted = calibrated(scores, rate(judge, train), [y for _, y in train])
            found = summarise(within_margin(fitted), rows)
            print(family, f"{name}, calibrated", _show(found), flush=True)
        judge.close()


def measure_completion(family: str) -> None:
    """Print a line for the embedded model, which continues a list of labelled texts."""
    from firstlight.intrinsic.language.judges.completion_judge import CompletionJudge
    from firstlight.intrinsic.language.prompts import CompletionPrompt

    judge = CompletionJudge(
        prompt=CompletionPrompt.load(family), examples=read_examples(family), margin=MARGIN
    )
    judge.rate(["a text"])  # starts it, and calibrates
    found = measure(judge, read_examples(family, "held_back"))
    print(family, f"{judge.model}, continuing a list", _show(found), flush=True)
    judge.close()


def main(words: Sequence[str]) -> None:
    """Print one line for each judge and family."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    embed = SentenceEmbedding() if {"embedding", "train"} & {*names} else None
    for family in ("minigrid", "nethack"):
        if "train" in names:
            assert embed is not None
            for strength in (1.0, 10.0, 100.0, 1000.0):
                scores, held_back = cross_validated(family, strength, embed)
                found = summarise(within_margin(scores), held_back)
                print(family, strength, _show(found))
            rows = read_examples(family)
            print(family, "rule", _show(measure(RuleJudge(family), rows)))
            continue
        rows = read_examples(family, "held_back")
        if "embedding" in names:
            assert embed is not None
            judge = EmbeddingJudge(read_examples(family), embed=embed)
            print(family, "embedding", _show(measure(judge, rows)))
            raw = EmbeddingJudge(read_examples(family), embed=embed, margin=0.0)
            train, others = cross_validated(family, raw.strength, embed)
            fitted = calibrated(rate(raw, rows), train, [y for _, y in others])
            found = summarise(within_margin(fitted), rows)
            print(family, "embedding, calibrated", _show(found))
        if "rule" in names:
            print(family, "rule", _show(measure(RuleJudge(family), rows)))
        if options.get("llm") == "local":
            measure_completion(family)
        if "llm" in options:
            model = None if options["llm"] == "local" else options["llm"]
            measure_llm(model, options.get("url"), family)


def _show(found: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in found.items())


if __name__ == "__main__":
    main(sys.argv[1:])
