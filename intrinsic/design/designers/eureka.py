"""`Eureka`, the designer of Ma et al. 2024 (arXiv 2310.12931): sample, train, reflect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.intrinsic.design.designers.base import (
    LENGTH,
    RETURN,
    ProgramResult,
    Proposal,
    SearchState,
    best_of,
    check_at_least,
)
from firstlight.intrinsic.design.designers.model_designer import (
    ModelDesigner,
    optional_from_json,
    optional_to_json,
)
from firstlight.intrinsic.design.designers.prompt_texts import (
    COMMON,
    describe_task,
    fenced,
    read_prompt_file,
)
from firstlight.intrinsic.design.designers.text_models import TextModel
from firstlight.intrinsic.language.prompts import Message


class Eureka(ModelDesigner):
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
        super().__init__(model)
        check_at_least(1, samples=samples, rounds=rounds)
        self.samples, self.rounds, self.max_repeats = samples, rounds, max_repeats
        self.finished, self.repeats = 0, 0
        self.best: ProgramResult | None = None  # of the last round that could be trained

    def propose(self, state: SearchState) -> list[Proposal]:
        """Ask for the programs of a round; none after `rounds`, or too many repeats."""
        if self.finished >= self.rounds or self.repeats > self.max_repeats:
            return []
        how = "first sample" if self.best is None else "reflection"
        return self.write_programs(self.messages(state), self.samples, how, self.best)

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
            messages += [
                {"role": "assistant", "content": fenced(self.best.proposal.source)},
                {"role": "user", "content": reflection(self.best)},
            ]
        return messages

    def preview(self, state: SearchState) -> str:
        """Return the first conversation, and the number and cost of its requests."""
        return self.model.preview(self.messages(state), self.samples, self.rounds, "programs")

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the search, the rolling best, and what was spent."""
        return super().state_dict() | {
            "finished": self.finished,
            "repeats": self.repeats,
            "best": optional_to_json(self.best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.finished, self.repeats = int(state["finished"]), int(state["repeats"])
        self.best = optional_from_json(state["best"])


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
