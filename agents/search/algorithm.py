"""Base class of searches: they ask for evaluations of genomes and are told the results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from firstlight.agents.search.evaluators.base import Evaluations, Evaluator
from firstlight.agents.search.individuals import Individuals
from firstlight.envs.seeding import derive


class SearchAlgorithm(ABC):
    """Base class of searches over genomes.

    A subclass implements `ask`, `learn` and the saving of its state. All random numbers come from
    one generator, whose state is saved.

    Args:
        evaluator: gives sizes, bounds of positions, and pictures; it is not called.
        seed: of the run.
        bound: genes are kept between ``-bound`` and ``bound``.

    Attributes:
        samples: moments of an episode that evaluations must hold.
        needs_pictures: whether the search looks at pictures of the environment.
        random: generator of random numbers.
        evaluated: evaluations so far.
        best_genome: [G] float64, with the highest return; of equals the first.
        best_return: its return, -inf before an evaluation.
        archive: individuals that are kept, None before there are any.
    """

    samples: int = 1
    needs_pictures: ClassVar[bool] = False
    archive: Individuals | None = None

    def __init__(self, evaluator: Evaluator, seed: int, bound: float):
        if bound <= 0:
            raise ValueError(f"bound is {bound}, expected above 0")
        self.evaluator, self.bound = evaluator, bound
        self.genome_size = evaluator.policy.genome_size
        self.random = np.random.Generator(np.random.PCG64(derive(seed, "search")))
        self.evaluated = 0
        self.best_genome, self.best_return = np.zeros(self.genome_size), -np.inf
        self._parents = np.zeros(0, np.int64)  # of the genomes that were asked for

    @abstractmethod
    def ask(self) -> np.ndarray:
        """Return genomes [B, G] float64 to evaluate next."""

    def tell(self, evaluations: Evaluations) -> Individuals:
        """Learn from the evaluations of the genomes that `ask` returned. Returns them numbered."""
        told = Individuals.of(evaluations, self.evaluated, self._parents)
        self.evaluated += len(told)
        first = int(told.ret.argmax())
        if told.ret[first] > self.best_return:
            self.best_return = float(told.ret[first])
            self.best_genome = told.genome[first].copy()
        self.learn(told)
        return told

    @abstractmethod
    def learn(self, told: Individuals) -> None:
        """Change the state of the search by new individuals."""

    def metrics(self) -> dict[str, float]:
        """Return scalars to log, under their full tags."""
        return {} if self.archive is None else {"search/archive_size": float(len(self.archive))}

    def archives(self) -> dict[str, Individuals]:
        """Return what the search keeps, by name, for pictures."""
        return {} if self.archive is None else {"archive": self.archive}

    def random_genomes(self, count: int) -> np.ndarray:
        """Draw genomes [count, G] from a standard normal distribution, within the bounds."""
        self._parents = np.full(count, -1)
        return self.clipped(self.random.normal(size=(count, self.genome_size)))

    def clipped(self, genomes: np.ndarray) -> np.ndarray:
        """Clip genes to the bounds."""
        return np.clip(genomes, -self.bound, self.bound)

    def state_dict(self) -> dict[str, Any]:
        """Return all that later evaluations depend on."""
        return {
            "random": self.random.bit_generator.state,
            "evaluated": self.evaluated,
            "best_genome": self.best_genome,
            "best_return": self.best_return,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.random.bit_generator.state = state["random"]
        self.evaluated = state["evaluated"]
        self.best_genome, self.best_return = state["best_genome"], state["best_return"]


class RandomSearch(SearchAlgorithm):
    """Evaluates random genomes, as a baseline.

    Args:
        evaluator: see `SearchAlgorithm`.
        seed: of the run.
        batch_size: genomes drawn at a time.
        bound: of genes.
    """

    def __init__(
        self, evaluator: Evaluator, seed: int = 0, *, batch_size: int = 200, bound: float = 5.0
    ):
        super().__init__(evaluator, seed, bound)
        self.batch_size = batch_size

    def ask(self) -> np.ndarray:
        """Draw genomes."""
        return self.random_genomes(self.batch_size)

    def learn(self, told: Individuals) -> None:
        """Learn nothing."""
