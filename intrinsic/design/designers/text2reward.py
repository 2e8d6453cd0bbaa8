"""`Text2Reward`, the designer of Xie et al. 2024 (2309.11489): typed classes, and a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.intrinsic.design.designers.base import (
    TRAINED,
    DesignTask,
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
from firstlight.intrinsic.design.designers.past_tasks import (
    Embed,
    nearest_tasks,
    read_past_tasks,
)
from firstlight.intrinsic.design.designers.prompt_texts import (
    COMMON,
    family_notes,
    fenced,
    read_prompt_file,
)
from firstlight.intrinsic.design.designers.text_models import TextModel
from firstlight.intrinsic.design.designers.typed_environment import describe_as_classes
from firstlight.intrinsic.language.prompts import Message


class Text2Reward(ModelDesigner):
    """Asks for a program from a description of the environment as typed Python classes.

    Zero-shot, or few-shot with the programs of the most similar past tasks. Programs that cannot be
    used go back with what was wrong. After a training a person may say what the agent does and what
    to improve (`SearchState.remark`); each remark is one more round, which begins with the best
    program of the round before. Without a new remark the search ends.

    Args:
        model: writes the programs.
        samples: programs of a round.
        examples: file of past tasks, see `read_past_tasks`; None is zero-shot.
        shots: k, number of them that are shown; the paper has 3.
        docstrings: what a person says about fields, side channels and "action", by name.
        embed: embeddings for their similarity, see `nearest_tasks`.
        max_repeats: rounds in a row that failed and are asked again.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        samples: int = 1,
        examples: str | None = None,
        shots: int = 3,
        docstrings: Mapping[str, str] | None = None,
        embed: Embed | None = None,
        max_repeats: int = 3,
    ):
        super().__init__(model)
        check_at_least(1, samples=samples)
        self.samples, self.shots = samples, shots
        self.past = [] if examples is None else read_past_tasks(examples)
        self.docstrings, self.embed, self.max_repeats = docstrings, embed, max_repeats
        self.repeats, self.heard = 0, ""  # the second: the remark that was answered
        self.last: ProgramResult | None = None  # the next round begins with it

    @property
    def _is_broken(self) -> bool:
        """Whether the last round had no program that could be trained with."""
        return self.last is not None and self.last.verdict != TRAINED

    def check_task(self, task: DesignTask) -> None:
        """Raise ValueError if `docstrings` names a field that the task does not have."""
        describe_as_classes(task, self.docstrings)

    def propose(self, state: SearchState) -> list[Proposal]:
        """Ask for the first programs, for corrected ones, or for those after a person's remark."""
        if self.last is not None:
            if self._is_broken and self.repeats > self.max_repeats:
                return []
            if not self._is_broken and state.remark in ("", self.heard):
                return []
            if not self._is_broken:
                self.heard = state.remark
        how = "correction" if self._is_broken else "remark" if self.last else "first sample"
        return self.write_programs(self.messages(state), self.samples, how, self.last)

    def observe(self, results: Sequence[ProgramResult]) -> None:
        """Choose the program that the next round begins with."""
        best = best_of(results)
        self.repeats = 0 if best else self.repeats + 1
        if best or results:
            self.last = best or results[-1]

    def messages(self, state: SearchState) -> list[Message]:
        """Build the conversation of the next round."""
        common, own = read_prompt_file(COMMON), read_prompt_file("text2reward")
        system = "\n\n".join([common["role"], own["parts"], common["contract"], common["advice"]])
        task = state.task
        parts = [own["environment"], fenced(describe_as_classes(task, self.docstrings))]
        parts += [note for note in (family_notes(task), task.notes) if note]
        if task.max_steps is not None:
            parts.append(f"An episode has at most {task.max_steps} steps.")
        if nearest := nearest_tasks(task.goal, self.past, self.shots, self.embed):
            shown = (f"Task: {each.goal}\n\n{fenced(each.source)}" for each in nearest)
            parts += [own["examples"], *shown]
        parts += [f"Task of the agent: {task.goal}", common["answer"]]
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": "\n\n".join(parts)},
        ]
        if self.last is not None:
            text = own["remark"].format(remark=self.heard)
            if self._is_broken:
                text = own["failed"].format(reason=self.last.reason)
            messages += [
                {"role": "assistant", "content": fenced(self.last.proposal.source)},
                {"role": "user", "content": text},
            ]
        return messages

    def preview(self, state: SearchState) -> str:
        """Return the first conversation, and the number and cost of its requests."""
        return self.model.preview(self.messages(state), self.samples, 1, "programs")

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the search, and what was spent."""
        return super().state_dict() | {
            "repeats": self.repeats,
            "heard": self.heard,
            "last": optional_to_json(self.last),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.repeats, self.heard = int(state["repeats"]), str(state["heard"])
        self.last = optional_from_json(state["last"])
