"""The loop of a search: ask for genomes, evaluate them, tell the results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from firstlight.agents.search.algorithm import SearchAlgorithm
from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.coverage import PositionCoverage
from firstlight.agents.search.evaluators.base import Evaluations, Evaluator
from firstlight.agents.session.callbacks import Evaluate
from firstlight.agents.session.episodes import Episode
from firstlight.agents.session.iteration_data import Metrics
from firstlight.agents.session.run_session import Callback, RunSession
from firstlight.envs.vec import VecEnv
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.networks import collective


class SearchTrainer:
    """Search of genomes by whole episodes, in the session of any trainer.

    Steps are environment steps. `policy` is that of the genome with the highest return so far.
    Nothing is open between two iterations, so a run resumes bit for bit in every environment whose
    episodes follow from a seed.

    Args:
        vec: the environments.
        algorithm: the search.
        evaluator: evaluates its genomes.
        batch_evaluations: an iteration ends after this number of evaluations or more; a batch that
            the search asks for is never cut.
        run_dir, resume, checkpoint_every, stall_after: see `RunSession`.

    Attributes:
        coverage: what was found so far.

    Raises:
        ValueError: in a run of several processes, for a number below 1, or for a checkpoint of
            another run.
    """

    def __init__(
        self,
        vec: VecEnv,
        algorithm: SearchAlgorithm,
        evaluator: Evaluator,
        *,
        batch_evaluations: int = 200,
        run_dir: str | Path | None = None,
        resume: bool = False,
        checkpoint_every: int | None = None,
        stall_after: float | None = 600.0,
    ):
        if batch_evaluations < 1:
            raise ValueError(f"batch_evaluations is {batch_evaluations}, expected at least 1")
        if collective.size() > 1:
            raise ValueError(f"a search runs in one process, and this run has {collective.size()}")
        self.vec, self.algorithm, self.evaluator = vec, algorithm, evaluator
        self.batch_evaluations, self.coverage = batch_evaluations, PositionCoverage(evaluator)
        self.modules: dict[str, IntrinsicModule] = {}  # a search takes none
        self.session = RunSession(
            self,
            vec,
            run_dir=run_dir,
            resume=resume,
            checkpoint_every=checkpoint_every,
            stall_after=stall_after,
            resume_mode="state",
        )
        self.session.restore()

    @property
    def policy(self) -> GenomePolicy:
        """The policy of the best genome so far."""
        return self.evaluator.policy

    def summary(self) -> str:
        """Describe the search in one line of plain words."""
        policy, evaluator = self.policy, self.evaluator
        cells = " x ".join(map(str, evaluator.cells))
        areas = f", {evaluator.num_areas} reward areas" if evaluator.num_areas else ""
        return (
            f"{type(self.algorithm).__name__} over {policy.genome_size} genes of a network of "
            f"{' '.join(map(str, policy.sizes.tolist()))} neurons; "
            f"observations: {', '.join(policy.obs_space.spaces)}; "
            f"episodes in {type(evaluator).__name__}, coverage of {cells} cells{areas}"
        )

    def run(self, total_steps: int, callbacks: Iterable[Callback] = ()) -> None:
        """Search until `total_steps` environment steps since the run began."""
        with self.session.open(total_steps, callbacks):
            while self.session.is_running():
                with self.session.iteration() as metrics:
                    metrics |= self.iterate()

    def iterate(self) -> Metrics:
        """Evaluate the genomes of an iteration. Returns scalars to log."""
        session, until = self.session, self.coverage.evaluated + self.batch_evaluations
        while self.coverage.evaluated < until:
            with session.stage("search"):
                genomes = self.algorithm.ask()
            with session.stage("evaluate_genomes"):
                evaluations = self.evaluator.evaluate(genomes, self.algorithm.samples)
            with session.stage("search"):
                self.algorithm.tell(evaluations)
            self.coverage.add(evaluations)
            session.record_episodes(int(evaluations.steps.sum()), episodes_of(evaluations))
        self.policy.genome.copy_(torch.from_numpy(self.algorithm.best_genome))
        return self.coverage.metrics() | self.algorithm.metrics()

    def state_dict(self) -> dict[str, Any]:
        """State of search, coverage and evaluator (`Trainable`)."""
        return {
            "learner": {"policy": self.policy.state_dict()},
            "search": self.algorithm.state_dict(),
            "coverage": self.coverage.state_dict(),
            "evaluator": self.evaluator.state_dict(),
            "runner": {"kept": self.vec.persistent_state()},
            "modules": {},
            "mixer": {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> torch.Tensor:
        """Restore what `state_dict` returned. No episode is open, so none is lost."""
        self.policy.load_state_dict(state["learner"]["policy"])
        self.algorithm.load_state_dict(state["search"])
        self.coverage.load_state_dict(state["coverage"])
        self.evaluator.load_state_dict(state["evaluator"])
        if state["runner"]["kept"]:
            self.vec.load_persistent_state(state["runner"]["kept"])
        return torch.zeros(0, dtype=torch.int64)


class EvaluateBest(Evaluate):
    """Evaluates the best genome as `Evaluate`, but not again while it stays the same."""

    _seen: torch.Tensor | None = None

    def __call__(self, run: RunSession, metrics: dict[str, float]) -> None:
        """Evaluate if it is due and there is another best genome, and at the end."""
        assert isinstance(run.policy, GenomePolicy)
        last = run.stopping or run.steps >= run.total_steps
        if not last and self._seen is not None and torch.equal(self._seen, run.policy.genome):
            return
        before = self.last
        super().__call__(run, metrics)
        if self.last is not before:
            self._seen = run.policy.genome.clone()


def episodes_of(evaluations: Evaluations) -> list[Episode]:
    """Return the episodes of evaluations, for statistics."""
    known = {1: True, 0: False}
    return [
        Episode(ret, steps, known.get(success))
        for ret, steps, success in zip(
            evaluations.ret.tolist(),
            evaluations.steps.tolist(),
            evaluations.success.tolist(),
            strict=True,
        )
    ]
