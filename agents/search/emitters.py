"""Emitters: local searches from one rewarded individual, as in SERENE (Paolo et al. 2021)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from firstlight.agents.search.individuals import (
    Individuals,
    join,
    load_individuals,
    save_individuals,
)
from firstlight.agents.search.object_state import load_object_state, object_state

if TYPE_CHECKING:
    from cmaes import CMA

EmitterKind = Literal["fitness", "novelty", "cma_es"]
EmitterReach = Literal["distance", "gene"]
StagnationRule = Literal["custom", "original"]
_BASELINE = 3  # lists of values that an improvement is measured from and to
_ENDS = 20  # lists at both ends of the window of the rule "custom"


class Emitter(ABC):
    """Base class of emitters.

    Args:
        ancestor: one individual with a reward.
        sigma: standard deviation of mutations.
        size: individuals of its population.
        bound: of genes.

    Attributes:
        population: None before the first evaluations.
        values: [steps + 1] arrays [size], rewards of the population after each step.
        steps: since the first population.
        archived: highest reward that it has put into the reward archive; None before.
        most_novel: the most novel individual so far; at first the ancestor.
        novel: individuals that were the most novel when they were found.
    """

    def __init__(self, ancestor: Individuals, sigma: float, size: int, bound: float):
        self.ancestor, self.sigma, self.size, self.bound = ancestor, sigma, size, bound
        self.population: Individuals | None = None
        self.values: list[np.ndarray] = []
        self.steps = 0
        self.archived: float | None = None
        self.most_novel, self.novel = ancestor, ancestor.take([])
        self._baseline: float | None = None

    @abstractmethod
    def ask(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return genomes [B, G] to evaluate next, and the ids [B] of their parents."""

    @abstractmethod
    def select(self, told: Individuals) -> Individuals:
        """Return the next population, of it and the individuals that `ask` led to."""

    def is_converged(self) -> bool:
        """Whether the emitter's own optimiser has ended; by default never."""
        return False

    def tell(self, told: Individuals) -> None:
        """Take evaluated individuals, which have descriptors and novelty."""
        self.steps += self.population is not None
        self.population = self.select(told)
        self.values.append(self.population.ret.copy())

    @property
    def improvement(self) -> float:
        """Mean of the last three lists of rewards minus that of the first three, at least 0."""
        lists = self.values
        first = np.mean(lists[:_BASELINE]) if self._baseline is None else self._baseline
        return max(0.0, float(np.mean(lists[-_BASELINE:]) - first))

    def restart_improvement(self) -> None:
        """Measure improvement from here on (the option `local_improvement`)."""
        self._baseline = float(np.mean(self.values[-_BASELINE:]))

    def take_rewarded(self) -> Individuals:
        """Return members better than all that were returned before; at first only the best."""
        assert self.population is not None
        rewards = self.population.ret
        if self.archived is None:
            best = int(rewards.argmax())
            rows = np.array([best] if rewards[best] > 0 else [], np.int64)
        else:
            rows = np.flatnonzero(rewards > self.archived)
        if len(rows):
            self.archived = float(rewards[rows].max())
        return self.population.take(rows)

    def keep_novel(self) -> None:
        """Keep members that are more novel than the most novel before."""
        assert self.population is not None
        novelty = self.population.novelty
        own = self.population.id != self.ancestor.id[0]
        rows = np.flatnonzero(own & (novelty > self.most_novel.novelty[0]))
        if len(rows):
            self.novel = join([self.novel, self.population.take(rows)])
            self.most_novel = self.population.take([int(rows[novelty[rows].argmax()])])

    def is_stagnant(self, rule: StagnationRule) -> bool:
        """Whether rewards do not grow any more over a window of steps.

        Args:
            rule: "custom", of SERENE: medians or maxima of the first and the last 20 lists of the
                window are compared. "original", of CMA-ES (Hansen 2016): medians of the maxima, and
                medians of the medians, of its first and last 30 %.
        """
        genes = self.ancestor.genome.shape[1]
        if rule == "custom":
            window = int(20 * genes / self.size + 120)
            if self.steps <= window:
                return False
            first, last = (
                np.array(part) for part in (self.values[-window:][:_ENDS], self.values[-_ENDS:])
            )
            return bool(np.median(first) >= np.median(last) or first.max() >= last.max())
        window = max(int(30 * genes / self.size + 120), int(0.2 * self.steps))
        if self.steps <= window:
            return False
        recent = np.array(self.values[-window:])
        share = int(0.3 * window)
        ends = [
            (np.median(values[:share]), np.median(values[-share:]))
            for values in (recent.max(1), np.median(recent, 1))
        ]
        return all(first >= last for first, last in ends)

    def state_dict(self) -> dict[str, Any]:
        """Return all but what the constructor was given."""
        return {
            "ancestor": self.ancestor.state_dict(),
            "sigma": self.sigma,
            "population": save_individuals(self.population),
            "values": np.array(self.values),
            "steps": self.steps,
            "archived": self.archived,
            "most_novel": self.most_novel.state_dict(),
            "novel": self.novel.state_dict(),
            "baseline": self._baseline,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.population = load_individuals(state["population"])
        self.values = list(state["values"])
        self.steps, self.archived = state["steps"], state["archived"]
        self.most_novel = Individuals(**state["most_novel"])
        self.novel, self._baseline = Individuals(**state["novel"]), state["baseline"]

    def _around(self, genomes: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Add normal noise to genomes, within their bounds."""
        noise = random.normal(0.0, self.sigma, genomes.shape)
        return np.clip(genomes + noise, -self.bound, self.bound)


class ElitistEmitter(Emitter):
    """Keeps the best of population and children; each member has two children.

    Args:
        by_novelty: the best are the most novel, else those with the highest reward. Of equals the
            newer ones are kept, so that a population drifts over a plateau.
        keep_ancestor: let the ancestor compete for a place in the first population.
        ancestor, sigma, size, bound: see `Emitter`.
    """

    def __init__(
        self,
        ancestor: Individuals,
        sigma: float,
        size: int,
        bound: float,
        *,
        by_novelty: bool,
        keep_ancestor: bool = True,
    ):
        super().__init__(ancestor, sigma, size, bound)
        self.by_novelty, self.keep_ancestor = by_novelty, keep_ancestor
        if keep_ancestor:  # the reward archive holds it already
            self.archived = float(ancestor.ret[0])

    def ask(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return neighbours of the ancestor, then children of the population."""
        if self.population is None:
            genomes = np.repeat(self.ancestor.genome, self.size, 0)
            return self._around(genomes, random), np.repeat(self.ancestor.id, self.size)
        parents = np.repeat(np.arange(self.size), 2)
        return self._around(self.population.genome[parents], random), self.population.id[parents]

    def select(self, told: Individuals) -> Individuals:
        """Keep the best."""
        parents = self.population
        if parents is None:
            parents = self.ancestor if self.keep_ancestor else self.ancestor.take([])
        both = join([parents, told])
        values = both.novelty if self.by_novelty else both.ret
        return both.take(np.lexsort((-both.id, -values))[: self.size])


class CMAESEmitter(Emitter):
    """Emitter that maximises the reward by CMA-ES, starting at the ancestor (package ``cmaes``).

    Args:
        seed: of its random numbers.
        ancestor, sigma, size, bound: see `Emitter`.
    """

    def __init__(self, ancestor: Individuals, sigma: float, size: int, bound: float, *, seed: int):
        super().__init__(ancestor, sigma, size, bound)
        self.optimizer = make_cma(ancestor.genome[0], sigma, bound, size, seed)

    def ask(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw from the optimiser's distribution."""
        genomes = np.stack([self.optimizer.ask() for _ in range(self.size)])
        return genomes, np.repeat(self.ancestor.id, self.size)

    def select(self, told: Individuals) -> Individuals:
        """Let the optimiser learn; the population is what was evaluated."""
        pairs = zip(told.genome, told.ret.tolist(), strict=True)
        self.optimizer.tell([(genome, -reward) for genome, reward in pairs])
        return told

    def is_converged(self) -> bool:
        """Whether a criterion of CMA-ES holds, for example that its steps are too small."""
        return bool(self.optimizer.should_stop())

    def state_dict(self) -> dict[str, Any]:
        """Return also the optimiser's state."""
        return super().state_dict() | {"optimizer": object_state(self.optimizer, ["cmaes"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        load_object_state(self.optimizer, state["optimizer"], ["cmaes"])


def make_cma(mean: np.ndarray, sigma: float, bound: float, size: int, seed: int) -> CMA:
    """Make a CMA-ES optimiser within bounds.

    Raises:
        ImportError: without the package cmaes.
    """
    try:
        from cmaes import CMA
    except ImportError as error:
        raise ImportError(
            "CMA-ES needs the package cmaes: pip install 'firstlight[search]'"
        ) from error
    bounds = np.tile([-bound, bound], (len(mean), 1)).astype(np.float64)
    return CMA(mean.copy(), sigma, bounds=bounds, seed=seed, population_size=size)


def make_emitter(
    kind: EmitterKind,
    ancestor: Individuals,
    sigma: float,
    size: int,
    bound: float,
    seed: int,
    *,
    keep_ancestor: bool = True,
) -> Emitter:
    """Make an emitter of a kind: `seed` is for CMA-ES, `keep_ancestor` for the others."""
    if kind == "cma_es":
        return CMAESEmitter(ancestor, sigma, size, bound, seed=seed)
    options = {"by_novelty": kind == "novelty", "keep_ancestor": keep_ancestor}
    return ElitistEmitter(ancestor, sigma, size, bound, **options)
