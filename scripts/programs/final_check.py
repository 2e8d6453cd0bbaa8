"""Compare the best program with no program, on seeds that the search has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.intrinsic.design.design_search import TrainedProgram
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.scripts.programs.finalists import Finalist
from firstlight.scripts.programs.program_cells import WITHOUT, ProgramCells

WINNER = "winner.py"
"""File of the program that passed the final check."""


@dataclass(frozen=True)
class FinalVerdict:
    """What the final check found.

    Args:
        program: its hash.
        steps: environment steps of each training.
        own: trainings with the program, by seed.
        without: trainings without one.
        accepted: whether the program is better.
        reason: in a sentence.
    """

    program: str
    steps: int
    own: Mapping[int, TrainedProgram]
    without: Mapping[int, TrainedProgram]
    accepted: bool
    reason: str


class FinalCheck:
    """Trains with the best program and without, and keeps the program only if it is better.

    Both have the same further seeds and steps. What is compared is the task's own return of the
    frozen policies, the mean over seeds; where these are equal, the mean return over the training.

    Args:
        cells: trains.
        options: ``seed``, ``seeds``, ``steps``, ``final_steps``.
        folder: of the winner.
    """

    def __init__(self, cells: ProgramCells, options: Mapping[str, Any], folder: Path):
        self.cells, self.folder = cells, folder
        first = options["seed"] + 1
        self.seeds = [*range(first, first + options["seeds"])]
        self.steps = options["final_steps"] or 3 * options["steps"]

    def run(self, finalist: Finalist) -> FinalVerdict | None:
        """Return the verdict, and write the program if it passes; None if time is over."""
        best = finalist.result
        program = RewardProgram.parse(
            best.proposal.source,
            parent=best.proposal.parent,
            model=best.proposal.model,
            prompt_hash=best.proposal.prompt_hash,
        )
        found = self.cells.train(
            {program.hash: program, WITHOUT: None},
            task="final",
            seeds=self.seeds,
            steps=self.steps,
        )
        if len(found) < 2 * len(self.seeds):
            return None
        own, without = (
            {seed: found[name, seed] for seed in self.seeds} for name in (program.hash, WITHOUT)
        )
        accepted, reason = compare([*own.values()], [*without.values()])
        if accepted:
            scores = ", ".join(f"{score:.4g}" for score in finalist.scores if score is not None)
            searched = f"search: task return {scores} after {best.steps:,} steps"
            text = describe_program(program.with_verdict(searched).with_verdict(f"final: {reason}"))
            (self.folder / WINNER).write_text(text, encoding="utf-8")
        else:  # of an earlier check with fewer seeds or steps
            (self.folder / WINNER).unlink(missing_ok=True)
        return FinalVerdict(program.hash, self.steps, own, without, accepted, reason)


def compare(own: Sequence[TrainedProgram], without: Sequence[TrainedProgram]) -> tuple[bool, str]:
    """Decide whether trainings with a program are better than trainings without.

    If a training failed, with the program or without, there is nothing to compare and the program
    is not accepted.

    Returns:
        Whether, and why.
    """
    for group, name in ((own, "with"), (without, "without")):
        if failed := [trained.error for trained in group if trained.error]:
            count = f"{len(failed)} of {len(group)} trainings {name} the program"
            return False, f"{count} failed: {failed[0]}"
    means = [_mean(group, "score") for group in (own, without)]
    over = [_mean(group, "training_return") for group in (own, without)]
    text = f"task return {means[0]:.4g} with the program, {means[1]:.4g} without"
    if means[0] != means[1]:
        return means[0] > means[1], text
    return over[0] > over[1], f"{text}; during training {over[0]:.4g} and {over[1]:.4g}"


def _mean(group: Sequence[TrainedProgram], name: str) -> float:
    values = [getattr(trained, name) for trained in group if getattr(trained, name) is not None]
    return sum(values) / len(values) if values else float("-inf")


def describe_program(program: RewardProgram) -> str:
    """Source of a program, with comments on where it comes from and what was found."""
    facts = {
        "program": program.hash,
        "parent": program.parent,
        "model": program.model,
        "prompt": program.prompt_hash,
    }
    known = [f"# {name}: {_one_line(value)}" for name, value in facts.items() if value]
    verdicts = [f"# {_one_line(verdict)}" for verdict in program.verdicts]
    return "\n".join(["# found by firstlight-design", *known, *verdicts, program.source])


def _one_line(text: str) -> str:
    return " ".join(text.split())
