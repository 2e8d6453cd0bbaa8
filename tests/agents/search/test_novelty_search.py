"""Generations of novelty search, NSLC and NSGA-II equal a slow reference; archive and children."""

import numpy as np
import pytest
from toy_search import Toy, advance

from firstlight.agents.search.algorithm import RandomSearch
from firstlight.agents.search.coverage import PositionCoverage
from firstlight.agents.search.descriptors import signature
from firstlight.agents.search.novelty_search import NSGA2, NSLC, NoveltySearch

SMALL = {"population_size": 12, "num_archived": 3, "num_neighbors": 4}


def plain_generation(before, offspring, archive, neighbors):
    """Novelty and local competition of members and children: id to both, by plain loops."""
    both = [*before, *offspring]
    known = [*both, *archive]
    found = {}
    for i, one in enumerate(both):
        others = sorted(
            (float(np.linalg.norm(one["bd"] - other["bd"])), r)
            for r, other in enumerate(known)
            if r != i
        )[:neighbors]
        wins = sum(known[r]["ret"] < one["ret"] for _, r in others)
        found[one["id"]] = (np.mean([far for far, _ in others]), wins)
    return found


def rows(individuals):
    fields = zip(individuals.id, individuals.descriptor, individuals.ret, strict=True)
    return [{"id": int(i), "bd": bd, "ret": float(ret)} for i, bd, ret in fields]


@pytest.mark.parametrize("kind", [NoveltySearch, NSLC, NSGA2])
def test_generations_equal_a_slow_reference(kind):
    search = advance(kind(Toy(), seed=3, **SMALL), 12)
    for _ in range(8):
        before, archive = rows(search.population), rows(search.archive)
        advance(search, search.evaluated + 1)
        offspring = rows(search.offspring)
        assert len(offspring) == 24
        both = {one["id"]: one for one in (*before, *offspring)}
        rated = plain_generation(before, offspring, archive, 4)
        for i, novelty in zip(search.offspring.id, search.offspring.novelty, strict=True):
            assert novelty == pytest.approx(rated[i][0])
        kept = set(search.population.id.tolist())
        assert len(kept) == 12
        assert kept <= set(both)
        objectives = {
            i: {
                NoveltySearch: (rated[i][0],),
                NSLC: rated[i],
                NSGA2: (rated[i][0], both[i]["ret"]),
            }[kind]
            for i in both
        }
        for out in set(both) - kept:  # nobody who is left out dominates a survivor
            for inside in kept:
                a, b = objectives[out], objectives[inside]
                assert not (all(x >= y for x, y in zip(a, b, strict=True)) and a != b)


def test_random_children_enter_the_archive_and_none_leaves():
    search = advance(NoveltySearch(Toy(), seed=0, **SMALL), 12)
    assert len(search.archive) == 0
    ranks = []
    for generation in range(1, 30):
        before = search.archive.id.tolist()
        advance(search, search.evaluated + 1)
        after = search.archive.id.tolist()
        assert after[: len(before)] == before
        new = after[len(before) :]
        assert len(set(new)) == 3 == len(after) - 3 * (generation - 1)
        assert set(new) <= set(search.offspring.id.tolist())
        order = search.offspring.id[np.argsort(-search.offspring.novelty)].tolist()
        ranks += [order.index(i) for i in new]
    assert 8 < np.mean(ranks) < 15  # of 24: as likely any other as the most novel


def test_the_most_novel_children_enter_the_archive_if_wanted():
    search = advance(NoveltySearch(Toy(), archive_choice="novel", **SMALL), 60)
    novelty = search.offspring.novelty
    best = set(search.offspring.id[np.argsort(-novelty)[:3]].tolist())
    assert set(search.archive.id[-3:].tolist()) == best


def test_children_are_mutants_of_every_member_within_bounds():
    search = advance(NoveltySearch(Toy(), bound=0.5, sigma=0.1, **SMALL), 12)
    parents = search.population
    genomes = search.ask()
    assert len(genomes) == 24
    assert np.abs(genomes).max() == 0.5
    noise = (genomes - np.repeat(parents.genome, 2, 0))[np.abs(genomes) < 0.5]
    assert 0.05 < noise.std() < 0.15
    told = search.tell(search.evaluator.evaluate(genomes))
    assert told.parent.tolist() == np.repeat(parents.id, 2).tolist()
    assert told.id.tolist() == list(range(12, 36))


def test_mutation_rate_is_the_share_of_genes_that_change():
    search = NoveltySearch(Toy(hidden=9), mutation_rate=0.25, **SMALL)
    genomes = np.zeros((400, search.genome_size))
    assert np.mean(search.mutated(genomes, 0.1) != 0) == pytest.approx(0.25, abs=0.02)


def test_the_best_genome_has_the_highest_reward_and_of_equals_is_the_first():
    search = advance(RandomSearch(Toy(), batch_size=7), 7)
    first = search.best_genome
    flat = RandomSearch(Toy(goals=()), batch_size=7)
    told = flat.tell(flat.evaluator.evaluate(flat.ask()))
    assert np.array_equal(flat.best_genome, told.genome[0])
    advance(search, 700)
    assert search.best_return > 0.5
    assert search.evaluator.evaluate(search.best_genome[None]).ret[0] == search.best_return
    assert not np.array_equal(first, search.best_genome)


def test_novelty_search_spreads_where_random_genomes_pile_up():
    shares = []
    for search in (NoveltySearch(Toy(gain=0.25), sigma=0.5), RandomSearch(Toy(gain=0.25))):
        coverage = PositionCoverage(search.evaluator)
        while search.evaluated < 5000:
            evaluations = search.evaluator.evaluate(search.ask())
            search.tell(evaluations)
            coverage.add(evaluations)
        shares.append(coverage.share)
    assert shares[0] > 1.3 * shares[1]


def test_signatures_of_order_two_have_their_closed_forms():
    square = np.array([[[0.0, 0], [2, 0], [2, 3], [0, 3], [0, 0]]])
    found = signature(square)
    assert found.shape == (1, 6)
    assert found[0].tolist() == pytest.approx([0, 0, 0, 6, -6, 0])  # +- the enclosed area
    assert signature(square, logarithm=True)[0].tolist() == pytest.approx([0, 0, 6])
    line = np.linspace(0, 1, 7)[None, :, None] * np.array([3.0, 5.0])
    x = np.array([3.0, 5.0])
    expected = [*x, *(np.outer(x, x) / 2).ravel()]
    assert signature(line)[0].tolist() == pytest.approx(expected)
    assert signature(line, logarithm=True)[0].tolist() == pytest.approx([3, 5, 0])


def test_the_signature_of_a_joined_path_follows_chens_identity():
    path = np.random.default_rng(0).normal(size=(4, 9, 3))
    whole, first, second = signature(path), signature(path[:, :5]), signature(path[:, 4:])
    for w, a, b in zip(whole, first, second, strict=True):
        assert w[:3] == pytest.approx(a[:3] + b[:3])
        outer = np.outer(a[:3], b[:3]).ravel()
        assert w[3:] == pytest.approx(a[3:] + b[3:] + outer)


@pytest.mark.parametrize(
    ("kind", "width"),
    [
        ("position", 10),
        ("signature", 6),
        ("log_signature", 3),
        ("timed_signature", 12),
        ("timed_log_signature", 6),
    ],
)
def test_descriptors_have_their_published_sizes(kind, width):
    search = advance(NoveltySearch(Toy(), descriptor=kind, samples=5, **SMALL), 40)
    assert search.population.descriptor.shape == (12, width)
    assert np.isfinite(search.population.novelty).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": 0}, "population_size is 0"),
        ({"num_archived": 999}, "num_archived is 999"),
        ({"archive_choice": "best"}, "archive_choice is 'best'"),
        ({"descriptor": "signature"}, "give 2 samples"),
        ({"descriptor": "place"}, "descriptor is 'place'"),
        ({"bound": 0.0}, "bound is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NoveltySearch(Toy(), **options)
