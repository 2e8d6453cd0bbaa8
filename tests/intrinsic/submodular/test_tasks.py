"""The tabular tasks of Submodular RL: constants, rewards, bounds and pictures."""

import itertools
import math

import hydra
import pytest
import torch
from gymnasium import spaces
from PIL import Image

from firstlight.agents.trainer import Trainer
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.worlds.walks import Walks
from firstlight.intrinsic import Submodular
from firstlight.intrinsic.submodular import (
    Collection,
    Coverage,
    Field,
    LogDet,
    Rbf,
    best_set,
    best_walk,
    check_set_function,
    greedy,
    greedy_walk,
)
from firstlight.scripts.benchmarks import submodular_tasks as tasks
from firstlight.scripts.build import build, make_modules
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.report.paths import draw_paths
from firstlight.scripts.train import train

SIZES = {  # W, H, moves
    "subrl_bimodal": (30, 30, 39),
    "subrl_d_design": (30, 30, 39),
    "subrl_gorilla": (30, 30, 39),
    "subrl_gp_coverage": (30, 30, 39),
    "subrl_items": (7, 15, 39),
    "subrl_steiner": (7, 15, 39),
    "subrl_two_rooms": (7, 14, 39),
    "subrl_uniform_coverage": (30, 30, 79),
}
TASKS = sorted(SIZES)


def compose(name, *overrides):
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        return hydra.compose("train", [f"experiment={name}", *overrides])


def items_of(module, vec):
    """Items [cells, *item] of all cells."""
    cells = torch.arange(vec.walls.size)
    x = torch.div(cells, vec.height, rounding_mode="floor")
    return module.items({"cell": cells}, {"position": torch.stack([x, cells % vec.height], 1)})


@pytest.fixture(params=TASKS)
def task(request):
    config = compose(request.param)
    vec = make_vec(config.env, num_envs=6)
    modules, vec = make_modules(config.intrinsic, vec, 0)
    return request.param, modules["submodular"], vec


def test_each_task_has_its_size_and_horizon(task):
    name, _, vec = task
    assert (vec.width, vec.height, vec.horizon) == SIZES[name]
    assert vec.start == 34


def test_each_is_submodular_and_monotone(task):
    _, module, vec = task
    check_set_function(module.function, items_of(module, vec), trials=60)


def test_the_bonuses_of_a_walk_add_up_to_f_minus_f_of_the_start(task):
    """Two episodes of each environment, over borders of rollouts that are no ends of episodes."""
    _, module, vec = task
    runner, actor, H = Runner(vec, seed=0), RandomActor(vec.act_space), vec.horizon
    items = items_of(module, vec)
    paid, cells = [], [vec.reset()[1]["cell"]]
    for steps in (H - 5, H + 5):
        rollout = runner.collect(actor, steps)
        paid.append(module.compute(rollout))
        cells.append(rollout.next_info()["cell"])
    assert (cells[0] == 34).all()
    paid, cells = torch.cat(paid).double(), torch.cat(cells[1:])  # [2 H, N]
    start = module.function.value([items[34][None]])
    for episode in (slice(0, H), slice(H, 2 * H)):
        walks = [items[[34, *walk]] for walk in cells[episode].T.tolist()]
        worth = module.function.value(walks) - start
        torch.testing.assert_close(paid[episode].sum(0), worth, rtol=1e-5, atol=1e-5)
    assert paid.sum() > 0


@pytest.mark.parametrize("name", TASKS)
def test_each_trains_for_two_iterations_by_subpo(name, tmp_path):
    small = ("env.num_envs=3", "trainer.num_steps=10", f"run_dir={tmp_path}", "device=cpu")
    config = compose(name, "learner=subpo", *small)
    trainer = build(config, make_vec(config.env))
    assert isinstance(trainer, Trainer)
    before = [p.clone() for p in trainer.policy.parameters()]
    seen = []
    trainer.run(60, [lambda run, metrics: seen.append(metrics)])
    assert len(seen) == 2
    assert "reward/submodular/raw" in seen[0]
    assert any((a != b).any() for a, b in zip(before, trainer.policy.parameters(), strict=True))


def test_the_footprint_is_a_square_of_four_cells_cut_at_the_edge():
    expected = {
        (x, y): sorted(
            u * 4 + v for u, v in itertools.product((x, x + 1), (y, y + 1)) if u < 3 and v < 4
        )
        for x in range(3)
        for y in range(4)
    }
    for cell, row in enumerate(tasks.block(3, 4).tolist()):
        assert sorted(c for c in row if c >= 0) == expected[divmod(cell, 4)]


def test_moving_straight_covers_two_new_cells_per_move():
    """Whence the paper's 2 (H + 1): the largest return of a walk of H states."""
    straight = torch.arange(34, 34 + 20)
    assert tasks.uniform_coverage().value([straight]).tolist() == [2 * 21]


def test_the_numbers_of_items_are_those_of_the_paper():
    collection = tasks.item_collection()
    assert collection.groups.sum(1).tolist() == [18, 14, 13, 16, 18, 14]
    assert collection.groups.sum(0).max() == 1
    assert collection.limits.tolist() == [3, 2, 3, 4, 6, 3]
    assert collection.value([torch.arange(105)]).tolist() == [21]
    assert tasks.steiner().value([torch.arange(105)]).tolist() == [6]


def test_the_rooms_are_those_of_the_environment():
    config = compose("subrl_two_rooms")
    assert tuple(config.env.plan) == tasks.TWO_ROOMS
    free = torch.tensor([c == "." for row in tasks.TWO_ROOMS for c in row])
    rooms = tasks.two_rooms()
    assert rooms.value([torch.arange(98)]).tolist() == [free.sum()] == [68]
    assert free[rooms.senses[rooms.senses >= 0]].all()


def test_fields_depend_on_their_seed_and_are_the_weights():
    one, same, other = (tasks.gp_coverage(seed=s).weights for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() == 0
    bimodal = tasks.bimodal_coverage().weights.view(30, 30)
    assert bimodal[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert bimodal[0, 29].item() == pytest.approx(1 / (1 + math.e))
    torch.testing.assert_close(bimodal, bimodal.flip(0, 1))
    nests = tasks.gorilla_coverage().weights.view(30, 30)
    assert nests[23, 12] > nests[8, 17] - 0.2 > 10 * nests[29, 29]
    assert nests[1, 4] < 0.2  # little at the start


PLACES = tasks.places(3, 3)
NUMBERS = torch.Generator().manual_seed(0)
TINY = {
    "coverage": (Coverage(9, senses=tasks.block(3, 3)), torch.arange(9), False),
    "weighted": (
        Coverage(9, weights=torch.rand(9, generator=NUMBERS), senses=tasks.block(3, 3)),
        torch.arange(9),
        False,
    ),
    "collection": (
        Collection(torch.rand(3, 9, generator=NUMBERS) > 0.5, [2, 1, 1]),
        torch.arange(9),
        False,
    ),
    "logdet": (LogDet(Rbf(), dim=2, noise=0.5), PLACES, True),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_greedy_is_near_the_best_set_and_its_bound_above(name, k):
    function, candidates, _ = TINY[name]
    found, (best, value) = greedy(function, candidates, k), best_set(function, candidates, k)
    every = [function.value([candidates[list(s)]]) for s in itertools.combinations(range(9), k)]
    assert value == pytest.approx(max(map(float, every)))
    assert function.value([candidates[best]]).item() == pytest.approx(value)
    assert (1 - 1 / math.e) * value <= found.value <= value + 1e-9 <= found.bound + 2e-9
    assert function.value([candidates[found.chosen]]).item() == pytest.approx(found.value)
    assert len(found.chosen.unique()) == k


def test_greedy_is_not_always_the_best():
    """It takes the large set first, and then cannot have both of the others."""
    trap = Coverage(6, senses=[[0, 1, 2, 3], [0, 1, 4, -1], [2, 3, 5, -1]])
    found = greedy(trap, torch.arange(3), 2)
    assert (found.chosen.tolist()[0], found.value) == (0, 5.0)
    best, value = best_set(trap, torch.arange(3), 2)
    assert (best.tolist(), value) == ([1, 2], 6.0)
    assert found.bound >= 6


@pytest.mark.parametrize("name", TINY)
def test_no_walk_exceeds_the_bound(name):
    """The best walk against a plain recursion; repeats count only if the function counts them."""
    function, items, repeats = TINY[name]
    vec = Walks(1, width=3, height=3, start=4)

    def every(walk, moves):
        if not moves:
            return [walk]
        onward = set(vec.successor[walk[-1]].tolist())
        return [w for cell in onward for w in every([*walk, cell], moves - 1)]

    for moves in (1, 3):
        walk, value = best_walk(function, items, vec.successor, 4, moves)
        worth = [function.value([items[w]]).item() for w in every([4], moves)]
        assert value == pytest.approx(max(worth))
        assert walk.tolist() in every([4], moves)
        bound = greedy(function, items, moves + 1, repeats=repeats).bound
        near, worse = greedy_walk(function, items, vec.successor, 4, moves)
        assert worse <= value + 1e-9 <= bound + 2e-9
        assert near.tolist() in every([4], moves)
        assert function.value([items[near]]).item() == pytest.approx(worse)


def test_repeating_a_measurement_can_be_best():
    """Two places of which one has all the variance: with repeats it is chosen twice."""
    function = LogDet(lambda a, b: a @ b.mT, dim=1, noise=1.0)
    points = torch.tensor([[3.0], [0.1]])
    found = greedy(function, points.double(), 2, repeats=True)
    assert found.chosen.tolist() == [0, 0]
    assert found.value == pytest.approx(0.5 * math.log(1 + 2 * 9.0))
    assert found.bound >= found.value
    assert greedy(function, points.double(), 2).chosen.tolist() == [0, 1]


def test_too_many_sets_or_walks_are_rejected():
    coverage, cells = Coverage(9), torch.arange(9)[:, None]
    with pytest.raises(ValueError, match="10 items cannot be chosen from 9"):
        greedy(coverage, cells, 10)
    with pytest.raises(ValueError, match="form no set or more than"):
        best_set(coverage, cells, 10)
    with pytest.raises(ValueError, match="the limit is 200,000"):
        best_walk(Coverage(900), torch.arange(900)[:, None], Walks(1).successor, 34, 14)


def test_the_sets_of_the_given_function_do_not_change():
    function = Coverage(9, senses=tasks.block(3, 3))
    function.add(torch.tensor([4]), torch.tensor([0]))
    greedy(function, torch.arange(9), 2)
    greedy_walk(function, torch.arange(9), Walks(1, width=3, height=3, start=0).successor, 0, 2)
    assert function.total.tolist() == [4.0]


def test_the_modular_reward_counts_the_same_cells_again():
    """The paper's baseline: standing still gives the same cells each step, a marginal gain of 0."""
    vec = Walks(1, width=5, height=5, horizon=4, start=0)
    stay = RandomActor(spaces.Discrete(1))  # knows no other action
    paid = {}
    for modular in (False, True):
        module = Submodular(
            vec.obs_space,
            info_space=vec.info_space,
            function=tasks.uniform_coverage(5, 5),
            items=Field("cell"),
            modular=modular,
        )
        paid[modular] = module.compute(Runner(vec, seed=0).collect(stay, 4))[:, 0].tolist()
    assert paid == {False: [0.0] * 4, True: [4.0] * 4}


SMALL = ("learner=subpo", "env.num_envs=2", "total_steps=20", "eval_episodes=2", "device=cpu")


@pytest.mark.parametrize("name", ["subrl_two_rooms", "subrl_d_design"])
def test_walks_of_a_run_are_drawn_and_evaluated(name, tmp_path):
    """An episode of 5 moves in a world of cells, by the policy of a run of two iterations."""
    small = (*SMALL, "trainer.num_steps=5", "env.horizon=5", f"run_dir={tmp_path / 'run'}")
    train(compose(name, *small))
    said = draw_paths(tmp_path / "run", tmp_path / "new/paths.png", 3, seed=0)
    assert 0 <= said["value_mean"] <= said["value_max"] <= said["bound"]
    assert 0 < said["greedy_walk"] <= said["bound"]
    assert said == draw_paths(tmp_path / "run", tmp_path / "new/paths.png", 3, seed=0)
    shown = Image.open(tmp_path / "new/paths.png").convert("RGB")
    assert len(shown.getcolors(1 << 16)) > 10
    with pytest.raises(BadInputError, match="--episodes 0"):
        draw_paths(tmp_path / "run", tmp_path / "none.png", 0, seed=0)
