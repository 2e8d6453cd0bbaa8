"""`DesignSearch`, the loop of a designer: propose, check, train, observe; it can be resumed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstlight.intrinsic.design.designers.base import (
    FAILED,
    REFUSED,
    SCREENED_OUT,
    TRAINED,
    Designer,
    DesignTask,
    ProgramResult,
    Proposal,
    SearchState,
    best_of,
)
from firstlight.intrinsic.design.elite_table import EliteTable
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import RewardProgram

STATE, TABLE = "search.json", "elites.jsonl"
"""Files of a search: its place and the designer's state; the results."""


@dataclass(frozen=True)
class ProgramCheck:
    """Findings of probes and screening about a program, before any training.

    Args:
        reason: why it is rejected; "" if it is not.
        figures: numbers that were found.
    """

    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedProgram:
    """What a short training with a program found; see `ProgramResult` for the fields.

    Args:
        error: why it failed; "" if it finished.
    """

    error: str = ""
    score: float | None = None
    training_return: float | None = None
    success_rate: float | None = None
    steps: int = 0
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    failures: Sequence[str] = ()


Check = Callable[[RewardProgram], ProgramCheck]
Train = Callable[[Mapping[str, RewardProgram]], Mapping[str, TrainedProgram]]
"""Trains with the programs of a round, by hash; a missing answer means that time is over."""


class DesignSearch:
    """Runs a designer, and keeps all that it has done on disk.

    After every step the folder says where the search stands: the state of the designer and the
    proposals of the open round (`STATE`, replaced in one step), and a line for each result
    (`TABLE`). So a search that is made anew in the folder goes on there: it neither asks nor trains
    again.

    Args:
        designer: proposes.
        task: what for.
        folder: of the two files.
        check: examines a program before it is trained.
        train: trains with programs.
        remark: what a person says about the last round.
    """

    def __init__(
        self,
        designer: Designer,
        task: DesignTask,
        folder: Path,
        *,
        check: Check,
        train: Train,
        remark: str = "",
    ):
        self.designer, self.task, self.folder = designer, task, folder
        self.remark, self._check, self._train = remark, check, train
        self.table = EliteTable(folder / TABLE)
        self.round, self.finished = 0, False
        self.proposals: list[Proposal] | None = None  # of the open round
        self._load()

    @property
    def best(self) -> ProgramResult | None:
        """The trained program with the highest task return so far."""
        return best_of(self.table.results)

    @property
    def state(self) -> SearchState:
        """What the designer is shown."""
        return SearchState(self.task, self.round, tuple(self.table.results), self.remark)

    def run(self) -> bool:
        """Run rounds until the designer has no proposals.

        Returns:
            Whether the search is finished; False if `train` ran out of time.

        Raises:
            JudgeError: if a language model cannot be asked; what was done before is kept.
        """
        while not self.finished:
            if self.proposals is None:
                self.proposals = self.designer.propose(self.state)
                self.finished = not self.proposals
                self._save()
                continue
            results = self._evaluate(self.proposals)
            if results is None:
                return False
            self.designer.observe(results)
            self.round, self.proposals = self.round + 1, None
            self._save()
        return True

    def _evaluate(self, proposals: Sequence[Proposal]) -> list[ProgramResult] | None:
        """Return the results of a round; None if a training is missing."""
        made = {proposal.hash: proposal for proposal in proposals}
        admitted: dict[str, tuple[RewardProgram, ProgramCheck]] = {}
        for name, proposal in made.items():
            known = self.table.find(name)
            if known is not None:  # of this round, before a resume, or of an earlier one
                again = dataclasses.replace(known, proposal=proposal, round=self.round)
                self.table.append(again)
                continue
            found = self._admit(proposal)
            if isinstance(found, ProgramResult):
                self.table.append(found)
            else:
                admitted[name] = found
        if admitted:
            programs = {name: program for name, (program, _) in admitted.items()}
            for name, trained in self._train(programs).items():
                self.table.append(self._result(made[name], trained, admitted[name][1]))
        results = [self.table.find(name, self.round) for name in made]
        found_all = [result for result in results if result is not None]
        return found_all if len(found_all) == len(results) else None

    def _admit(self, proposal: Proposal) -> tuple[RewardProgram, ProgramCheck] | ProgramResult:
        """Check a proposal. Returns the program and the findings, or the result of a refusal."""
        origin = {
            "parent": proposal.parent,
            "model": proposal.model,
            "prompt_hash": proposal.prompt_hash,
        }
        try:
            program = RewardProgram.parse(proposal.source, **origin)
        except ProgramError as error:
            return ProgramResult(proposal, self.round, REFUSED, str(error))
        check = self._check(program)
        if check.reason:
            return ProgramResult(
                proposal, self.round, SCREENED_OUT, check.reason, checks=check.figures
            )
        return program, check

    def _result(
        self, proposal: Proposal, trained: TrainedProgram, check: ProgramCheck
    ) -> ProgramResult:
        fields = {
            entry.name: getattr(trained, entry.name)
            for entry in dataclasses.fields(trained)
            if entry.name != "error"
        }
        verdict = FAILED if trained.error else TRAINED
        return ProgramResult(
            proposal, self.round, verdict, trained.error, checks=check.figures, **fields
        )

    def _load(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        self.round, self.finished = int(state["round"]), bool(state["finished"])
        proposals = state["proposals"]
        if self.finished and state["remark"] != self.remark:  # a designer may have more to propose
            self.finished, proposals = False, None
        self.proposals = None if proposals is None else [Proposal(**each) for each in proposals]
        self.designer.load_state_dict(state["designer"])

    def _save(self) -> None:
        """Replace the file of the state in one step."""
        proposals = self.proposals
        state: dict[str, Any] = {
            "round": self.round,
            "finished": self.finished,
            "remark": self.remark,
            "proposals": None if proposals is None else [dataclasses.asdict(p) for p in proposals],
            "designer": self.designer.state_dict(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / STATE
        fresh = path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
