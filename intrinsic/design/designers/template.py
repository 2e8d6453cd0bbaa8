"""`Template`, a designer without a language model: random and evolved lists of components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from firstlight.intrinsic.design.designers.base import (
    TRAINED,
    Designer,
    DesignTask,
    ProgramResult,
    Proposal,
    SearchState,
    check_at_least,
)
from firstlight.intrinsic.design.designers.grammar import ProgramComponent, tidy, write_program
from firstlight.intrinsic.design.designers.vocabulary import vocabulary

WEIGHTS = (0.03, 0.1, 0.3, 1.0)
TIMES = (1, 3, 10)
_START = (1, 5)  # components of a random program, at least and at most
_EACH = 0.5  # probability that an event is paid for each colour
_GATED = 0.3  # probability that a component of a random program waits for an event
_TRIES = 100  # to draw a program that is new


class Template(Designer):
    """Combines components of a small grammar, and evolves the best combinations.

    The first round is random, but for two programs: one pays every event once in an episode, the
    other pays discoveries, such as cells in which the agent is for the first time. Later rounds are
    mutations of elites, crossovers of two, and some random programs; elites are the programs whose
    training had the highest task return. All randomness follows from the seed and the number of the
    round.

    Args:
        samples: programs of a round.
        rounds: number of rounds.
        num_elites: programs that are mutated and crossed.
        random_share: share of random programs in later rounds.
        seed: of the draws.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(
        self,
        *,
        samples: int = 8,
        rounds: int = 4,
        num_elites: int = 3,
        random_share: float = 0.25,
        seed: int = 0,
    ):
        check_at_least(1, samples=samples, rounds=rounds, num_elites=num_elites)
        self.samples, self.rounds, self.num_elites = samples, rounds, num_elites
        self.random_share, self.seed = random_share, seed
        self.proposed = 0  # rounds
        self.genomes: dict[str, list[ProgramComponent]] = {}  # by hash of the program
        self.ranks: dict[str, tuple[float, float]] = {}  # of those that were trained

    def propose(self, state: SearchState) -> list[Proposal]:
        """Draw the programs of a round; none after `rounds`."""
        if self.proposed >= self.rounds:
            return []
        generator = np.random.default_rng([self.seed, self.proposed])
        self.proposed += 1
        words, elites = vocabulary(state.task), self.elites()
        found: list[Proposal] = []
        openings = opening_genomes(words) if self.proposed == 1 else {}
        for _ in range(_TRIES * self.samples):
            if len(found) == self.samples:
                break
            if openings:
                how, parent = next(iter(openings)), None
                genome = openings.pop(how)
            else:
                how, parent, genome = self._draw(generator, words, elites)
            proposal = Proposal(write_program(genome), how, parent)
            if proposal.hash not in self.genomes:
                self.genomes[proposal.hash] = genome
                found.append(proposal)
        return found

    def observe(self, results: Sequence[ProgramResult]) -> None:
        """Record the ranks of programs that were trained."""
        for result in results:
            if result.verdict == TRAINED:
                self.ranks[result.proposal.hash] = result.rank

    def check_task(self, task: DesignTask) -> None:
        """Raise ValueError for a task whose fields allow no component."""
        vocabulary(task)

    def elites(self) -> list[str]:
        """Hashes of the best programs so far, the best first; none while all are equally good."""
        order = sorted(self.ranks, key=lambda name: self.ranks[name], reverse=True)
        worst = min(self.ranks.values(), default=None)
        return [name for name in order[: self.num_elites] if self.ranks[name] != worst]

    def state_dict(self) -> dict[str, Any]:
        """Return all programs so far, and the ranks of those that were trained."""
        genomes = {
            name: [component.to_json() for component in genome]
            for name, genome in self.genomes.items()
        }
        ranks = {name: [*rank] for name, rank in self.ranks.items()}
        return {"proposed": self.proposed, "genomes": genomes, "ranks": ranks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.proposed = int(state["proposed"])
        self.genomes = {
            name: [ProgramComponent.from_json(component) for component in genome]
            for name, genome in state["genomes"].items()
        }
        self.ranks = {name: (rank[0], rank[1]) for name, rank in state["ranks"].items()}

    def _draw(
        self,
        generator: np.random.Generator,
        words: Sequence[ProgramComponent],
        elites: Sequence[str],
    ) -> tuple[str, str | None, list[ProgramComponent]]:
        """Draw how a program is made, its parent, and its components."""
        if not elites or generator.random() < self.random_share:
            return "random", None, random_genome(generator, words)
        parent = elites[int(generator.integers(len(elites)))]
        if len(elites) > 1 and generator.random() < 1 / 3:
            other = elites[int(generator.integers(len(elites)))]
            return "crossover", parent, cross(generator, self.genomes[parent], self.genomes[other])
        return "mutation", parent, mutate(generator, self.genomes[parent], words)


def opening_genomes(words: Sequence[ProgramComponent]) -> dict[str, list[ProgramComponent]]:
    """Return the genomes of the first round that are not random, by how they are made.

    One rewards each event once, one each discovery, as many of them as a program may have.
    """
    made = {
        "every event": [word for word in words if word.is_event],
        "discoveries": [replace(word, weight=0.3) for word in words if word.is_discovery],
    }
    return {how: tidy(genome) for how, genome in made.items() if genome}


def random_genome(
    generator: np.random.Generator, words: Sequence[ProgramComponent]
) -> list[ProgramComponent]:
    """Draw a few different components, with weights, numbers of payments and conditions."""
    number = int(generator.integers(_START[0], _START[1] + 1))
    order = generator.permutation(len(words))[:number]
    genome: list[ProgramComponent] = []
    for i in order:
        genome.append(_varied(generator, words[i], genome))
    return tidy(genome)


def mutate(
    generator: np.random.Generator,
    genome: Sequence[ProgramComponent],
    words: Sequence[ProgramComponent],
) -> list[ProgramComponent]:
    """Add, remove, replace or vary one component; in a third of cases a second one as well."""
    changed = [*genome]
    for _ in range(1 + (generator.random() < 1 / 3)):
        place = int(generator.integers(len(changed)))
        kind = generator.choice(["add", "remove", "replace", "vary"])
        fresh = words[int(generator.integers(len(words)))]
        if kind == "add":
            changed.insert(place + 1, _varied(generator, fresh, changed[: place + 1]))
        elif kind == "remove" and len(changed) > 1:
            del changed[place]
        elif kind == "replace":
            changed[place] = _varied(generator, fresh, changed[:place])
        else:
            changed[place] = _varied(generator, changed[place], changed[:place])
        changed = tidy(changed)
    return changed


def cross(
    generator: np.random.Generator,
    first: Sequence[ProgramComponent],
    second: Sequence[ProgramComponent],
) -> list[ProgramComponent]:
    """Take each component of two programs with probability 1/2; at least one."""
    both = [*first, *second]
    taken = [component for component in both if generator.random() < 0.5]
    return tidy(taken or [both[int(generator.integers(len(both)))]])


def _varied(
    generator: np.random.Generator, component: ProgramComponent, before: Sequence[ProgramComponent]
) -> ProgramComponent:
    """Draw weight, number of payments, for each colour or not, and condition of a component."""
    events = [other.name for other in before if other.is_event]
    gated = bool(events) and generator.random() < _GATED
    return replace(
        component,
        weight=float(generator.choice(WEIGHTS)),
        times=int(generator.choice(TIMES)) if component.is_event else 1,
        each=bool(component.colour) and generator.random() < _EACH,
        after=events[int(generator.integers(len(events)))] if gated else "",
    )
