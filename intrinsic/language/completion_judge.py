"""`CompletionJudge`, a language model that continues a list of labelled texts."""

from __future__ import annotations

import json
import logging
import math
import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.intrinsic.language.chat import ChatJudge
from firstlight.intrinsic.language.judge import digest
from firstlight.intrinsic.language.label_scores import Calibration
from firstlight.intrinsic.language.prompts import CompletionPrompt

log = logging.getLogger(__name__)

SHOWN = 24
"""Most examples of each label in the prompt."""
_REMEMBERED = 100_000  # texts
_FEW = 8  # below so many of a label all are shown, and none is left to calibrate with


class CompletionJudge(ChatJudge):
    """Shows a language model labelled texts and asks with which label the next one goes on.

    For models that were not trained to follow instructions, such as the embedded one: asked in a
    conversation it judges at chance. One request of one token for each text; the server keeps
    what the requests have in common. The score is the probability of the good label against the
    bad one.

    The examples that are not shown calibrate the scores (Platt 1999).

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
        super().__init__(
            model=model,
            url=url,
            temperature=0.0,
            timeout_seconds=timeout_seconds,
            cpu_share=cpu_share,
        )
        self._prompt, self.margin = prompt, margin
        self.shown, others = split_examples(examples or prompt.examples)
        self.others = others if calibrate else []
        parts = [prompt.good, prompt.bad, margin, self.shown, self.others]
        self.prompt = digest(prompt.start, json.dumps(parts))
        self._calibration = None if self.others else Calibration()
        self._calibrating = threading.Lock()
        self._scores: dict[str, float | None] = {}

    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Rate texts; None in doubt, or where the model would go on with neither label."""
        ratings = self._ratings(texts)
        return [None if x is None or abs(x - 0.5) < self.margin else x for x in ratings]

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Compare pairs by their ratings; those that differ by less than `margin` are ties."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        rated = dict(zip(texts, self._ratings(texts), strict=True))
        answers: list[float | None] = []
        for first, second in ((rated[a], rated[b]) for a, b in pairs):
            if first is None or second is None:
                answers.append(None)
            else:
                near = first == second or abs(first - second) < self.margin
                answers.append(0.5 if near else float(second > first))
        return answers

    def text(self, asked: str) -> str:
        """The request for a text."""
        return self._prompt.text(self.shown, asked)

    def state_dict(self) -> dict[str, Any]:
        """Requests and tokens so far, and the calibration."""
        fitted = self._calibration
        return super().state_dict() | {"calibration": None if fitted is None else [*fitted]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        fitted = state.get("calibration")
        self._calibration = self._calibration if fitted is None else Calibration(*fitted)

    def _ratings(self, texts: Sequence[str]) -> list[float | None]:
        """Calibrated scores; a text that was asked before is not asked again."""
        calibration = self._calibrated()
        new = [text for text in texts if text not in self._scores]
        for i, text in enumerate(new):
            if i:
                self.permit()
            self._scores[text] = self._score(text)
        scores = [self._scores[text] for text in texts]
        if len(self._scores) > _REMEMBERED:
            self._scores.clear()
        return [None if x is None else calibration(x) for x in scores]

    def _score(self, text: str) -> float | None:
        return label_share(self.next_token(self.text(text)), self._prompt.good, self._prompt.bad)

    def _calibrated(self) -> Calibration:
        """Fit the calibration to the examples that are not shown, the first time."""
        with self._calibrating:
            if self._calibration is None:
                scores = []
                for text, _ in self.others:
                    self.permit()
                    scores.append(self._score(text))
                self._calibration = Calibration.fit(scores, [y for _, y in self.others])
                if self._calibration.slope == 0.0:
                    log.warning(
                        "labels: %s does not tell the helpful examples from the others, so it "
                        "gives no labels",
                        self.model,
                    )
            return self._calibration


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

    A word counts with and without a space before it. One that is not among the likeliest tokens
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
