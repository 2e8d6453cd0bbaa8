"""MAP-Elites and CMA-ME, as baselines: archives and emitters are those of ``ribs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firstlight.agents.search.algorithm import SearchAlgorithm
from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.individuals import Individuals
from firstlight.agents.search.object_state import load_object_state, object_state
from firstlight.envs.seeding import derive

if TYPE_CHECKING:
    from ribs.archives import GridArchive


class GridSearch(SearchAlgorithm):
    """Base class of searches that keep the best genome of each cell of the position.

    Args:
        evaluator: see `SearchAlgorithm`; its cells are those of the grid.
        seed: of the run.
        bound: of genes.

    Attributes:
        grid: the elites.

    Raises:
        ImportError: without the package ribs.
    """

    def __init__(self, evaluator: Evaluator, seed: int, bound: float):
        super().__init__(evaluator, seed, bound)
        archives, self._emitters = _ribs()
        ranges = list(zip(evaluator.low.tolist(), evaluator.high.tolist(), strict=True))
        self.grid: GridArchive = archives.GridArchive(
            solution_dim=self.genome_size,
            dims=evaluator.cells,
            ranges=ranges,
            seed=derive(seed, "elites"),
        )

    def add(self, told: Individuals) -> dict[str, np.ndarray]:
        """Put individuals into the grid. Returns the status that ribs gives each."""
        return self.grid.add(told.genome, told.ret, told.position[:, -1])

    def metrics(self) -> dict[str, float]:
        """Return the number of elites."""
        return {"search/archive_size": float(len(self.grid))}

    def state_dict(self) -> dict[str, Any]:
        """Return also the elites, in their order, and the grid's random state."""
        elites = self.grid.data(["solution", "objective", "measures"])
        return super().state_dict() | {
            "elites": {name: np.array(field) for name, field in elites.items()},
            "grid_random": self.grid._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.grid.clear()
        elites = state["elites"]
        for row in zip(elites["solution"], elites["objective"], elites["measures"], strict=True):
            self.grid.add_single(*row)
        self.grid._rng.bit_generator.state = state["grid_random"]


class MapElites(GridSearch):
    """MAP-Elites (Mouret & Clune 2015): mutants of random elites compete for their cells.

    Args:
        evaluator: see `GridSearch`.
        seed: of the run.
        population_size: random genomes at the start.
        batch_size: mutants at a time.
        sigma: standard deviation of a mutation.
        bound: of genes.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seed: int = 0,
        *,
        population_size: int = 100,
        batch_size: int = 200,
        sigma: float = 0.05,
        bound: float = 5.0,
    ):
        super().__init__(evaluator, seed, bound)
        self.mutations = self._emitters.GaussianEmitter(
            self.grid,
            sigma=sigma,
            initial_solutions=self.random_genomes(population_size),
            bounds=[(-bound, bound)] * self.genome_size,
            batch_size=batch_size,
            seed=derive(seed, "mutations"),
        )

    def ask(self) -> np.ndarray:
        """Return random genomes, then mutants."""
        genomes = np.array(self.mutations.ask())
        self._parents = np.full(len(genomes), -1)
        return genomes

    def learn(self, told: Individuals) -> None:
        """Put them into the grid."""
        self.add(told)

    def state_dict(self) -> dict[str, Any]:
        """Return also the random state of mutations."""
        state = object_state(self.mutations, ["ribs"], without=[self.grid])
        return super().state_dict() | {"mutations": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        load_object_state(self.mutations, state["mutations"], ["ribs"], without=[self.grid])


class CmaMe(GridSearch):
    """CMA-ME (Fontaine et al. 2020): CMA-ES emitters whose solutions compete for cells.

    The emitter that has put the fewest solutions into the grid since its start acts next, as in
    SERENE's baseline. One whose batch changes nothing begins again from a random elite.

    Args:
        evaluator: see `GridSearch`.
        seed: of the run.
        num_emitters: number of emitters.
        batch_size: solutions of an emitter at a time; default that of CMA-ES.
        sigma: first step size.
        ranker: of ribs: "2imp", new cells first, then improvement (improvement emitters); "obj",
            the reward alone (optimising emitters, which SERENE's baseline has).
        bound: of genes.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seed: int = 0,
        *,
        num_emitters: int = 15,
        batch_size: int | None = None,
        sigma: float = 0.5,
        ranker: str = "2imp",
        bound: float = 5.0,
    ):
        super().__init__(evaluator, seed, bound)
        if num_emitters < 1:
            raise ValueError(f"num_emitters is {num_emitters}, expected at least 1")
        self.emitters = [
            self._emitters.EvolutionStrategyEmitter(
                self.grid,
                x0=genome,
                sigma0=sigma,
                ranker=ranker,
                restart_rule="no_improvement",
                bounds=[(-bound, bound)] * self.genome_size,
                batch_size=batch_size,
                seed=derive(seed, "emitter", i),
            )
            for i, genome in enumerate(self.random_genomes(num_emitters))
        ]
        self.stored = np.zeros(num_emitters, np.int64)
        self._active = 0

    def ask(self) -> np.ndarray:
        """Return the solutions of the emitter with the fewest stored ones."""
        self._active = int(self.stored.argmin())
        genomes = np.array(self.emitters[self._active].ask())
        self._parents = np.full(len(genomes), -1)
        return genomes

    def learn(self, told: Individuals) -> None:
        """Put them into the grid, and let the emitter learn how they did."""
        emitter, info = self.emitters[self._active], self.add(told)
        restarts = emitter.restarts
        emitter.tell(told.genome, told.ret, told.position[:, -1], info)
        self.stored[self._active] += int((np.asarray(info["status"]) > 0).sum())
        if emitter.restarts > restarts:
            self.stored[self._active] = 0

    def metrics(self) -> dict[str, float]:
        """Return the number of elites and of restarts."""
        restarts = sum(emitter.restarts for emitter in self.emitters)
        return super().metrics() | {"search/restarts": float(restarts)}

    def state_dict(self) -> dict[str, Any]:
        """Return also the states of the emitters."""
        states = [object_state(e, ["ribs"], without=[self.grid]) for e in self.emitters]
        return super().state_dict() | {"emitters": states, "stored": self.stored.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.stored = state["stored"]
        for emitter, own in zip(self.emitters, state["emitters"], strict=True):
            load_object_state(emitter, own, ["ribs"], without=[self.grid])


def _ribs() -> tuple[Any, Any]:
    """Import the modules `archives` and `emitters` of ribs."""
    try:
        from ribs import archives, emitters
    except ImportError as error:
        raise ImportError(
            "MAP-Elites and CMA-ME need the package ribs: pip install 'firstlight[search]'"
        ) from error
    return archives, emitters
