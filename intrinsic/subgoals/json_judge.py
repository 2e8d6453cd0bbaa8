"""`JsonJudge`, a language model whose answers are kept as JSON text in a label store."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from firstlight.intrinsic.language.chat import ChatJudge
from firstlight.intrinsic.language.judges.judge import digest
from firstlight.intrinsic.language.prompts import Prompt


class JsonJudge(ChatJudge):
    """Asks about several texts in a request, and once more for those without an answer.

    An answer stands in the place of a score: JSON text that the prompt read, never evaluated.

    Args:
        prompt: shows the texts and reads the answers.
        model: see `ChatJudge`.
        url: see `ChatJudge`.
        max_tokens: tokens of an answer for each text.
    """

    def __init__(
        self, *, prompt: Prompt, model: str | None, url: str | None = None, max_tokens: int = 24
    ):
        super().__init__(model=model, url=url, temperature=0.0)
        self._prompt, self.max_tokens = prompt, max_tokens
        self.prompt = digest(prompt.digest, "json")

    def rate(self, texts: Sequence[str]) -> list[Any]:
        """Ask about texts: JSON text for each, None where no readable answer came."""
        found: dict[int, Any] = {}
        for attempt in range(2):
            left = {secrets.token_hex(3): i for i in range(len(texts)) if i not in found}
            if not left:
                break
            if attempt:
                self.permit()
            reply = self.send(
                self._prompt.messages({name: (texts[i],) for name, i in left.items()}),
                schema=self._prompt.schema([*left]),
                max_tokens=16 + self.max_tokens * len(left),
            )
            answers = self._prompt.parse(reply.text, [*left])
            found |= {left[name]: answer for name, answer in answers.items()}
        return [found.get(i) for i in range(len(texts))]
