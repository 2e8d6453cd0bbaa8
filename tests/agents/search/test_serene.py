"""SERENE: chunks, emitters and both archives, and what its published code slips on."""

import numpy as np
import pytest
from toy_search import Toy, advance

from firstlight.agents.search.emitters import ElitistEmitter, make_emitter
from firstlight.agents.search.evaluators.base import Evaluations
from firstlight.agents.search.individuals import Individuals
from firstlight.agents.search.schedulers import ChunkScheduler
from firstlight.agents.search.serene import Serene

SMALL = {
    "population_size": 20,
    "num_archived": 3,
    "num_neighbors": 4,
    "chunk": 150,
    "bootstrap_steps": 3,
}


def individuals(rewards, first_id=0, genes=3):
    rewards = np.array(rewards, np.float64)
    count = len(rewards)
    place = np.zeros((count, 1, 2))
    zeros = np.zeros(count, np.int64)
    found = Evaluations(np.zeros((count, genes)), place, place, rewards, zeros, zeros, zeros)
    made = Individuals.of(found, first_id, np.full(count, -1))
    return made.with_values(descriptor=place[:, 0], novelty=rewards.copy())


def emitter_of(size=4, genes=3, **options):
    ancestor = individuals([0.1], genes=genes)
    return ElitistEmitter(ancestor, 0.1, size, 5.0, by_novelty=False, keep_ancestor=False)


def batches(search, evaluations):
    """Advance a search; yield (mode, batch size, emitters before) of each batch."""
    while search.evaluated < evaluations:
        genomes = search.ask()
        yield search.mode, len(genomes)
        search.tell(search.evaluator.evaluate(genomes, search.samples))


def test_chunks_alternate_and_a_batch_is_never_cut():
    search = Serene(Toy(), seed=1, **SMALL)
    chunks = []
    for mode, size in batches(search, 3000):
        if search.left == search.chunk:
            chunks.append([mode, 0])
        chunks[-1][1] += size
    modes = [mode for mode, _ in chunks]
    assert modes[0] == "explore"
    first = modes.index("exploit")
    assert set(modes[:first]) == {"explore"}
    assert modes[first:] == (["exploit", "explore"] * len(modes))[: len(modes) - first]
    for mode, spent in chunks[:-1]:
        if mode == "explore":
            assert 150 <= spent < 150 + 40
        else:
            assert spent < 150 + 12


def test_every_first_reward_makes_a_candidate_and_enters_the_reward_archive():
    search = Serene(Toy(), seed=1, **SMALL)
    seen = set()
    for mode, _ in batches(search, 2000):
        if mode == "exploit" or search.population is None:
            continue
        ids = {emitter.ancestor.id[0] for emitter in search.all_emitters()}
        assert ids <= set(search.reward_archive.id.tolist())
        both = [search.population, search.offspring]
        for group in both:
            rewarded = set(group.id[group.ret > 0].tolist())
            seen |= rewarded
    assert len(seen) > 10
    archived = search.reward_archive.id.tolist()
    assert len(archived) == len(set(archived))  # an ancestor is not stored twice
    assert (search.reward_archive.ret > 0).all()


def test_ids_are_unique_also_of_what_emitters_make():
    """Published emitters number their offspring from zero."""
    search = Serene(Toy(), seed=1, **SMALL)
    told = []
    while search.evaluated < 1500:
        told += search.tell(search.evaluator.evaluate(search.ask())).id.tolist()
    assert told == list(range(search.evaluated))
    assert search.ended + len(search.emitters) > 0


@pytest.mark.parametrize(("reach", "by"), [("gene", 1), ("distance", 2)])
def test_three_sigmas_reach_the_nearest_other_genome(reach, by):
    search = advance(Serene(Toy(), emitter_reach=reach, **SMALL), 100)
    both = search.population
    emitter = search._make_candidate(both, 3)
    others = np.delete(both.genome, 3, 0)
    nearest = min(np.linalg.norm(other - both.genome[3]) for other in others)
    assert both.genome.shape[1] == 4
    assert emitter.sigma == pytest.approx(nearest / 3 / by)
    twins = both.take([3, 3, 5])
    assert search._make_candidate(twins, 0).sigma == search.sigma


def test_mutations_of_many_genes_are_as_long_as_a_third_of_the_nearest_distance():
    genomes = np.zeros((2, 400))
    genomes[1, 0] = 1.0  # so far from the first
    group = individuals([0.1, 0.2], genes=400)
    group.genome[:] = genomes
    for reach, length in (("distance", 1 / 3), ("gene", 20 / 3)):
        emitter = Serene(Toy(), emitter_reach=reach, **SMALL)._make_candidate(group, 0)
        children = emitter.ask(np.random.default_rng(0))[0]
        assert np.linalg.norm(children, axis=1).mean() == pytest.approx(length, rel=0.05)


@pytest.mark.parametrize("kept", [True, False])
def test_the_ancestor_is_kept_until_it_is_surpassed_and_is_never_stored_again(kept):
    options = {"by_novelty": False, "keep_ancestor": kept}
    emitter = ElitistEmitter(individuals([0.5]), 0.1, 2, 5.0, **options)
    emitter.tell(individuals([0.0, 0.2], first_id=10))
    assert emitter.population.id.tolist() == ([0, 11] if kept else [11, 10])
    emitter.tell(individuals([0.1, 0.3, 0.0, 0.0], first_id=20))
    assert emitter.population.id.tolist() == ([0, 21] if kept else [21, 11])
    assert emitter.take_rewarded().id.tolist() == ([] if kept else [21])
    emitter.population.novelty[:] = 9.0  # also the ancestor's, computed anew
    emitter.keep_novel()
    assert 0 not in emitter.novel.id
    emitter.tell(individuals([0.6, 0.7, 0.0, 0.0], first_id=30))
    assert emitter.take_rewarded().id.tolist() == [31, 30]


def test_candidates_that_improve_are_promoted_and_others_dropped():
    for goals, promoted in (([(0.0, 0.0, 0.9)], True), ([], False)):
        toy = Toy(goals=goals)
        search = advance(Serene(toy, seed=2, **SMALL), 20)
        ancestor = search.population.take([0])
        search.reward_archive = ancestor
        search.candidates.append(search._make_candidate(search.population, 0))
        if not goals:  # a reward that no neighbour has
            search.candidates[0].ancestor = ancestor.with_values(ret=np.ones(1))
        search.mode, search.left = "exploit", 150
        spent = 0
        while search.candidates or search._trying is not None:
            spent += len(genomes := search.ask())
            search.tell(toy.evaluate(genomes))
        assert spent == 6 + 3 * 12
        assert (len(search.emitters) == 1) is promoted


def test_candidates_are_tried_only_while_more_than_a_third_of_the_chunk_is_left():
    search = advance(Serene(Toy(goals=[]), seed=2, **SMALL), 20)
    search.reward_archive = search.population
    search.candidates = [search._make_candidate(search.population, i) for i in range(9)]
    search.mode = search.scheduler.last = "exploit"
    search.left, tried = 150, 0
    for mode, size in batches(search, 400):
        if mode == "explore":
            break
        tried += size
    assert tried == 3 * 42  # 150, 108 and 66 are more than 50, 24 is not
    assert len(search.candidates) == 6


def test_the_candidate_whose_ancestor_is_most_novel_is_tried_first():
    search = advance(Serene(Toy(), seed=2, **SMALL), 20)
    search.reward_archive = search.population
    search.candidates = [search._make_candidate(search.population, i) for i in range(5)]
    novelty = [search._reward_novelty(candidate) for candidate in search.candidates]
    wanted = search.candidates[int(np.argmax(novelty))]
    search.mode, search.left = "exploit", 150
    search.ask()
    assert search._trying is wanted


def test_an_emitter_of_the_first_front_is_chosen_at_random():
    search = advance(Serene(Toy(), seed=2, **SMALL), 20)
    search.reward_archive = search.population
    emitters = [search._make_candidate(search.population, i) for i in range(6)]
    for k, emitter in enumerate(emitters):
        emitter.values = [np.zeros(6)] * 3 + [np.full(6, k / 10)] * 3
    search.emitters = emitters
    pairs = [(search._reward_novelty(e), e.improvement) for e in emitters]
    best = {
        i
        for i, a in enumerate(pairs)
        if not any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in pairs)
    }
    chosen = {search.emitters.index(search._choose_emitter()) for _ in range(80)}
    assert chosen == best


def test_elitist_emitters_keep_the_best_of_parents_and_children():
    emitter = emitter_of(size=4)
    random = np.random.default_rng(0)
    genomes, parents = emitter.ask(random)
    assert (len(genomes), parents.tolist()) == (4, [0] * 4)
    emitter.tell(individuals([0.3, 0.1, 0.0, 0.2], 10))
    genomes, parents = emitter.ask(random)
    assert parents.tolist() == [10, 10, 13, 13, 11, 11, 12, 12]
    emitter.tell(individuals([0.2, 0.9, 0, 0, 0, 0, 0, 0.1], 20))
    assert emitter.population.ret.tolist() == [0.9, 0.3, 0.2, 0.2]
    assert emitter.population.id.tolist() == [21, 10, 20, 13]  # of equals the newer first
    assert [list(v) for v in emitter.values] == [[0.3, 0.2, 0.1, 0.0], [0.9, 0.3, 0.2, 0.2]]
    assert emitter.steps == 1


def test_rewarded_members_enter_the_archive_first_the_best_then_all_that_are_better():
    emitter = emitter_of()
    emitter.tell(individuals([0.0, 0.0, 0.0, 0.0]))
    assert len(emitter.take_rewarded()) == 0
    emitter.tell(individuals([0.4, 0.5, 0.1, 0.0], 4))
    assert emitter.take_rewarded().id.tolist() == [5]
    assert len(emitter.take_rewarded()) == 0
    emitter.tell(individuals([0.6, 0.5, 0.7, 0.0], 20))
    assert set(emitter.take_rewarded().id.tolist()) == {20, 22}
    assert emitter.archived == 0.7


def test_finds_more_novel_than_all_before_are_kept():
    emitter = emitter_of()
    emitter.tell(individuals([0.05, 0.2, 0.3, 0.0]))  # novelty is the reward here
    emitter.keep_novel()
    emitter.keep_novel()
    assert sorted(emitter.novel.ret.tolist()) == [0.2, 0.3]
    assert emitter.most_novel.ret.tolist() == [0.3]


def test_improvement_is_always_that_of_the_last_three_lists():
    """Published code refreshes it only when a chunk cuts an emitter off."""
    emitter = emitter_of(size=1)
    for k, value in enumerate([0.0, 0.1, 0.2, 0.5, 0.6, 0.7]):
        emitter.tell(individuals([value], k))
    assert emitter.improvement == pytest.approx(0.6 - 0.1)
    emitter.tell(individuals([0.9], 9))
    assert emitter.improvement == pytest.approx((0.6 + 0.7 + 0.9) / 3 - 0.1)
    emitter.restart_improvement()
    assert emitter.improvement == 0
    emitter.values += [np.zeros(1)] * 3
    assert emitter.improvement == 0  # never negative


def stagnant(values, rule, genes=6, size=4):
    emitter = emitter_of(size=size, genes=genes)
    emitter.values = [np.full(size, float(value)) for value in values]
    emitter.steps = len(values) - 1
    return emitter.is_stagnant(rule)


def test_stagnation_compares_both_ends_of_a_window():
    window = 20 * 6 // 4 + 120
    assert not stagnant([0] * (window + 1), "custom")  # not enough steps
    assert stagnant([0] * (window + 2), "custom")
    assert not stagnant(range(window + 2), "custom")
    grown = [*range(99), *[99] * window]
    assert stagnant(grown, "custom")
    assert not stagnant([0, *[1] * (window - 20), *[2] * 21], "custom")
    window = 30 * 6 // 4 + 120
    assert not stagnant([0] * (window + 1), "original")
    assert stagnant([0] * (window + 2), "original")
    assert not stagnant(range(window + 2), "original")
    assert stagnant([0] * 2000, "original")


def test_an_emitter_ends_and_some_of_its_novel_finds_enter_the_archive():
    search = Serene(Toy(), seed=1, max_emitter_steps=4, **SMALL)
    ended, archived = 0, 0
    while search.ended < 6:
        before, size = search.ended, None if search.archive is None else len(search.archive)
        running = search._running
        genomes = search.ask()
        mode = search.mode
        search.tell(search.evaluator.evaluate(genomes))
        if mode == "exploit":
            assert len(search.archive) - size <= 3
            if search.ended > before:
                ended += 1
                archived += len(search.archive) - size
                assert running is None or running.steps <= 4
    assert ended == 6
    assert archived > 0


def test_three_lists_before_and_three_after_need_three_steps():
    with pytest.raises(ValueError, match="bootstrap_steps is 2"):
        Serene(Toy(), bootstrap_steps=2)


@pytest.mark.parametrize("kind", ["novelty", "cma_es"])
def test_other_kinds_of_emitters_run(kind):
    if kind == "cma_es":
        pytest.importorskip("cmaes")
    search = advance(Serene(Toy(), seed=1, emitter=kind, emitter_reach="gene", **SMALL), 4000)
    assert search.ended + len(search.emitters) > 0
    assert search.reward_archive.ret.max() > 0.8


def test_cma_emitters_climb_and_resume():
    pytest.importorskip("cmaes")
    toy = Toy(goals=[(0.0, 0.0, 2.0)])
    start = toy.evaluate(np.full((1, toy.policy.genome_size), 0.8))
    ancestor = Individuals.of(start, 0, np.array([-1])).with_values(descriptor=np.zeros((1, 2)))

    def step(emitter, count):
        for k in range(count):
            genomes, parents = emitter.ask(np.random.default_rng(0))
            told = Individuals.of(toy.evaluate(genomes), 10 * k, parents)
            emitter.tell(told.with_values(descriptor=told.position[:, 0]))
        return emitter

    emitter = step(make_emitter("cma_es", ancestor, 0.1, 6, 5.0, 7), 30)
    assert emitter.population.ret.mean() > 0.9
    other = make_emitter("cma_es", ancestor, 0.1, 6, 5.0, 1)
    other.load_state_dict(emitter.state_dict())
    pair = [step(e, 3).population.genome for e in (emitter, other)]
    assert np.array_equal(*pair)
    assert not emitter.is_converged()


def choices(kind, count, evaluated=0, random=0, **options):
    scheduler = ChunkScheduler(kind, budget=1000, **options)
    generator = np.random.default_rng(random)
    scheduler.choose(generator, 0, True)
    return [scheduler.choose(generator, evaluated, True) for _ in range(count)]


def test_schedulers_explore_first_and_while_there_is_nothing_to_exploit():
    for kind in ("alternating", "fixed", "time", "ucb"):
        scheduler = ChunkScheduler(kind, budget=1)
        random = np.random.default_rng(0)
        assert scheduler.choose(random, 0, True) == "explore"
        assert scheduler.choose(random, 10, False) == "explore"


def test_fixed_and_time_schedulers_have_their_probabilities():
    assert choices("alternating", 3) == ["exploit", "explore", "exploit"]
    assert choices("fixed", 2000).count("explore") == pytest.approx(1000, abs=90)
    assert choices("time", 2000, evaluated=750).count("explore") == pytest.approx(500, abs=80)
    assert set(choices("time", 50, evaluated=1000)) == {"exploit"}


def test_the_bandit_prefers_the_arm_with_rewards_and_tries_both():
    """Exploring is rewarded for fewer new emitters, exploiting for more (STAX)."""
    scheduler = ChunkScheduler("ucb", budget=1)
    random = np.random.default_rng(0)
    chosen = []
    for _ in range(60):
        mode = scheduler.choose(random, 0, True)
        chosen.append(mode)
        scheduler.update(mode, 2 if mode == "explore" else -2)
        if len(chosen) == 2:
            assert chosen == ["explore", "exploit"]
            assert scheduler.value.tolist() == pytest.approx([np.tanh(-2)] * 2)
    assert 25 <= chosen.count("explore") <= 35
    scheduler = ChunkScheduler("ucb", budget=1)
    chosen = []
    for _ in range(60):
        mode = scheduler.choose(random, 0, True)
        chosen.append(mode)
        scheduler.update(mode, 3 if mode == "exploit" else 0)
    assert chosen.count("exploit") > 40
