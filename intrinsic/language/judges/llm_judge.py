"""`LLMJudge`, a language model that rates and compares texts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from firstlight.intrinsic.language.chat import KEY, TOP_LOGPROBS
from firstlight.intrinsic.language.judges.calibrated_judge import CalibratedJudge
from firstlight.intrinsic.language.judges.judge import JudgeError, digest
from firstlight.intrinsic.language.judges.label_scores import label_scores
from firstlight.intrinsic.language.prompts import Prompt
from firstlight.intrinsic.language.store import Item

__all__ = ["ANSWER_TOKENS", "KEY", "LLMJudge"]

ANSWER_TOKENS = 12
"""Tokens of the answer to one text, roughly: an id, a label and JSON's signs."""
_BATCH = 8  # examples of a request


class LLMJudge(CalibratedJudge):
    """Asks a language model, several texts in a request, and reads its answer strictly.

    Each text has a random id of its request, so an answer to another question, or one that repeats
    an earlier one, labels nothing. Where the server knows JSON schemas the answer is bound to one;
    one that refuses them is asked without. What is missing or unreadable in an answer is asked once
    more, and then has no label.

    Where the server gives the log-probabilities of tokens, a score is the mean over the labels'
    probabilities instead of the one label that was drawn. `examples` calibrate them, see
    `CalibratedJudge`.

    Args:
        prompt: for single texts.
        pair_prompt: for comparisons; default `prompt.system` cannot do them, so they are refused.
        examples: labelled texts, 1 or 0, at least one of each; none is no calibration.
        margin: half the width of the ratings that are no answer.
        with_logprobs: ask for log-probabilities.
        max_tokens: tokens of an answer for each text.
        model, url, temperature, timeout_seconds, cpu_share: see `ChatJudge`.

    Raises:
        ImportError: if the extra `llm`, or for the small model `llm-local`, is not installed.
    """

    def __init__(
        self,
        *,
        model: str | None,
        prompt: Prompt,
        pair_prompt: Prompt | None = None,
        examples: Sequence[tuple[str, float]] = (),
        margin: float = 0.05,
        with_logprobs: bool = True,
        url: str | None = None,
        temperature: float = 0.1,
        max_tokens: int = 24,
        timeout_seconds: float | None = None,
        cpu_share: float = 1.0,
    ):
        super().__init__(
            model=model,
            examples=examples,
            margin=margin,
            request_size=_BATCH,
            url=url,
            temperature=temperature,
            timeout_seconds=timeout_seconds,
            cpu_share=cpu_share,
        )
        self._prompt, self._pair_prompt = prompt, pair_prompt
        self.max_tokens = max_tokens
        self._top_logprobs = TOP_LOGPROBS if with_logprobs else 0
        pair = "" if pair_prompt is None else pair_prompt.digest
        scoring = [margin, with_logprobs, *self.examples]
        self.prompt = digest(prompt.digest, pair, str(temperature), json.dumps(scoring))

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Compare pairs. Pairs of equal texts are ties, and are not asked."""
        if self._pair_prompt is None:
            raise JudgeError("this judge has no prompt for comparisons", permanent=True)
        open_pairs = [pair for pair in pairs if pair[0] != pair[1]]
        answers = iter(self._ask(self._pair_prompt, open_pairs) if open_pairs else [])
        return [0.5 if first == second else next(answers) for first, second in pairs]

    def _scores(self, texts: Sequence[str]) -> list[float | None]:
        return self._ask(self._prompt, [(text,) for text in texts])

    def _ask(self, prompt: Prompt, items: Sequence[Item]) -> list[float | None]:
        """Ask for all, then once more for those without an answer."""
        found: dict[int, float | None] = {}
        for attempt in range(2):
            left = {secrets.token_hex(3): i for i in range(len(items)) if i not in found}
            if not left:
                break
            if attempt:
                self.permit()
            reply = self.send(
                prompt.messages({name: items[i] for name, i in left.items()}),
                schema=prompt.schema([*left]),
                max_tokens=16 + self.max_tokens * len(left),
                top_logprobs=self._top_logprobs,
            )
            answers = prompt.parse(reply.text, [*left])
            scores = label_scores(reply.tokens, prompt.labels, [*left])
            for name, label in answers.items():
                found[left[name]] = None if label is None else scores.get(name, label)
        return [found.get(i) for i in range(len(items))]
