"""`ModelDesigner`, what designers share whose programs a language model writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from firstlight.intrinsic.design.designers.answers import source_of
from firstlight.intrinsic.design.designers.base import (
    Designer,
    ProgramResult,
    Proposal,
    SearchState,
)
from firstlight.intrinsic.design.designers.prompt_texts import hash_messages
from firstlight.intrinsic.design.designers.text_models import Messages, TextModel
from firstlight.intrinsic.language.prompts import Message


class ModelDesigner(Designer):
    """Base class of designers that ask a language model; numbers the answers and saves the count.

    Args:
        model: writes the programs.

    Attributes:
        asked: answers so far. The same messages and number have the same answer, see `TextModel`.
    """

    def __init__(self, model: TextModel):
        self.model, self.asked = model, 0

    @abstractmethod
    def messages(self, state: SearchState) -> list[Message]:
        """Build the conversation of the next round."""

    def ask(self, messages: Messages, num_answers: int) -> list[str]:
        """Ask for answers that no question before had, see `TextModel.ask`."""
        answers = self.model.ask(messages, num_answers, start=self.asked)
        self.asked += num_answers
        return answers

    def write_programs(
        self, messages: Messages, samples: int, how: str, parent: ProgramResult | None
    ) -> list[Proposal]:
        """Ask for programs.

        Args:
            messages: the conversation.
            samples: number of answers.
            how: the programs are made, see `Proposal`.
            parent: result of the program that they are made from.
        """
        answers = self.ask(messages, samples)
        begun_with = None if parent is None else parent.proposal.hash
        prompt = hash_messages(messages)
        return [
            Proposal(source_of(answer), how, begun_with, self.model.name, prompt)
            for answer in answers
        ]

    def metrics(self) -> dict[str, float]:
        """Return what was spent."""
        return self.model.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of answers, and what was spent."""
        return {"asked": self.asked, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.asked = int(state["asked"])
        self.model.load_state_dict(state["model"])

    def close(self) -> None:
        """Close the connections to the model."""
        self.model.close()


def optional_to_json(result: ProgramResult | None) -> dict[str, Any] | None:
    """Return a result as JSON; None stays None."""
    return None if result is None else result.to_json()


def optional_from_json(value: Mapping[str, Any] | None) -> ProgramResult | None:
    """Read what `optional_to_json` returned."""
    return None if value is None else ProgramResult.from_json(value)
