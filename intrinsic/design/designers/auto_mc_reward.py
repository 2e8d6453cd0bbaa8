"""`AutoMCReward`, the designer of Li et al. 2024 (arXiv 2312.09238): designer, critic, analyser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.intrinsic.design.designers.answers import source_of
from firstlight.intrinsic.design.designers.base import (
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
    hash_messages,
    read_prompt_file,
)
from firstlight.intrinsic.design.designers.text_models import TextModel
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.language.prompts import Message

SPARSE, DENSE = "sparse", "dense"
_SIGNS = """

_written = reward


def reward(obs, action, next_obs, info, memory):
    # only the signs count (Auto MC-Reward)
    values = _written(obs, action, next_obs, info, memory)
    return {"sparse": np.sign(values["sparse"]), "dense": 0.1 * np.sign(values["dense"])}


RANGES = {"sparse": (-1, 1), "dense": (-0.1, 0.1)}
"""
_ACCEPTED = "ACCEPT"


class AutoMCReward(ModelDesigner):
    """Lets a model write a program, a critic review it, and an analyser read failed episodes.

    The program has two components, of which only the signs count: 1, 0, -1 for what was achieved or
    ruined, and 0.1, 0, -0.1 for steps nearer to it or away. A source that is no such program, or
    that the critic does not accept, goes back to its author with the complaints. After a training
    the analyser reads records of failed episodes, and its suggestions begin the next round,
    together with the program whose training had the highest task return so far.

    Args:
        model: takes all three parts, each in a conversation of its own.
        samples: programs of a round.
        rounds: trainings one after the other.
        max_reviews: times that a source goes back to its author. What is not accepted then is
            proposed all the same.
        max_records: failed episodes that the analyser reads.
    """

    reads_failures = True

    def __init__(
        self,
        model: TextModel,
        *,
        samples: int = 1,
        rounds: int = 4,
        max_reviews: int = 3,
        max_records: int = 5,
    ):
        super().__init__(model)
        check_at_least(1, samples=samples, rounds=rounds)
        self.samples, self.rounds = samples, rounds
        self.max_reviews, self.max_records = max_reviews, max_records
        self.finished = 0
        self.best: ProgramResult | None = None
        self.last: ProgramResult | None = None  # its failed episodes are to be analysed
        self.suggestions = ""

    def propose(self, state: SearchState) -> list[Proposal]:
        """Analyse the last training, then write and review the programs of a round."""
        if self.finished >= self.rounds:
            return []
        if self.last is not None:
            self.suggestions, self.last = self._analyse(state, self.last), None
        return [self._write(state) for _ in range(self.samples)]

    def observe(self, results: Sequence[ProgramResult]) -> None:
        """Keep the best program, and choose the training that is analysed."""
        self.finished += 1
        best = best_of(results)
        if best is not None:
            self.last = best
            self.best = best_of([best] if self.best is None else [self.best, best])

    def _write(self, state: SearchState) -> Proposal:
        """Write a program, and correct it until the critic accepts it."""
        prompt = read_prompt_file("auto_mc_reward")
        messages = self.messages(state)
        first = hash_messages(messages)
        complaints = ""
        for review in range(self.max_reviews + 1):
            source = source_of(self.ask(messages, 1)[0])
            complaints = self._complaints(state, source)
            if not complaints:
                break
            if review < self.max_reviews:
                messages = [
                    *messages,
                    {"role": "assistant", "content": fenced(source)},
                    {"role": "user", "content": prompt["review"].format(complaints=complaints)},
                ]
        how = "accepted by the critic" if not complaints else "not accepted by the critic"
        parent = None if self.best is None else self.best.proposal.hash
        return Proposal(with_signs(source), how, parent, self.model.name, first)

    def _complaints(self, state: SearchState, source: str) -> str:
        """Return what is wrong with a source: by its form, else by the critic; "" for nothing."""
        try:
            components = sorted(RewardProgram.parse(source).ranges)
        except ProgramError as error:
            return str(error)
        if components != [DENSE, SPARSE]:
            return f"the components are {components}, expected exactly sparse and dense"
        common, own = read_prompt_file(COMMON), read_prompt_file("auto_mc_reward")
        task = [describe_task(state.task), common["contract"], own["form"]]
        question = [*task, fenced(source), own["critic"]]
        asked = [
            {"role": "system", "content": own["critic_role"]},
            {"role": "user", "content": "\n\n".join(question)},
        ]
        (answer,) = self.ask(asked, 1)
        return "" if answer.lstrip("*# \n").upper().startswith(_ACCEPTED) else answer.strip()

    def _analyse(self, state: SearchState, result: ProgramResult) -> str:
        """Ask what failed episodes have in common."""
        own = read_prompt_file("auto_mc_reward")
        if not result.failures:
            return str(own["no_record"])
        question = [
            describe_task(state.task),
            own["analyser"],
            *result.failures[: self.max_records],
        ]
        asked = [
            {"role": "system", "content": own["analyser_role"]},
            {"role": "user", "content": "\n\n".join(question)},
        ]
        (answer,) = self.ask(asked, 1)
        return answer.strip()

    def messages(self, state: SearchState) -> list[Message]:
        """Build the first messages to the author of a program."""
        common, own = read_prompt_file(COMMON), read_prompt_file("auto_mc_reward")
        system = [common["role"], common["contract"], own["form"], common["advice"]]
        question = [describe_task(state.task)]
        if self.best is not None:
            question.append(
                own["suggestions"].format(
                    score=f"{self.best.score:.4g}",
                    source=fenced(self.best.proposal.source.removesuffix(_SIGNS)),
                    suggestions=self.suggestions,
                )
            )
        else:
            question.append(common["answer"])
        return [
            {"role": "system", "content": "\n\n".join(system)},
            {"role": "user", "content": "\n\n".join(question)},
        ]

    def preview(self, state: SearchState) -> str:
        """Return the first conversation, and the number and cost of its requests."""
        each = self.samples * 2 * (self.max_reviews + 1) + 1  # at most; the last: the analyser
        return self.model.preview(self.messages(state), each, self.rounds, "answers")

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the search, and what was spent."""
        return super().state_dict() | {
            "finished": self.finished,
            "best": optional_to_json(self.best),
            "last": optional_to_json(self.last),
            "suggestions": self.suggestions,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.finished, self.suggestions = int(state["finished"]), str(state["suggestions"])
        self.best, self.last = optional_from_json(state["best"]), optional_from_json(state["last"])


def with_signs(source: str) -> str:
    """Add to a source what reduces its components to their signs, 1 and 0.1.

    >>> with_signs("x = 1").splitlines()[-1]
    'RANGES = {"sparse": (-1, 1), "dense": (-0.1, 0.1)}'
    """
    return source.rstrip() + _SIGNS
