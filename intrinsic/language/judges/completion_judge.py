"""`CompletionJudge`, a language model that continues a list of labelled texts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence

from firstlight.intrinsic.language.judges.calibrated_judge import CalibratedJudge
from firstlight.intrinsic.language.judges.judge import compare_by, digest
from firstlight.intrinsic.language.prompts import CompletionPrompt

SHOWN = 24
"""Most examples of each label in the prompt."""
_REMEMBERED = 100_000  # texts
_FEW = 8  # below so many of a label all are shown, and none is left to calibrate with


class CompletionJudge(CalibratedJudge):
    """Shows a language model labelled texts and asks with which label the next one goes on.

    For models that were not trained to follow instructions, such as the embedded one: asked in a
    conversation it judges at chance. One request of one token for each text; the server keeps
    what the requests have in common. The score is the probability of the good label against the
    bad one.

    The examples that are not shown calibrate the scores, see `CalibratedJudge`.

    Args:
        prompt: what stands before the examples, and the labels.
        examples: labelled texts, 1 or 0; none for those of the prompt.
        calibrate: fit a logistic function to the examples that are not shown.
        margin: half the width of the scores that are no label, and the least difference of a pair.
        model, url, timeout_seconds, cpu_share: see `ChatJudge`.

    Raises:
        ImportError: if the extra `llm`, or for the small model `llm-local`, is not installed.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        prompt: CompletionPrompt,
        examples: Sequence[tuple[str, float]] = (),
        calibrate: bool = True,
        margin: float = 0.05,
        url: str | None = None,
        timeout_seconds: float | None = None,
        cpu_share: float = 1.0,
    ):
        self.shown, others = split_examples(examples or prompt.examples)
        super().__init__(
            model=model,
            examples=others if calibrate else [],
            margin=margin,
            request_size=1,
            url=url,
            temperature=0.0,
            timeout_seconds=timeout_seconds,
            cpu_share=cpu_share,
        )
        self._prompt = prompt
        parts = [prompt.good, prompt.bad, margin, self.shown, self.examples]
        self.prompt = digest(prompt.start, json.dumps(parts))
        self._remembered: dict[str, float | None] = {}

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Compare pairs by their ratings; those that differ by less than `margin` are ties."""
        return compare_by(self._ratings, pairs, self.margin)

    def request(self, asked: str) -> str:
        """Build the text that the model continues to rate the text `asked`."""
        return self._prompt.text(self.shown, asked)

    def _scores(self, texts: Sequence[str]) -> list[float | None]:
        """Scores; a text that was asked before is not asked again."""
        new = [text for text in texts if text not in self._remembered]
        for i, text in enumerate(new):
            if i:
                self.permit()
            tokens = self.next_token_logprobs(self.request(text))
            self._remembered[text] = label_share(tokens, self._prompt.good, self._prompt.bad)
        scores = [self._remembered[text] for text in texts]
        if len(self._remembered) > _REMEMBERED:
            self._remembered.clear()
        return scores


def split_examples(
    examples: Sequence[tuple[str, float]],
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Split examples into those that are shown and those that calibrate, both in mixed order.

    Half of each label is shown, at most `SHOWN`; where a label has few examples, all are.
    """
    mixed = [*examples]
    random.Random(0).shuffle(mixed)
    by_label = [[x for x in mixed if bool(x[1]) == label] for label in (True, False)]
    few = min(map(len, by_label)) < _FEW
    shown = {x for rows in by_label for x in rows[: SHOWN if few else min(SHOWN, len(rows) // 2)]}
    return [x for x in mixed if x in shown], [] if few else [x for x in mixed if x not in shown]


def label_share(tokens: Mapping[str, float], good: str, bad: str) -> float | None:
    """Probability of the word `good` against `bad` as the next token; None if neither is likely.

    A word counts with and without a space before it. A word that is not among the likeliest tokens
    has the probability of the least likely of them.

    Args:
        tokens: log-probabilities of the likeliest next tokens.
        good: a word of one token.
        bad: another.

    >>> tokens = {" good": math.log(0.6), " bad": math.log(0.2), ".": -9.0}
    >>> round(label_share(tokens, "good", "bad"), 3)
    0.75
    """
    mass = [
        sum(math.exp(x) for token, x in tokens.items() if token.strip() == word)
        for word in (good, bad)
    ]
    if not any(mass):
        return None
    least = math.exp(min(tokens.values()))
    up, down = (each or least for each in mass)
    return up / (up + down)
