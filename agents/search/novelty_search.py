"""Novelty search, novelty with local competition, and novelty against reward."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from firstlight.agents.search.algorithm import SearchAlgorithm
from firstlight.agents.search.descriptors import Descriptor, PathDescriptor, PathOfPositions
from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.individuals import (
    Individuals,
    join,
    load_individuals,
    save_individuals,
)
from firstlight.agents.search.selection import select_by_fronts, select_largest
from firstlight.intrinsic.behaviour.nearest import neighbors_of, novelty_of

ArchiveChoice = Literal["random", "novel"]
Criterion = Literal["novelty", "surprise"]


class NoveltySearch(SearchAlgorithm):
    """Novelty search (Lehman & Stanley 2011) as in SERENE and STAX (Paolo et al. 2021, 2024).

    In each generation every member of the population has children, by normal noise on its genes.
    The novelty of members and children is the mean distance of their descriptors to the nearest of
    population, children and archive. Some children enter the archive, and the most novel of members
    and children are the next population. Rewards are not used.

    Args:
        evaluator: see `SearchAlgorithm`.
        seed: of the run.
        population_size: members.
        num_children: of each member in a generation.
        sigma: standard deviation of a mutation.
        mutation_rate: share of the genes that a mutation changes.
        bound: of genes.
        num_neighbors: nearest descriptors that novelty is measured to.
        num_archived: children that enter the archive in a generation.
        archive_choice: which: "random" ones or the most "novel".
        descriptor: see `PathOfPositions`.
        samples: moments of an episode that the descriptor sees.

    Attributes:
        population: members, None before the first evaluations.
        offspring: children of the last generation.

    Raises:
        ValueError: for numbers below 1, or a choice that does not exist.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seed: int = 0,
        *,
        population_size: int = 100,
        num_children: int = 2,
        sigma: float = 0.05,
        mutation_rate: float = 1.0,
        bound: float = 5.0,
        num_neighbors: int = 15,
        num_archived: int = 5,
        archive_choice: ArchiveChoice = "random",
        descriptor: PathDescriptor = "position",
        samples: int = 1,
    ):
        super().__init__(evaluator, seed, bound)
        numbers = {
            "population_size": population_size,
            "num_children": num_children,
            "num_neighbors": num_neighbors,
            "samples": samples,
        }
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} is {number}, expected at least 1")
        if not 0 <= num_archived <= population_size * num_children:
            raise ValueError(
                f"num_archived is {num_archived}, expected at most the "
                f"{population_size * num_children} children of a generation"
            )
        if archive_choice not in get_args(ArchiveChoice):
            raise ValueError(f"archive_choice is {archive_choice!r}, expected 'random' or 'novel'")
        if "signature" in descriptor and samples < 2:
            raise ValueError(f"descriptor is {descriptor!r}, a path: give 2 samples or more")
        self.population_size, self.num_children = population_size, num_children
        self.sigma, self.mutation_rate = sigma, mutation_rate
        self.num_neighbors, self.num_archived = num_neighbors, num_archived
        self.archive_choice, self.samples = archive_choice, samples
        self.descriptor: Descriptor = PathOfPositions(evaluator, descriptor)
        self.population: Individuals | None = None
        self.offspring: Individuals | None = None

    def ask(self) -> np.ndarray:
        """Return the first population, or children of the population."""
        if self.population is None:
            return self.random_genomes(self.population_size)
        parents = np.repeat(np.arange(len(self.population)), self.num_children)
        self._parents = self.population.id[parents]
        return self.mutated(self.population.genome[parents], self.sigma)

    def mutated(self, genomes: np.ndarray, sigma: float) -> np.ndarray:
        """Add normal noise to genes [B, G], within their bounds."""
        noise = self.random.normal(0.0, sigma, genomes.shape)
        if self.mutation_rate < 1:
            noise *= self.random.random(genomes.shape) < self.mutation_rate
        return self.clipped(genomes + noise)

    def learn(self, told: Individuals) -> None:
        """End a generation with its children."""
        told = self.descriptor.describe(told)
        if self.population is None:
            self.population, self.offspring = told, told.take([])
            self.archive = told.take([])
        else:
            self.end_generation(told)

    def end_generation(self, offspring: Individuals) -> None:
        """Rate members and children, add to the archive, and choose the next population."""
        assert self.population is not None
        assert self.archive is not None
        self.population, offspring = self.rate(self.population, offspring)
        criterion = self.choose_criterion()
        rows = self.archive_rows(values_of(offspring, criterion))
        self.archive = join([self.archive, offspring.take(rows)])
        both = join([self.population, offspring])
        self.population = both.take(self.survivors(both, criterion))
        self.offspring = offspring

    def choose_criterion(self) -> Criterion:
        """Choose what survivors of a generation, and perhaps its archive, are chosen by."""
        return "novelty"

    def rate(
        self, population: Individuals, offspring: Individuals
    ) -> tuple[Individuals, Individuals]:
        """Return members and children with their novelty."""
        both = join([population, offspring])
        references = np.concatenate([both.descriptor, *self.further_references()])
        novelty = novelty_of(both.descriptor, references, self.num_neighbors, first_row=0)
        both = both.with_values(novelty=novelty)
        count = len(population)
        return both.take(np.arange(count)), both.take(np.arange(count, len(both)))

    def further_references(self) -> list[np.ndarray]:
        """Descriptors that novelty is measured to, beside those of population and children."""
        return [] if self.archive is None or not len(self.archive) else [self.archive.descriptor]

    def archive_rows(self, values: np.ndarray) -> np.ndarray:
        """Choose `num_archived` rows at random, or those with the largest of `values` [B]."""
        count = min(self.num_archived, len(values))
        if self.archive_choice == "novel":
            return select_largest(values, count)
        return self.random.permutation(len(values))[:count]

    def survivors(self, both: Individuals, criterion: Criterion) -> np.ndarray:
        """Choose the next population of members and children, [population_size] int64."""
        return select_largest(values_of(both, criterion), self.population_size)

    def refresh(self) -> None:
        """Compute every stored descriptor again, after the descriptor has learnt."""
        for name, group in self._groups().items():
            if group is not None:
                setattr(self, name, self.descriptor.describe(group))

    def state_dict(self) -> dict[str, Any]:
        """Return population, children, archive, and the state of the descriptor."""
        groups = {name: save_individuals(group) for name, group in self._groups().items()}
        return super().state_dict() | groups | {"descriptor": self.descriptor.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.descriptor.load_state_dict(state["descriptor"])
        for name in self._groups():
            setattr(self, name, load_individuals(state[name]))

    def _groups(self) -> dict[str, Individuals | None]:
        """Individuals that are stored, by the names of their attributes."""
        return {
            "population": self.population,
            "offspring": self.offspring,
            "archive": self.archive,
        }


class NSLC(NoveltySearch):
    """Novelty search with local competition (Lehman & Stanley 2011, "Evolving a diversity").

    Survivors are chosen by fronts (NSGA-II) of novelty and local competition: how many of the
    nearest neighbours, whose distances are the novelty, have a lower reward. Arguments as for
    `NoveltySearch`.
    """

    def survivors(self, both: Individuals, criterion: Criterion) -> np.ndarray:
        """Choose by novelty and local competition."""
        others = [] if self.archive is None else [self.archive]
        known = join([both, *others])
        rows, _ = neighbors_of(both.descriptor, known.descriptor, self.num_neighbors, first_row=0)
        wins = (known.ret[rows] < both.ret[:, None]).sum(1)
        return select_by_fronts(np.stack([both.novelty, wins], 1), self.population_size)


class NSGA2(NoveltySearch):
    """Novelty and reward as two objectives of NSGA-II (Deb et al. 2002), a baseline of SERENE.

    Arguments as for `NoveltySearch`.
    """

    def survivors(self, both: Individuals, criterion: Criterion) -> np.ndarray:
        """Choose by novelty and reward."""
        return select_by_fronts(np.stack([both.novelty, both.ret], 1), self.population_size)


def values_of(individuals: Individuals, criterion: Criterion) -> np.ndarray:
    """Return the novelty or the surprise [B] of individuals."""
    return individuals.novelty if criterion == "novelty" else individuals.surprise
