"""SERENE: novelty search that explores, and emitters that exploit the rewards it finds."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from firstlight.agents.search.descriptors import PathDescriptor
from firstlight.agents.search.emitters import (
    Emitter,
    EmitterKind,
    EmitterReach,
    StagnationRule,
    make_emitter,
)
from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.individuals import Individuals, join
from firstlight.agents.search.novelty_search import ArchiveChoice, NoveltySearch
from firstlight.agents.search.schedulers import ChunkScheduler, Mode, SchedulerKind
from firstlight.agents.search.selection import pareto_fronts
from firstlight.intrinsic.behaviour.nearest import novelty_of


class Serene(NoveltySearch):
    """SERENE (Paolo et al. 2021, arXiv 2102.03140).

    Evaluations come in chunks. A chunk that explores is novelty search; each individual that gets a
    reward enters the reward archive, and becomes the ancestor of a candidate emitter.
    A chunk that exploits first tries candidates, those whose ancestor is the most novel in the
    reward archive first, for as long as more than a third of it is left: a candidate whose rewards
    grow becomes an emitter, another one is dropped. Then one emitter of the first front by novelty
    of the ancestor and improvement runs until it ends or the chunk does. What emitters find enters
    the reward archive, and when one ends, some of its most novel finds enter the archive. Novelty
    is also measured to the reward archive.

    A chunk ends after the batch that exceeds it: no batch is cut.

    Args:
        evaluator, seed, population_size, num_children, sigma, mutation_rate, bound, num_neighbors,
            num_archived, archive_choice, descriptor, samples: see `NoveltySearch`.
        chunk: evaluations of a chunk.
        emitter: "fitness", the best of parents and children by reward; "novelty", by novelty;
            "cma_es", CMA-ES on the reward.
        emitter_size: population of an emitter.
        emitter_reach: "distance": an emitter's mutations are a third as long as the way from its
            ancestor to the nearest other genome. "gene", as released: that is the deviation of each
            single gene, so mutations of G genes are √G times as long.
        keep_ancestor: let the ancestor compete for a place in the emitter's first population; False
            as released.
        bootstrap_steps: steps of a candidate after its first population, at least 3: improvement
            compares three lists of rewards with three later ones.
        scheduler: "alternating", or as in STAX "fixed", "time" or "ucb", see `ChunkScheduler`.
        budget: evaluations of the run, for the scheduler "time".
        stagnation: see `Emitter.is_stagnant`.
        max_emitter_steps: after which an emitter ends; None: never for that reason.
        local_improvement: measure improvement from the last chunk that an emitter ran in, instead
            of from its beginning.

    Attributes:
        reward_archive: individuals with rewards, None before the first evaluations.
        candidates: emitters to try.
        emitters: emitters that were promoted.
        mode: what the current chunk does.
        left: evaluations left of it.
        ended: number of emitters that have ended.
        explored: evaluations spent on exploring.
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
        chunk: int = 1000,
        emitter: EmitterKind = "fitness",
        emitter_size: int = 6,
        emitter_reach: EmitterReach = "distance",
        keep_ancestor: bool = True,
        bootstrap_steps: int = 5,
        scheduler: SchedulerKind = "alternating",
        budget: int = 500_000,
        stagnation: StagnationRule = "custom",
        max_emitter_steps: int | None = None,
        local_improvement: bool = False,
    ):
        super().__init__(
            evaluator,
            seed,
            population_size=population_size,
            num_children=num_children,
            sigma=sigma,
            mutation_rate=mutation_rate,
            bound=bound,
            num_neighbors=num_neighbors,
            num_archived=num_archived,
            archive_choice=archive_choice,
            descriptor=descriptor,
            samples=samples,
        )
        for name, number, least in (
            ("chunk", chunk, 1),
            ("emitter_size", emitter_size, 1),
            ("bootstrap_steps", bootstrap_steps, 3),
        ):
            if number < least:
                raise ValueError(f"{name} is {number}, expected at least {least}")
        for name, value, kinds in (
            ("emitter", emitter, EmitterKind),
            ("emitter_reach", emitter_reach, EmitterReach),
            ("stagnation", stagnation, StagnationRule),
        ):
            if value not in get_args(kinds):
                raise ValueError(
                    f"{name} is {value!r}, expected one of {', '.join(get_args(kinds))}"
                )
        self.chunk, self.emitter, self.emitter_size = chunk, emitter, emitter_size
        self.emitter_reach, self.keep_ancestor = emitter_reach, keep_ancestor
        self.bootstrap_steps, self.stagnation = bootstrap_steps, stagnation
        self.max_emitter_steps, self.local_improvement = max_emitter_steps, local_improvement
        self.scheduler = ChunkScheduler(scheduler, budget=budget)
        self.reward_archive: Individuals | None = None
        self.candidates: list[Emitter] = []
        self.emitters: list[Emitter] = []
        self.mode: Mode = "explore"
        self.left = self.ended = self.explored = 0
        self._before = 0  # emitters and candidates when the chunk began
        self._trying: Emitter | None = None  # a candidate that is not through
        self._running: Emitter | None = None  # an emitter that was chosen

    def ask(self) -> np.ndarray:
        """Return genomes of the next generation, or of an emitter."""
        while True:
            if self.left <= 0:
                self._begin_chunk()
            if self.mode == "explore":
                return super().ask()
            emitter = self._next_emitter()
            if emitter is not None:
                genomes, self._parents = emitter.ask(self.random)
                return genomes
            self._end_chunk()  # nothing is left to exploit in it

    def learn(self, told: Individuals) -> None:
        """End a generation, or a step of an emitter."""
        self.left -= len(told)
        if self.mode == "explore":
            self.explored += len(told)
            super().learn(told)
            if self.reward_archive is None and self.population is not None:
                self.reward_archive = self.population.take([])
        else:
            self._learn_from_emitter(self.descriptor.describe(told))
        if self.left <= 0:
            self._end_chunk()

    def end_generation(self, offspring: Individuals) -> None:
        """Make candidates of those with a first reward, then end the generation."""
        assert self.population is not None
        both = join([self.population, offspring])
        assert self.reward_archive is not None
        new = (both.ret > 0) & ~np.isin(both.id, self.reward_archive.id)
        for row in np.flatnonzero(new).tolist():
            self.candidates.append(self._make_candidate(both, row))
        self.reward_archive = join([self.reward_archive, both.take(new)])
        super().end_generation(offspring)

    def further_references(self) -> list[np.ndarray]:
        """Descriptors of the archive and of the reward archive."""
        rewarded = self.reward_archive
        more = [] if rewarded is None or not len(rewarded) else [rewarded.descriptor]
        return [*super().further_references(), *more]

    def end_exploration(self) -> None:
        """Called at the end of a chunk that explored; by default it does nothing."""

    def refresh(self) -> None:
        """Compute also the descriptors and the novelty of everything that emitters hold."""
        super().refresh()
        for emitter in self.all_emitters():
            emitter.ancestor = self._described(emitter.ancestor)
            emitter.most_novel = self._described(emitter.most_novel)
            emitter.novel = self._described(emitter.novel)
            if emitter.population is not None:
                emitter.population = self._described(emitter.population)

    def all_emitters(self) -> list[Emitter]:
        """Return emitters and candidates, also the ones that are being run."""
        trying = [] if self._trying is None else [self._trying]
        return [*self.candidates, *trying, *self.emitters]

    def metrics(self) -> dict[str, float]:
        """Return sizes of archives and numbers of emitters."""
        rewarded = 0 if self.reward_archive is None else len(self.reward_archive)
        return super().metrics() | {
            "search/reward_archive_size": float(rewarded),
            "search/candidates": float(len(self.candidates)),
            "search/emitters": float(len(self.emitters)),
            "search/ended_emitters": float(self.ended),
            "search/explored_share": self.explored / max(self.evaluated, 1),
        }

    def archives(self) -> dict[str, Individuals]:
        """Return both archives."""
        more = {} if self.reward_archive is None else {"reward_archive": self.reward_archive}
        return super().archives() | more

    def _make_candidate(self, both: Individuals, row: int) -> Emitter:
        """Make the emitter of one member or child; three sigmas reach its nearest neighbour."""
        others = np.delete(both.genome, row, 0)
        nearest = float(np.sqrt(((others - both.genome[row]) ** 2).sum(1)).min())
        if self.emitter_reach == "distance":
            nearest /= np.sqrt(others.shape[1])  # the expected length of a mutation is sigma √G
        seed = int(self.random.integers(2**31))
        return self._emitter(both.take([row]), nearest / 3 or self.sigma, seed)

    def _emitter(self, ancestor: Individuals, sigma: float, seed: int) -> Emitter:
        size, bound, kept = self.emitter_size, self.bound, self.keep_ancestor
        return make_emitter(self.emitter, ancestor, sigma, size, bound, seed, keep_ancestor=kept)

    def _begin_chunk(self) -> None:
        self.left = self.chunk
        can_exploit = bool(self.all_emitters())
        self.mode = self.scheduler.choose(self.random, self.evaluated, can_exploit)
        self._before = len(self.all_emitters())

    def _end_chunk(self) -> None:
        self.left = 0
        self.scheduler.update(self.mode, len(self.all_emitters()) - self._before)
        if self.mode == "explore":
            self.end_exploration()
            return
        if self._running is not None and self.local_improvement:
            self._running.restart_improvement()
        self._running = None
        if self.population is not None and self.offspring is not None:
            self.population, self.offspring = self.rate(self.population, self.offspring)

    def _next_emitter(self) -> Emitter | None:
        """Choose the emitter that acts next in a chunk that exploits; None if there is none."""
        if self._trying is None and self.candidates and self.left > self.chunk / 3:
            novelty = [self._reward_novelty(candidate) for candidate in self.candidates]
            self._trying = self.candidates.pop(int(np.argmax(novelty)))
        if self._trying is not None:
            return self._trying
        if self._running is None and self.emitters:
            self._running = self._choose_emitter()
        return self._running

    def _choose_emitter(self) -> Emitter:
        """Draw from the first front by novelty of the ancestor and improvement."""
        objectives = [[self._reward_novelty(e), e.improvement] for e in self.emitters]
        front = pareto_fronts(np.array(objectives))[0]
        emitter = self.emitters[int(front[self.random.integers(len(front))])]
        known = emitter.most_novel.id[0] == emitter.ancestor.id[0]
        emitter.ancestor = self._rated(emitter.ancestor)
        if known:
            emitter.most_novel = emitter.ancestor
        return emitter

    def _reward_novelty(self, emitter: Emitter) -> float:
        """Novelty of an emitter's ancestor among the reward archive."""
        assert self.reward_archive is not None
        row = int(np.flatnonzero(self.reward_archive.id == emitter.ancestor.id[0])[0])
        known = self.reward_archive.descriptor
        return float(novelty_of(emitter.ancestor.descriptor, known, self.num_neighbors, row)[0])

    def _learn_from_emitter(self, told: Individuals) -> None:
        emitter = self._trying or self._running
        assert emitter is not None
        assert self.reward_archive is not None
        emitter.tell(self._rated(told))
        if emitter.steps:  # a first population is only a start
            found = emitter.take_rewarded()
            self.reward_archive = join([self.reward_archive, found])
        if emitter is self._trying:
            if emitter.steps >= self.bootstrap_steps:
                if emitter.improvement > 0:
                    self.emitters.append(emitter)
                self._trying = None
            return
        emitter.keep_novel()
        if self._is_over(emitter):
            self._end_emitter(emitter)

    def _is_over(self, emitter: Emitter) -> bool:
        if self.max_emitter_steps is not None and emitter.steps >= self.max_emitter_steps:
            return True
        return emitter.is_converged() or emitter.is_stagnant(self.stagnation)

    def _end_emitter(self, emitter: Emitter) -> None:
        assert self.archive is not None
        rows = self.archive_rows(emitter.novel.novelty)
        self.archive = join([self.archive, emitter.novel.take(rows)])
        self.emitters.remove(emitter)
        self._running, self.ended = None, self.ended + 1

    def _rated(self, individuals: Individuals) -> Individuals:
        """Compute the novelty of individuals that are not among the references."""
        assert self.population is not None
        assert self.offspring is not None
        references = np.concatenate(
            [
                self.population.descriptor,
                self.offspring.descriptor,
                *self.further_references(),
            ]
        )
        novelty = novelty_of(individuals.descriptor, references, self.num_neighbors)
        return individuals.with_values(novelty=novelty)

    def _described(self, individuals: Individuals) -> Individuals:
        return self._rated(self.descriptor.describe(individuals))

    def _groups(self) -> dict[str, Individuals | None]:
        return super()._groups() | {"reward_archive": self.reward_archive}

    def state_dict(self) -> dict[str, Any]:
        """Return also the state of chunks, scheduler and emitters."""
        emitters = self.all_emitters()
        return super().state_dict() | {
            "scheduler": self.scheduler.state_dict(),
            "emitters": [emitter.state_dict() for emitter in emitters],
            "num_candidates": len(self.candidates),
            "is_trying": self._trying is not None,
            "running": None if self._running is None else self.emitters.index(self._running),
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.scheduler.load_state_dict(state["scheduler"])
        for name in _COUNTS:
            setattr(self, name, state[name])
        emitters = [self._restored(own) for own in state["emitters"]]
        tried = state["num_candidates"] + state["is_trying"]
        self.candidates = emitters[: state["num_candidates"]]
        self._trying = emitters[tried - 1] if state["is_trying"] else None
        self.emitters = emitters[tried:]
        self._running = None if state["running"] is None else self.emitters[state["running"]]

    def _restored(self, state: dict[str, Any]) -> Emitter:
        emitter = self._emitter(Individuals(**state["ancestor"]), state["sigma"], 0)
        emitter.load_state_dict(state)
        return emitter


_COUNTS = ("mode", "left", "ended", "explored", "_before")
