"""TAXONS and STAX: novelty search, and SERENE, in a space that is learned from pictures."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import numpy as np

from firstlight.agents.search.autoencoder import PictureDescriptor
from firstlight.agents.search.emitters import EmitterKind, EmitterReach, StagnationRule
from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.individuals import Individuals, join
from firstlight.agents.search.novelty_search import ArchiveChoice, Criterion, NoveltySearch
from firstlight.agents.search.schedulers import SchedulerKind
from firstlight.agents.search.selection import select_by_fronts
from firstlight.agents.search.serene import Serene

Selection = Literal["either", "novelty", "surprise", "pareto"]


class LearnsFromPictures(NoveltySearch):
    """What TAXONS and STAX share: a `PictureDescriptor`, its training, and surprise.

    The autoencoder is trained at the end of a chunk that explores: after the first, then after two
    more, then after three more. It learns from archive, population, children and, if there is one,
    reward archive. Then every stored descriptor is computed again.

    A subclass calls `set_up`, and `end_exploration` at the end of such a chunk.
    """

    needs_pictures: ClassVar[bool] = True
    descriptor: PictureDescriptor

    def set_up(self, selection: Selection, trained: bool, descriptor: PictureDescriptor) -> None:
        """Set the descriptor and what survivors are chosen by.

        Raises:
            ValueError: for a selection that does not exist, or by surprise without training.
        """
        if selection not in get_args(Selection):
            choices = ", ".join(get_args(Selection))
            raise ValueError(f"selection is {selection!r}, expected one of {choices}")
        if not trained and selection != "novelty":
            raise ValueError(
                f"selection is {selection!r} and trained is False: the error of an encoder that "
                "does not learn is no surprise, so give selection=novelty"
            )
        self.selection, self.trained, self.descriptor = selection, trained, descriptor
        self.interval, self.waited = 1, 0  # chunks between trainings, and since the last
        self.training: dict[str, float] = {}  # scalars of the last training

    def choose_criterion(self) -> Criterion:
        """Toss a coin between novelty and surprise, or return the selected criterion."""
        if self.selection == "either":
            return "novelty" if self.random.random() < 0.5 else "surprise"
        return "surprise" if self.selection == "surprise" else "novelty"

    def survivors(self, both: Individuals, criterion: Criterion) -> np.ndarray:
        """Choose by the criterion of the generation, or by fronts of novelty and surprise."""
        if self.selection == "pareto":
            objectives = np.stack([both.novelty, both.surprise], 1)
            return select_by_fronts(objectives, self.population_size)
        return super().survivors(both, criterion)

    def end_exploration(self) -> None:
        """Train the autoencoder if it is due, and compute every stored descriptor again."""
        if not self.trained:
            return
        self.waited += 1
        if self.waited < self.interval:
            return
        self.waited, self.interval = 0, self.interval + 1
        groups = [group for group in self._groups().values() if group is not None]
        self.training = self.descriptor.train(join(groups))
        self.refresh()

    def metrics(self) -> dict[str, float]:
        """Return also scalars of the last training."""
        return super().metrics() | self.training

    def state_dict(self) -> dict[str, Any]:
        """Return also when the next training is due."""
        own = {"interval": self.interval, "waited": self.waited, "training": self.training}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.interval, self.waited = state["interval"], state["waited"]
        self.training = state["training"]


class Taxons(LearnsFromPictures):
    """TAXONS (Paolo et al. 2019, arXiv 1909.05508), with the constants of STAX's code.

    Novelty search whose descriptor is the code of an autoencoder, and which chooses survivors by
    novelty or by surprise: how badly the autoencoder draws the picture of an episode's end.

    Args:
        evaluator, seed, population_size, num_children, sigma, mutation_rate, bound, num_neighbors,
            num_archived, archive_choice, samples: see `NoveltySearch`. Several `samples` describe
            an episode by several pictures.
        selection: survivors are chosen by "either", a coin in each generation; "novelty" alone
            (TAXO-N); "surprise" alone (TAXO-S); or "pareto", fronts of both (TAXONS-P).
        trained: train the autoencoder. False is the variant NT: random weights, novelty alone.
        chunk: evaluations after which a training may be due.
        latent, learning_rate, batch_size, max_epochs, max_pictures, restart, last_only: see
            `PictureDescriptor`.
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
        samples: int = 1,
        selection: Selection = "either",
        trained: bool = True,
        chunk: int = 1000,
        latent: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        max_epochs: int = 100,
        max_pictures: int | None = None,
        restart: bool = False,
        last_only: bool = False,
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
            samples=samples,
        )
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}, expected at least 1")
        self.chunk = self.left = chunk
        pictures = PictureDescriptor(
            evaluator,
            seed,
            latent=latent,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            max_pictures=max_pictures,
            restart=restart,
            last_only=last_only,
        )
        self.set_up(selection, trained, pictures)

    def learn(self, told: Individuals) -> None:
        """End a generation, and a chunk if it is over."""
        super().learn(told)
        self.left -= len(told)
        if self.left <= 0:
            self.left = self.chunk
            self.end_exploration()

    def state_dict(self) -> dict[str, Any]:
        """Return also what is left of the chunk."""
        return super().state_dict() | {"left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.left = state["left"]


class Stax(LearnsFromPictures, Serene):
    """STAX (Paolo et al. 2024, arXiv 2111.01919): SERENE with the descriptor of TAXONS.

    Args:
        evaluator, seed, population_size, num_children, sigma, mutation_rate, bound, num_neighbors,
            num_archived, archive_choice, samples, chunk, emitter, emitter_size, emitter_reach,
            keep_ancestor, bootstrap_steps, scheduler, budget, stagnation, max_emitter_steps,
            local_improvement: see `Serene`.
        selection, trained, latent, learning_rate, batch_size, max_epochs, max_pictures, restart,
            last_only: see `Taxons`. "pareto" is STAX-P, `trained` False with "novelty" is STAX-NT.
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
        selection: Selection = "either",
        trained: bool = True,
        latent: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        max_epochs: int = 100,
        max_pictures: int | None = None,
        restart: bool = False,
        last_only: bool = False,
    ):
        Serene.__init__(
            self,
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
            samples=samples,
            chunk=chunk,
            emitter=emitter,
            emitter_size=emitter_size,
            emitter_reach=emitter_reach,
            keep_ancestor=keep_ancestor,
            bootstrap_steps=bootstrap_steps,
            scheduler=scheduler,
            budget=budget,
            stagnation=stagnation,
            max_emitter_steps=max_emitter_steps,
            local_improvement=local_improvement,
        )
        pictures = PictureDescriptor(
            evaluator,
            seed,
            latent=latent,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            max_pictures=max_pictures,
            restart=restart,
            last_only=last_only,
        )
        self.set_up(selection, trained, pictures)
