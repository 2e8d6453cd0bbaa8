"""`ICPL`, the designer of Yu et al. 2024 (arXiv 2410.17233): the best and the worst of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from firstlight.intrinsic.design.designers.base import (
    RETURN,
    TRAINED,
    ProgramResult,
    Proposal,
    SearchState,
    check_at_least,
)
from firstlight.intrinsic.design.designers.eureka import describe_curve
from firstlight.intrinsic.design.designers.model_designer import (
    ModelDesigner,
    optional_from_json,
    optional_to_json,
)
from firstlight.intrinsic.design.designers.preferences import AskedPerson, Preference, TaskReturn
from firstlight.intrinsic.design.designers.prompt_texts import (
    COMMON,
    describe_task,
    fenced,
    read_prompt_file,
)
from firstlight.intrinsic.design.designers.text_models import TextModel
from firstlight.intrinsic.language.prompts import Message

By = Literal["task_return", "person", "terminal"]
_EARLIER = 3  # winners that a new one is compared with
_HIDDEN = (RETURN,)  # a person prefers without knowing it


class ICPL(ModelDesigner):
    """Asks for K programs a round, and shows the next one which agent was liked best and worst.

    The best and the worst agent of a round are chosen by a person, or, in a person's place, by the
    task's return. The model sees both programs with the values of their components over the
    training, and how those of the best differ from the winners of earlier rounds, in which the
    trend of the preference lies. It never sees the task's return. A round in which no program could
    be trained is asked again.

    Args:
        model: writes the programs.
        samples: K, programs of a round; the paper has 6.
        rounds: N; the paper has 5.
        by: who compares: "task_return", a "person", or a person at the "terminal".
        max_repeats: rounds in a row that may be asked again before the search ends.
        person: asks the person; None asks at the terminal. ``firstlight-design`` gives a page with
            videos.

    Raises:
        ValueError: for fewer than two samples, no rounds, or an unknown choice.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        samples: int = 6,
        rounds: int = 5,
        by: By = "task_return",
        max_repeats: int = 3,
        person: Preference | None = None,
    ):
        super().__init__(model)
        check_at_least(2, samples=samples)
        check_at_least(1, rounds=rounds)
        if by not in get_args(By):
            raise ValueError(f"by is {by!r}: choose from {', '.join(get_args(By))}")
        self.samples, self.rounds, self.max_repeats = samples, rounds, max_repeats
        self.preference: Preference = TaskReturn()
        if by != "task_return":
            self.preference = person if person and by == "person" else AskedPerson()
        self.repeats = 0
        self.winners: list[ProgramResult] = []  # of each round
        self.worst: ProgramResult | None = None  # of the last round

    def propose(self, state: SearchState) -> list[Proposal]:
        """Ask for the programs of a round; none after `rounds`, or too many repeats."""
        if len(self.winners) >= self.rounds or self.repeats > self.max_repeats:
            return []
        how = "preference" if self.winners else "first sample"
        parent = self.winners[-1] if self.winners else None
        return self.write_programs(self.messages(state), self.samples, how, parent)

    def observe(self, results: Sequence[ProgramResult]) -> None:
        """Have the trained programs compared."""
        trained = [result for result in results if result.verdict == TRAINED]
        if not trained:
            self.repeats += 1
            return
        self.repeats = 0
        best, worst = self.preference.choose(trained) if len(trained) > 1 else (0, None)
        self.winners.append(trained[best])
        self.worst = None if worst is None else trained[worst]

    def messages(self, state: SearchState) -> list[Message]:
        """Build the conversation of the next round."""
        common, own = read_prompt_file(COMMON), read_prompt_file("icpl")
        system = "\n\n".join(common[part] for part in ("role", "contract", "advice"))
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": f"{describe_task(state.task)}\n\n{common['answer']}"},
        ]
        if not self.winners:
            return messages
        best = self.winners[-1]
        parts = [own["preference"].format(steps=best.steps), own["best"], _list(traces(best))]
        if self.worst is not None:
            bad = own["worst"].format(source=fenced(self.worst.proposal.source))
            parts += [bad, _list(traces(self.worst))]
        earlier = self.winners[-1 - _EARLIER : -1][::-1]
        changes = [
            f"{age} round{'s' if age > 1 else ''} ago:\n{_list(trace_differences(best, other))}"
            for age, other in enumerate(earlier, 1)
        ]
        if changes:
            parts += [own["differences"], *changes]
        return [
            *messages,
            {"role": "assistant", "content": fenced(best.proposal.source)},
            {"role": "user", "content": "\n\n".join([*parts, own["request"]])},
        ]

    def preview(self, state: SearchState) -> str:
        """Return the first conversation, and the number and cost of its requests."""
        return self.model.preview(self.messages(state), self.samples, self.rounds, "programs")

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the search, and what was spent."""
        return super().state_dict() | {
            "repeats": self.repeats,
            "winners": [winner.to_json() for winner in self.winners],
            "worst": optional_to_json(self.worst),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.repeats = int(state["repeats"])
        self.winners = [ProgramResult.from_json(winner) for winner in state["winners"]]
        self.worst = optional_from_json(state["worst"])


def traces(result: ProgramResult) -> list[str]:
    """Describe the values of each component over a training, one line each."""
    shown = {name: values for name, values in result.curves.items() if name not in _HIDDEN}
    return [f"{name}: {describe_curve(values)}" for name, values in shown.items()]


def trace_differences(result: ProgramResult, earlier: ProgramResult) -> list[str]:
    """Compare the components of two trainings: level and trend of each, one line each.

    The level is the mean over the training, the trend the last value less the first.
    """
    lines = []
    for name in dict.fromkeys([*result.curves, *earlier.curves]):
        now, then = (each.curves.get(name) for each in (result, earlier))
        if name in _HIDDEN:
            continue
        if now and then:
            (level, trend), (old_level, old_trend) = map(_level_and_trend, (now, then))
            lines.append(
                f"{name}: level {old_level:.3g} then, {level:.3g} now ({level - old_level:+.3g}); "
                f"trend {old_trend:+.3g} then, {trend:+.3g} now"
            )
        elif now or then:
            lines.append(f"{name}: {'new' if now else 'no longer there'}")
    return lines


def _level_and_trend(values: Sequence[float]) -> tuple[float, float]:
    return sum(values) / len(values), values[-1] - values[0]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
