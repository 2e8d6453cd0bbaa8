"""Train the best programs of a search with further seeds, and order them by all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.intrinsic.design.design_search import TrainedProgram
from firstlight.intrinsic.design.designers.base import TRAINED, ProgramResult
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.scripts.programs.program_cells import ProgramCells

_FIRST_SEED = 1000  # more than that of the search: none that the final check has


@dataclass(frozen=True)
class Finalist:
    """One of the best programs of a search, and its trainings with further seeds.

    Args:
        result: of the search.
        retrained: trainings with further seeds.
    """

    result: ProgramResult
    retrained: Sequence[TrainedProgram] = ()

    @property
    def error(self) -> str:
        """Why a training failed; "" if all finished."""
        return next((trained.error for trained in self.retrained if trained.error), "")

    @property
    def scores(self) -> list[float | None]:
        """Task return of each training, that of the search first."""
        return [self.result.score, *(trained.score for trained in self.retrained)]

    @property
    def rank(self) -> tuple[float, float]:
        """Means over all trainings, as `ProgramResult.rank`; the lowest if one failed."""
        if self.error:
            return -float("inf"), -float("inf")
        during = [self.result.training_return, *(each.training_return for each in self.retrained)]
        return _mean(self.scores), _mean(during)


def _mean(values: Sequence[float | None]) -> float:
    known = [-float("inf") if value is None else value for value in values]
    return sum(known) / len(known)


def choose_finalists(
    results: Sequence[ProgramResult], cells: ProgramCells, options: Mapping[str, Any]
) -> list[Finalist] | None:
    """Train the best programs with further seeds: what one seed reached may be luck.

    Args:
        results: of the search.
        cells: trains.
        options: ``seed``, ``steps``, ``finalists`` and ``finalist_seeds``.

    Returns:
        The finalists, the best first; None if time is over. A single one is not trained.
    """
    trained = {r.proposal.hash: r for r in reversed(results) if r.verdict == TRAINED}
    order = sorted(reversed(trained.values()), key=lambda result: result.rank, reverse=True)
    best = {result.proposal.hash: result for result in order[: options["finalists"]]}
    if len(best) < 2:
        return [Finalist(result) for result in best.values()]
    first = options["seed"] + _FIRST_SEED
    seeds = range(first, first + options["finalist_seeds"])
    programs = {name: RewardProgram.parse(r.proposal.source) for name, r in best.items()}
    found = cells.train(programs, task="finalists", seeds=seeds, steps=options["steps"])
    if len(found) < len(best) * len(seeds):
        return None
    finalists = [
        Finalist(result, [found[name, seed] for seed in seeds]) for name, result in best.items()
    ]
    return sorted(finalists, key=lambda finalist: finalist.rank, reverse=True)
