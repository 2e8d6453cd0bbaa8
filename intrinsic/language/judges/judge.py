"""`Judge`, what rates texts, and the errors by which it says that it cannot."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from firstlight.intrinsic.language.store import Item

_SPENT = ("calls", "tokens", "input_tokens", "output_tokens")


class JudgeError(Exception):
    """A judge could not answer; the items are asked again later.

    Args:
        message: what happened. Never holds a key.
        retry_after: seconds that the judge asked to wait, or None.
        permanent: asking again cannot help, for example because the key is refused.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, permanent: bool = False):
        super().__init__(message)
        self.retry_after, self.permanent = retry_after, permanent


class Judge(ABC):
    """Rates how much a text shows that the agent gets on with its task.

    Called in threads of the annotation service, several at once if the service has several.

    Attributes:
        model: name under which labels are stored.
        prompt: hash of what else decides the answers; another prompt asks again.
        calls: requests so far, for the limits of a run; 0 for a judge in this process.
        tokens: tokens of these requests, prompts and answers.
        input_tokens, output_tokens: the two parts of `tokens`, which have different prices.
        permit: called before requests beyond the first of an answer. The annotation service sets it
            to a function that waits for the rate limit, and raises JudgeError beyond other limits.
    """

    model: str
    prompt: str
    calls: int = 0
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    permit: Callable[[], None] = staticmethod(lambda: None)

    @abstractmethod
    def rate(self, texts: Sequence[str]) -> list[float | None]:
        """Rate texts: 1 helpful, 0 not, anything between for doubt; None to abstain.

        Raises:
            JudgeError: if no answer came.
        """

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Compare pairs: 0 if the first is better, 1 the second, 0.5 a tie; None to abstain.

        By default from their ratings: equal ones are a tie, other pairs go to the higher rating.
        """
        return compare_by(self.rate, pairs)

    def answer(self, items: Sequence[Item]) -> list[float | None]:
        """Rate single texts or compare pairs, whichever the items are."""
        if items and len(items[0]) == 2:
            return self.compare([(item[0], item[1]) for item in items])
        return self.rate([item[0] for item in items])

    def state_dict(self) -> dict[str, Any]:
        """Requests and tokens so far, which limits count also after a resume."""
        return {name: int(getattr(self, name)) for name in _SPENT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in _SPENT:
            setattr(self, name, int(state[name]))

    def close(self) -> None:  # noqa: B027
        """End what the judge started, such as a server. Default: nothing."""


def compare_by(
    rate: Callable[[Sequence[str]], Sequence[float | None]],
    pairs: Sequence[tuple[str, str]],
    margin: float = 0.0,
) -> list[float | None]:
    """Compare pairs by ratings: equal ones, and those less than `margin` apart, are ties.

    Args:
        rate: rates texts; called once, with each text once.
        pairs: of texts.
        margin: see above.

    Returns:
        0 if the first is better, 1 the second, 0.5 a tie; None where a rating is.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    ratings = dict(zip(texts, rate(texts), strict=True))
    answers: list[float | None] = []
    for first, second in ((ratings[a], ratings[b]) for a, b in pairs):
        if first is None or second is None:
            answers.append(None)
        else:
            tie = first == second or abs(first - second) < margin
            answers.append(0.5 if tie else float(second > first))
    return answers


def digest(*parts: str) -> str:
    """Hash the parts of a prompt: 16 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
