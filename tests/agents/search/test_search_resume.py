"""Every search goes on bit for bit from a state that went through a checkpoint."""

import functools
import random

import numpy as np
import pytest
from toy_search import TinyAutoencoder, Toy, use_plain_ribs

from firstlight.agents.search import autoencoder
from firstlight.agents.search.algorithm import RandomSearch
from firstlight.agents.search.elites import CmaMe, MapElites
from firstlight.agents.search.novelty_search import NSGA2, NSLC, NoveltySearch
from firstlight.agents.search.serene import Serene
from firstlight.agents.search.taxons import Stax, Taxons
from firstlight.agents.session.run_directory import checkpoint

SMALL = {"population_size": 10, "num_archived": 2, "num_neighbors": 3}
CHUNKS = {**SMALL, "chunk": 60, "bootstrap_steps": 3}
LEARNS = {"max_epochs": 1, "latent": 2}
SEARCHES = {
    "random": functools.partial(RandomSearch, batch_size=9),
    "ns": functools.partial(NoveltySearch, **SMALL),
    "ns signature": functools.partial(NoveltySearch, descriptor="signature", samples=3, **SMALL),
    "nslc": functools.partial(NSLC, **SMALL),
    "nsga2": functools.partial(NSGA2, **SMALL),
    "serene": functools.partial(Serene, max_emitter_steps=9, **CHUNKS),
    "serene novelty": functools.partial(Serene, emitter="novelty", scheduler="ucb", **CHUNKS),
    "serene cma_es": functools.partial(Serene, emitter="cma_es", scheduler="fixed", **CHUNKS),
    "taxons": functools.partial(Taxons, chunk=40, **SMALL, **LEARNS),
    "stax": functools.partial(Stax, scheduler="time", budget=600, **CHUNKS, **LEARNS),
    "map_elites": functools.partial(MapElites, population_size=9, batch_size=20),
    "cma_me": functools.partial(CmaMe, num_emitters=3),
}
NEEDS = {"map_elites": "ribs", "cma_me": "ribs", "serene cma_es": "cmaes"}


@pytest.fixture(autouse=True)
def quick(name, monkeypatch):
    """Skip what is not installed, and leave out what takes seconds to learn or to compile."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if NEEDS.get(name) == "ribs":
        use_plain_ribs(monkeypatch)
    monkeypatch.setattr(autoencoder, "Autoencoder", TinyAutoencoder)


def make(name):
    return SEARCHES[name](Toy(hidden=2), seed=5)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_goes_on_as_if_it_had_not_been_stopped(name, tmp_path, soak):
    batches = 40 if name not in ("taxons", "stax") else 24
    search, asked = make(name), []
    for _ in range(batches):
        asked.append(search.ask())
        search.tell(search.evaluator.evaluate(asked[-1], search.samples))
    dice = random.Random(name)
    for _ in soak.times(2, 20):
        search = make(name)
        stop = dice.randrange(1, batches)
        for step in range(batches):
            if step == stop:
                path = checkpoint.save(tmp_path, {"search": search.state_dict()}, stop)
                search = make(name)
                search.load_state_dict(checkpoint.load(path)["search"])
            genomes = search.ask()
            assert np.array_equal(genomes, asked[step]), f"batch {step} after a stop at {stop}"
            search.tell(search.evaluator.evaluate(genomes, search.samples))


@pytest.mark.parametrize("name", ["ns", "serene cma_es", "cma_me"])
def test_the_seed_alone_decides_a_search_and_global_generators_do_not(name):
    """Published code draws from numpy's global generator."""
    runs = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        search = make(name)
        for _ in range(12):
            search.tell(search.evaluator.evaluate(search.ask()))
        runs.append(search.ask())
    assert np.array_equal(*runs)
