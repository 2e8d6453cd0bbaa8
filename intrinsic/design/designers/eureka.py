"""`Eureka`, the designer of Ma et al. 2024 (arXiv 2310.12931): sample, train, reflect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.intrinsic.design.designers.answers import source_of
from firstlight.intrinsic.design.designers.base import (
    LENGTH,
    RETURN,
    Designer,
    ProgramResult,
    Proposal,
    SearchState,
    best_of,
)
from firstlight.intrinsic.design.designers.prompt_texts import (
    COMMON,
    describe_task,
    hash_messages,
    read_prompt_file,
)
from firstlight.intrinsic.design.designers.text_models import TextModel
from firstlight.intrinsic.language.prompts import Message


class Eureka(Designer):
    """Asks a language model for K programs a round, and shows it the best one with statistics.

    The conversation is the task, and, after the first round, one pair of messages: the program of
    the last round whose training had the highest task return, and the values of its components over
    that training (reward reflection). The pair is replaced after each round, so the conversation
    does not grow. A round of which no program could be trained is asked again without feedback.

    Args:
        model: writes the programs.
        samples: K, programs of a round; the paper has 16.
        rounds: N; the paper has 5.
        max_repeats: rounds in a row that may be asked again before the search ends.
    """

    def __init__(
        self, model: TextModel, *, samples: int = 16, rounds: int = 5, max_repeats: int = 3
    ):
        for name, value in (("samples", samples), ("rounds", rounds)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.model, self.samples, self.rounds = model, samples, rounds
        self.max_repeats = max_repeats
        self.finished, self.repeats, self.asked = 0, 0, 0
        self.best: ProgramResult | None = None  # of the last round that could be trained

    def propose(self, state: SearchState) -> list[Proposal]:
        """Ask for the programs of a round; none after `rounds`, or too many repeats."""
        if self.finished >= self.rounds or self.repeats > self.max_repeats:
            return []
        messages = self.messages(state)
        answers = self.model.ask(messages, self.samples, start=self.asked)
        self.asked += self.samples
        how, parent = "first sample", None
        if self.best is not None:
            how, parent = "reflection", self.best.proposal.hash
        prompt = hash_messages(messages)
        return [
            Proposal(source_of(answer), how, parent, self.model.name, prompt) for answer in answers
        ]

    def observe(self, results: Sequence[ProgramResult]) -> None:
        """Choose the program that the next round begins with."""
        best = best_of(results)
        if best is None:
            self.repeats += 1
            return
        self.best, self.repeats, self.finished = best, 0, self.finished + 1

    def messages(self, state: SearchState) -> list[Message]:
        """Build the conversation of the next round."""
        common = read_prompt_file(COMMON)
        system = "\n\n".join(common[part] for part in ("role", "contract", "advice"))
        question = f"{describe_task(state.task)}\n\n{common['answer']}"
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
        ]
        if self.best is not None:
            code = f"```python\n{self.best.proposal.source.strip()}\n```"
            messages += [
                {"role": "assistant", "content": code},
                {"role": "user", "content": reflection(self.best)},
            ]
        return messages

    def preview(self, state: SearchState) -> str:
        """Return the first conversation, and the number and cost of its requests."""
        return self.model.preview(self.messages(state), self.samples, self.rounds, "programs")

    def metrics(self) -> dict[str, float]:
        """Return what was spent."""
        return self.model.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the search, the rolling best, and what was spent."""
        return {
            "finished": self.finished,
            "repeats": self.repeats,
            "asked": self.asked,
            "best": None if self.best is None else self.best.to_json(),
            "model": self.model.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.finished, self.repeats, self.asked = (
            int(state[name]) for name in ("finished", "repeats", "asked")
        )
        best = state["best"]
        self.best = None if best is None else ProgramResult.from_json(best)
        self.model.load_state_dict(state["model"])

    def close(self) -> None:
        """End the model's connections."""
        self.model.close()


def reflection(result: ProgramResult) -> str:
    """Describe a training to the model: each component and the task over time, and what to do."""
    prompt = read_prompt_file("eureka")
    curves = [*result.curves.items()]
    moments = max((len(values) for _, values in curves), default=0)
    lines = [prompt["measured"].format(steps=result.steps, moments=moments)]
    titles = {RETURN: prompt["task_return"], LENGTH: prompt["episode_length"]}
    for name, values in curves:
        title = titles.get(name) or prompt["component"].format(name=name)
        lines.append(f"- {title}: {describe_curve(values)}")
    if result.score is not None:
        lines += ["", prompt["final"].format(score=result.score)]
    return "\n".join([*lines, "", prompt["guidance"]])


def describe_curve(values: Sequence[float]) -> str:
    """Write values in order, and their lowest, mean and highest.

    >>> describe_curve([0.0, 0.5, 0.25])
    '[0, 0.5, 0.25], lowest 0, mean 0.25, highest 0.5'
    """
    if not values:
        return "no values"
    shown = ", ".join(f"{value:.3g}" for value in values)
    mean = sum(values) / len(values)
    return f"[{shown}], lowest {min(values):.3g}, mean {mean:.3g}, highest {max(values):.3g}"
