"""`TextModel`, what designers ask: a language model, or recorded answers in its place."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from firstlight.intrinsic.language.annotation import AnnotationService
from firstlight.intrinsic.language.chat import ChatJudge
from firstlight.intrinsic.language.judges.judge import JudgeError, digest
from firstlight.intrinsic.language.limits import CHARACTERS_OF_A_TOKEN, Limits
from firstlight.intrinsic.language.store import Item, LabelStore

Messages = Sequence[Mapping[str, str]]
"""Messages of a conversation: "role" and "content" of each."""

ANSWER_TOKENS = 700
"""Tokens of an answer with a program, roughly; for estimates."""
_LOOK_SECONDS = 0.5  # how often to look whether requests keep failing


class TextModel(ABC):
    """Answers a conversation with texts.

    Attributes:
        name: of the model, as results tell it.
    """

    name: str

    @abstractmethod
    def ask(self, messages: Messages, num_answers: int, *, start: int = 0) -> list[str]:
        """Ask for independent answers.

        Args:
            messages: the conversation.
            num_answers: K.
            start: number of the first answer. The same messages and number have the same answer;
                to ask again for others, count on.

        Returns:
            K answers, or fewer where a limit or a failure prevented the others.

        Raises:
            JudgeError: if there is none.
        """

    def preview(self, messages: Messages, samples: int, rounds: int, what: str) -> str:
        """Describe what a search of so many rounds would send. Default: nothing is sent."""
        return ""

    def metrics(self) -> dict[str, float]:
        """Return what was spent: calls, tokens, cost. Default: nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what was spent, for limits after a resume, as JSON. Default: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""

    def close(self) -> None:  # noqa: B027
        """Close connections. Default: nothing."""


class ReplayModel(TextModel):
    """Gives recorded answers, one after the other, whatever it is asked.

    Args:
        answers: in order.

    Attributes:
        asked: messages, number of answers and start of each call.

    >>> model = ReplayModel(["a", "b", "c"])
    >>> model.ask([], 2), model.ask([], 2)
    (['a', 'b'], ['c'])
    """

    name = "recorded answers"

    def __init__(self, answers: Sequence[str]):
        self.answers, self._next = list(answers), 0
        self.asked: list[tuple[Messages, int, int]] = []

    @classmethod
    def read(cls, path: str | Path) -> ReplayModel:
        """Read answers from a file of JSON strings, one a line.

        Raises:
            ValueError: if it cannot be read, or a line is no JSON string.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            answers = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read the recorded answers of {path}: {error}") from error
        if not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"{path}: expected a JSON string in each line")
        return cls(answers)

    def ask(self, messages: Messages, num_answers: int, *, start: int = 0) -> list[str]:
        """Return the next answers; JudgeError if there is none left."""
        self.asked.append((messages, num_answers, start))
        found = self.answers[self._next : self._next + num_answers]
        if not found:
            raise JudgeError(f"all {len(self.answers)} recorded answers are used", permanent=True)
        self._next += len(found)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the number of answers given."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the place in the answers."""
        self._next = int(state["next"])


class AnswerJudge(ChatJudge):
    """Asks a chat endpoint for free texts; to the annotation service each is a label.

    An item is the JSON text of a conversation and a number; its label is the JSON text of the
    answer, which stands in the place of a score (as with `JsonJudge`).

    Args:
        max_tokens: of an answer.
        model, url, temperature, timeout_seconds: see `ChatJudge`.
    """

    def __init__(
        self,
        *,
        model: str | None,
        url: str | None = None,
        temperature: float = 1.0,
        max_tokens: int = 2048,
        timeout_seconds: float | None = None,
    ):
        super().__init__(
            model=model, url=url, temperature=temperature, timeout_seconds=timeout_seconds
        )
        self.max_tokens = max_tokens
        self.prompt = digest("answers", str(temperature), str(max_tokens))

    def rate(self, texts: Sequence[str]) -> list[Any]:
        """Ask for each text: its answer as JSON text."""
        answers = []
        for number, text in enumerate(texts):
            if number:
                self.permit()
            messages = json.loads(text)["messages"]
            answers.append(self.send(messages, schema=None, max_tokens=self.max_tokens).text)
        return [json.dumps(answer) for answer in answers]


class ChatModel(TextModel):
    """A language model behind a chat endpoint, through the annotation service.

    Answers are kept in a label store, so nothing is asked twice, also after SIGKILL. Limits count
    what was spent before a resume (`state_dict`).

    Args:
        make_judge: makes what asks, at the first question.
        name: of the model.
        store: file of the answers; None keeps them in memory.
        limits: of requests, tokens and money.
        num_workers: requests at once.
        cached_only: use the store and ask nobody.
        max_failures: requests in a row that may fail before a question is given up.
    """

    def __init__(
        self,
        make_judge: Callable[[], AnswerJudge],
        *,
        name: str,
        store: str | Path | None = None,
        limits: Limits | None = None,
        num_workers: int = 4,
        cached_only: bool = False,
        max_failures: int = 6,
    ):
        self.name, self.limits, self.max_failures = name, limits or Limits(), max_failures
        self._make_judge, self._store = make_judge, store
        self._options: dict[str, Any] = {
            "limits": limits,
            "batch_size": 1,
            "num_workers": num_workers,
            "cached_only": cached_only,
        }
        self._service: AnnotationService | None = None
        self._spent: dict[str, Any] | None = None

    def ask(self, messages: Messages, num_answers: int, *, start: int = 0) -> list[str]:
        """Look answers up or ask for them; wait until all have come or cannot come."""
        service = self._open()
        items = [_item(messages, start + k) for k in range(num_answers)]
        service.submit(dict.fromkeys(items, 1))
        while not service.wait(_LOOK_SECONDS) and service.breaker.failures < self.max_failures:
            pass
        found = cast("dict[Item, Any]", service.take())
        service.forget_answered()  # the store knows them
        answers = [found[item] for item in items if isinstance(found.get(item), str)]
        why = self._why_none(service)
        if len(answers) < num_answers:
            self.close()  # so that no thread goes on asking
        if not answers:
            raise JudgeError(why, permanent=True)
        return [str(json.loads(answer)) for answer in answers]

    def preview(self, messages: Messages, samples: int, rounds: int, what: str) -> str:
        """Show the first conversation, and describe the number of requests and their cost."""
        requests = samples * rounds
        sent = sum(len(message["content"]) for message in messages) // CHARACTERS_OF_A_TOKEN
        tokens = requests * sent, requests * ANSWER_TOKENS
        shown = [f"--- {message['role']}\n{message['content']}" for message in messages]
        cost = "give input_price and output_price to see the cost"
        if self.limits.input_price is not None or self.limits.output_price is not None:
            cost = f"cost {self.limits.price(*tokens):.4g}"
        about = f"about {tokens[0]:,} tokens sent and {tokens[1]:,} answered"
        return "\n".join(
            [
                *shown,
                f"--- {rounds} rounds of {samples} {what}: {requests:,} requests, {about}; {cost}",
            ]
        )

    def metrics(self) -> dict[str, float]:
        """Return the service's counts; without one what was spent before, if anything was."""
        if self._service is not None:
            return self._service.metrics()
        if self._spent is None:
            return {}
        cost = self.limits.price(self._spent["input_tokens"], self._spent["output_tokens"])
        return {"calls": self._spent["calls"], "tokens": self._spent["tokens"], "cost": cost}

    def state_dict(self) -> dict[str, Any]:
        """Return requests and tokens so far."""
        spent = self._spent if self._service is None else self._service.judge.state_dict()
        return {"spent": spent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._spent = state["spent"]
        if self._service is not None and self._spent is not None:
            self._service.judge.load_state_dict(self._spent)

    def close(self) -> None:
        """End the service and the store."""
        if self._service is not None:
            self._spent = self._service.judge.state_dict()
            self._service.close()
            self._service.store.close()
            self._service = None

    def _open(self) -> AnnotationService:
        if self._service is None:
            judge = self._make_judge()
            if self._spent is not None:
                judge.load_state_dict(self._spent)
            self._service = AnnotationService(judge, LabelStore(self._store), **self._options)
            self._service.start()
        return self._service

    def _why_none(self, service: AnnotationService) -> str:
        judge = service.judge
        if self.limits.reached(judge.calls, judge.tokens, service.cost):
            return f"{self.name} was not asked: a limit of the run is reached"
        if self._options["cached_only"]:
            return f"{self.name} was not asked: the store has no answer"
        return f"{self.name} gave no answer ({service.errors} errors)"


def _item(messages: Messages, number: int) -> Item:
    return (json.dumps({"messages": [dict(m) for m in messages], "number": number}),)
