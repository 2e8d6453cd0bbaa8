"""MAP-Elites and CMA-ME: elites are the best of their cells, restarts, and what acts next."""

import numpy as np
import pytest
from toy_search import Toy, advance, use_plain_ribs

from firstlight.agents.search.coverage import PositionCoverage
from firstlight.agents.search.elites import CmaMe, MapElites

pytest.importorskip("ribs")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    use_plain_ribs(monkeypatch)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(MapElites, {"batch_size": 30, "population_size": 20}), (CmaMe, {"num_emitters": 3})],
)
def test_the_grid_holds_the_best_of_each_cell(kind, options):
    search = kind(Toy(), seed=1, **options)
    coverage, best = PositionCoverage(search.evaluator), {}
    while search.evaluated < 900:
        evaluations = search.evaluator.evaluate(search.ask())
        search.tell(evaluations)
        coverage.add(evaluations)
        cells = map(tuple, coverage.cells_of(evaluations.position[:, -1]).tolist())
        for cell, ret in zip(cells, evaluations.ret.tolist(), strict=True):
            best[cell] = max(best.get(cell, 0.0), ret)
    elites = search.grid.data(["measures", "objective"])
    cells = [tuple(c) for c in coverage.cells_of(elites["measures"]).tolist()]
    found = dict(zip(cells, elites["objective"].tolist(), strict=True))
    assert found.keys() == best.keys()
    for cell, ret in best.items():
        assert found[cell] == pytest.approx(ret)
    assert search.metrics()["search/archive_size"] == len(best)
    assert np.abs(elites["measures"]).max() <= 1


def test_the_emitter_with_the_fewest_stored_solutions_acts_next():
    search = CmaMe(Toy(), seed=0, num_emitters=4)
    for _ in range(40):
        fewest = int(search.stored.argmin())
        genomes = search.ask()
        assert search._active == fewest
        restarts = search.emitters[fewest].restarts
        search.tell(search.evaluator.evaluate(genomes))
        if search.emitters[fewest].restarts > restarts:
            assert search.stored[fewest] == 0
    assert search.metrics()["search/restarts"] == sum(e.restarts for e in search.emitters)


def test_a_batch_that_changes_nothing_restarts_its_emitter():
    search = advance(CmaMe(Toy(goals=[]), seed=0, num_emitters=1), 12)
    restarts = search.emitters[0].restarts
    search.ask()
    search.emitters[0].ask()
    genomes = np.repeat(search.grid.data("solution")[:1], search.emitters[0].batch_size, 0)
    search.tell(search.evaluator.evaluate(genomes))
    assert search.emitters[0].restarts == restarts + 1
