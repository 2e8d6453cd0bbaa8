"""The template designer writes programs that work, and its search gets better."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from designs import made_up, passes, record

from firstlight.envs.minigrid import make
from firstlight.envs.worlds.curling import Curling
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.intrinsic.design.design_search import DesignSearch
from firstlight.intrinsic.design.designers.base import SearchState
from firstlight.intrinsic.design.designers.grammar import (
    MOST_COMPONENTS,
    ProgramComponent,
    tidy,
    write_program,
)
from firstlight.intrinsic.design.designers.template import (
    Template,
    cross,
    mutate,
    random_genome,
)
from firstlight.intrinsic.design.designers.vocabulary import vocabulary
from firstlight.intrinsic.design.execution import InProcess
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.design.recording import program_fields
from firstlight.intrinsic.design.sandbox_worker import MEMORY_ENTRIES, define
from firstlight.intrinsic.design.trial_run import trial_run

MAKERS = {
    "chain": lambda: None,
    "doorkey": lambda: make("MiniGrid-DoorKey-6x6-v0", num_envs=8),
    "maze": lambda: HardMaze(4, max_steps=50),
    "curling": lambda: Curling(4),
}


@pytest.fixture(scope="module", params=MAKERS)
def played(request):
    """A task and 60 steps of random play in each of some environments."""
    return record(MAKERS[request.param](), steps=60)


@pytest.fixture(scope="module")
def doorkey():
    return record(MAKERS["doorkey"](), steps=400)


def values_of(components, rollout):
    """What a list of components pays, [C, T, N], without the clipping to declared ranges."""
    program = RewardProgram.parse(write_program(components))
    fields = program_fields(rollout)
    out, _ = InProcess(program).run_unclipped(fields, {})
    return out, program


def test_every_component_stays_in_its_declared_range(played):
    task, rollout = played
    words = vocabulary(task)
    assert len({word.name for word in words}) == len(words)
    for word in words:
        (values,), program = values_of([replace(word, weight=0.3)], rollout)
        low, high = program.ranges[word.name]
        assert low - 1e-6 <= values.min()
        assert values.max() <= high + 1e-6


def test_random_mutated_and_crossed_programs_run(played):
    task, rollout = played
    generator, words = np.random.default_rng(0), vocabulary(task)
    genomes = [random_genome(generator, words) for _ in range(6)]
    for _ in range(12):
        first, second = (genomes[generator.integers(len(genomes))] for _ in range(2))
        genomes += [mutate(generator, first, words), cross(generator, first, second)]
    for genome in genomes:
        assert 1 <= len(genome) <= MOST_COMPONENTS
        values_of(genome, rollout)


def test_they_run_in_the_sandbox(played):
    task, rollout = played
    generator = np.random.default_rng(1)
    genome = random_genome(generator, vocabulary(task))
    check = trial_run(RewardProgram.parse(write_program(genome)), rollout)
    assert check.reason == ""


def word(task, name, **changes):
    (found,) = (word for word in vocabulary(task) if word.name == name)
    return replace(found, weight=1.0, **changes)


def steps_of(rollout):
    """Each step in time order: place, first step of an episode or not, the grids around it."""
    after = rollout.next_obs()["image"].numpy()
    for n in range(rollout.reward.shape[1]):
        for t in range(rollout.num_steps):
            yield (
                (t, n),
                bool(rollout.is_first[t, n]),
                rollout.obs["image"][t, n].numpy(),
                after[t, n],
            )


@pytest.mark.parametrize("times", [1, 3])
def test_an_event_is_paid_so_many_times_in_an_episode(times, doorkey):
    task, rollout = doorkey
    (values,), _ = values_of([word(task, "carries_key", times=times)], rollout)
    left, paid = 0, 0
    for place, is_first, _, after in steps_of(rollout):
        left = times if is_first else left
        expected = after[3, 6, 0] == 5 and left > 0
        left -= expected
        paid += expected
        assert values[place] == expected
    assert paid > times


def test_an_event_may_be_paid_for_each_colour(doorkey):
    """Door after door; the same one, and another of its colour, are paid no more than `times`."""
    task, _ = doorkey
    closed, opened = np.full((1, 7, 7, 3), 1, np.uint8), np.full((1, 7, 7, 3), 1, np.uint8)
    for times, expected in ((1, [1, 1, 0, 1, 0]), (2, [1, 1, 1, 1, 0])):
        source = write_program([word(task, "opens_door", each=True, times=times)])
        reward, memory, paid = define(source, "reward"), {}, []
        for colour in (2, 5, 2, 0, 2):
            closed[0, 3, 5], opened[0, 3, 5] = (4, colour, 1), (4, colour, 0)
            before, after = {"image": closed}, {"image": opened}
            paid.append(int(reward(before, np.array([5]), after, {}, memory)["opens_door"][0]))
        assert paid == expected


def test_a_condition_may_be_an_event_for_each_colour(doorkey):
    task, rollout = doorkey
    second = word(task, "faces_door", times=10, after="faces_key")
    found = [
        values_of([word(task, "faces_key", each=each), second], rollout)[0][1]
        for each in (False, True)
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].any()


def test_visits_pay_each_cell_once_in_an_episode():
    """Against the places that the environment itself reports."""
    task, rollout = record(make("MiniGrid-MultiRoom-N2-S4-v0", num_envs=8), steps=400)
    (values,), _ = values_of([word(task, "visits_cells")], rollout)
    places, ended = rollout.info["agent_pos"].tolist(), rollout.terminated | rollout.truncated
    paid = 0
    for n in range(8):
        visited = []
        for t in range(rollout.num_steps):
            visited = [] if rollout.is_first[t, n] else visited
            visited.append(places[t][n])
            if not ended[t, n]:
                is_new = places[t + 1][n] not in visited
                assert values[t, n] == pytest.approx(0.1 if is_new else 0.0)
                paid += is_new
    assert paid > 50


def test_a_condition_waits_for_its_event(doorkey):
    task, rollout = doorkey
    first = word(task, "carries_key")
    second = word(task, "sees_door", times=10, after="carries_key")
    (_, values), _ = values_of([first, second], rollout)
    carried, left, paid = False, 0, 0
    for place, is_first, _, after in steps_of(rollout):
        carried, left = (False, 10) if is_first else (carried, left)
        carried |= bool(after[3, 6, 0] == 5)
        expected = carried and left > 0 and bool((after[..., 0] == 4).any())
        left -= expected
        paid += expected
        assert values[place] == expected
    assert paid


def test_approaching_pays_tenths_of_the_least_distance_of_the_episode(doorkey):
    task, rollout = doorkey
    (values,), _ = values_of([word(task, "approaches_door")], rollout)
    best, paid = None, 0
    for place, is_first, _, after in steps_of(rollout):
        best = None if is_first else best
        cells = np.argwhere(after[..., 0] == 4)
        here = min((abs(x - 3) + 6 - y for x, y in cells), default=None)
        expected = 0.0
        if here is not None:
            expected = 0.0 if best is None else max(best - here, 0) / 10
            best = here if best is None else min(best, here)
        paid += expected > 0
        assert values[place] == pytest.approx(expected)
    assert paid > 10


def test_a_door_that_the_agent_opens_is_paid_and_one_that_it_sees_is_not(doorkey):
    task, _ = doorkey
    view = np.full((2, 7, 7, 3), 1, np.uint8)
    before = view.copy()
    before[0, 3, 5] = (4, 0, 1)  # closed, in front of the agent
    before[1, 2, 5] = (4, 0, 1)  # beside
    after = before.copy()
    after[0, 3, 5, 2] = after[1, 2, 5, 2] = 0
    for name, start in (("opens_door", 1), ("unlocks_door", 2)):
        before[:, :, :, 2] = np.where(before[..., 0] == 4, start, before[..., 2])
        reward = define(write_program([word(task, name)]), "reward")
        paid = reward({"image": before}, np.zeros(2, int), {"image": after}, {}, {})[name]
        assert paid.tolist() == [1.0, 0.0]


def test_farthest_pays_what_exceeds_the_best_of_the_episode():
    task, rollout = record(Curling(4), steps=100)
    total = 0
    for name in [w.name for w in vocabulary(task) if w.name.startswith("farthest_up")]:
        field, i = name.removeprefix("farthest_up_").rsplit("_", 1)
        (values,), _ = values_of([word(task, name)], rollout)
        width = np.ptp(task.samples[f"obs/{field}"][:, int(i)].astype(np.float64))
        now, then = (x[field][..., int(i)].numpy() for x in (rollout.obs, rollout.next_obs()))
        for n in range(4):
            best = 0.0
            for t in range(100):
                best = now[t, n] if rollout.is_first[t, n] else best
                expected = min(max(then[t, n] - best, 0.0) / width, 1.0)
                best = max(best, then[t, n])
                assert values[t, n] == pytest.approx(expected, abs=1e-5)
                total += expected
    assert total > 1


def test_progress_adds_up_to_nothing_on_the_way_there_and_back():
    task, rollout = record()
    words = [word(task, w.name) for w in vocabulary(task) if w.name.startswith("moves_")]
    values, _ = values_of(words[:2], rollout)
    np.testing.assert_allclose(values[0], -values[1], atol=1e-6)
    ends = rollout.terminated | rollout.truncated
    begin = 0
    for t in torch.nonzero(ends[:, 0])[:, 0].tolist():
        width = 1.0
        last = rollout.next_obs()["obs"][t, 0, 0].item() - 1.0  # episodes begin in cell 0
        assert values[0][begin : t + 1, 0].sum() == pytest.approx(last / width, abs=1e-5)
        begin = t + 1


def test_tidy_drops_repeated_names_and_conditions_that_cannot_hold():
    event = ProgramComponent("a", ("now = action == 0",))
    other = ProgramComponent("b", ("value = action * 1.0",), is_event=False, after="c")
    assert tidy([event, event, other]) == [event, replace(other, after="")]
    late = replace(event, name="d", after="b")  # not an event
    assert tidy([other, late])[1].after == ""
    assert len(tidy([replace(event, name=f"e{i}") for i in range(20)])) == MOST_COMPONENTS
    large = [replace(event, name=f"e{i}", entries=3) for i in range(20)]
    assert len(tidy(large)) == MEMORY_ENTRIES // 3


def test_objects_that_only_the_goal_names_are_in_the_vocabulary():
    task, _ = record(MAKERS["doorkey"](), steps=4)
    names = {word.name for word in vocabulary(task)}
    assert "carries_ball" not in names
    names = {word.name for word in vocabulary(replace(task, goal="Pick up the ball."))}
    assert "carries_ball" in names


def test_a_task_without_a_grid_or_a_vector_is_refused():
    task, _ = record()
    from gymnasium import spaces

    picture = spaces.Dict({"pixels": spaces.Box(0, 255, (84, 84, 3), np.uint8)})
    with pytest.raises(ValueError, match="needs a grid of MiniGrid or a vector"):
        vocabulary(replace(task, obs_space=picture))


def key_first(source):
    """A made-up task return: more for what matters if it has a large weight, less for the rest."""
    wanted = ("carries_key", "unlocks_door", "sees_goal", "opens_door")
    lines = [line.strip() for line in source.splitlines()]
    found = sum(f'rewards["{name}"] = 1.0 * now' in lines for name in wanted)
    return found - 0.3 * (sum(line.startswith("# ") for line in lines) - found)


def test_evolution_finds_better_programs_than_as_many_random_ones(doorkey, tmp_path):
    task, _ = doorkey

    def best(seed, random_share):
        designer = Template(samples=8, rounds=6, seed=seed, random_share=random_share)
        folder = tmp_path / f"{seed}-{random_share}"
        search = DesignSearch(designer, task, folder, check=passes, train=made_up(key_first))
        assert search.run()
        assert len({r.proposal.hash for r in search.table.results}) == 48
        return search.best.score

    evolved = [best(seed, 0.25) for seed in range(3)]
    random = [best(seed, 1.0) for seed in range(3)]
    assert sum(evolved) > sum(random)
    assert max(evolved) > max(random) + 0.5


def test_the_first_program_pays_every_event_once(doorkey):
    task, rollout = doorkey
    first = Template(samples=2).propose(SearchState(task))[0]
    program = RewardProgram.parse(first.source)
    events = [word.name for word in vocabulary(task) if word.is_event]
    assert list(program.ranges) == events[:MOST_COMPONENTS]
    assert {"carries_key", "opens_door", "unlocks_door", "sees_goal"} <= set(program.ranges)
    values, _ = values_of([word(task, name) for name in program.ranges], rollout)
    ends = rollout.terminated | rollout.truncated
    for n in range(8):
        end = int(ends[:, n].nonzero()[0]) if ends[:, n].any() else rollout.num_steps
        assert values[:, : end + 1, n].sum(1).max() <= 1


def test_without_a_difference_there_are_no_elites(doorkey):
    designer = Template(samples=4, rounds=3)
    state = SearchState(doorkey[0])
    proposals = designer.propose(state)
    designer.ranks = {p.hash: (0.0, 0.0) for p in proposals}
    assert designer.elites() == []
    assert [p.how for p in proposals] == ["every event", "discoveries", "random", "random"]
    assert {p.how for p in designer.propose(state)} == {"random"}
    designer.ranks[proposals[2].hash] = (0.0, 0.1)
    assert designer.elites() == [proposals[2].hash]


def test_the_second_program_pays_what_an_episode_has_not_had_yet(doorkey):
    task, _ = doorkey
    second = Template(samples=2).propose(SearchState(task))[1]
    assert [*RewardProgram.parse(second.source).ranges] == ["finds_objects", "visits_cells"]
    task, _ = record(Curling(4), steps=20)
    second = Template(samples=2).propose(SearchState(task))[1]
    ranges = RewardProgram.parse(second.source).ranges
    assert ranges
    assert all(name.startswith("farthest_") for name in ranges)


def test_a_designer_that_loads_a_state_goes_on_in_the_same_way(doorkey):
    state, ranks = SearchState(doorkey[0]), iter(range(99))
    one = Template(samples=5, rounds=6, seed=3)
    for _ in range(3):
        proposals = one.propose(state)
        one.ranks |= {p.hash: (float(next(ranks) % 7), 0.0) for p in proposals}
    two = Template(samples=5, rounds=6, seed=3)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for _ in range(4):
        assert one.propose(state) == two.propose(state)


def test_equal_seeds_propose_equally_and_others_do_not(doorkey):
    state = SearchState(doorkey[0])
    first, same, other = (Template(seed=seed).propose(state) for seed in (0, 0, 1))
    assert first == same
    assert first != other
