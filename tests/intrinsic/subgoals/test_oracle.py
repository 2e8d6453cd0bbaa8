"""The oracle's plans: published lists, plans that a scripted player solves levels by, no plan."""

import numpy as np
import pytest
from plan_bot import PlanBot

from firstlight.envs.minigrid.cells import (
    BALL,
    BLUE,
    BOX,
    CLOSED,
    DOOR,
    EMPTY,
    GOAL,
    GREEN,
    GREY,
    KEY,
    LAVA,
    LOCKED,
    OPEN,
    RED,
    STONE,
)
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.intrinsic.subgoals.planner_kernels import find_path
from firstlight.intrinsic.subgoals.plans import Levels, phrase_of, task_of
from firstlight.intrinsic.subgoals.teachers import Oracle


def levels_of(task, number=50, seed=0):
    world = GridWorld(f"MiniGrid-{task}-v0", num_envs=number, level=True)
    _, info = world.reset(seed)
    fields = (info[name].numpy() for name in ("level", "agent_pos", "target"))
    return Levels(*fields)


def names(plans, row):
    return [phrase_of(int(code)) for code in plans.codes[row, : plans.length[row]]]


def kinds(plans, row):
    return [name.replace("locked ", "locked-").split()[-1] for name in names(plans, row)]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("KeyCorridorS3R3", ["key", "door", "ball"]),
        ("KeyCorridorS6R3", ["key", "door", "ball"]),
        ("ObstructedMaze-1Dl", ["key", "door", "ball"]),
        ("ObstructedMaze-1Dlh", ["box", "door", "ball"]),
        ("ObstructedMaze-1Dlhb", ["ball", "box", "door", "ball"]),
        ("MultiRoom-N2-S4", ["door", "goal"]),
        ("MultiRoom-N7-S4", ["door"] * 6 + ["goal"]),
        ("DoorKey-8x8", ["key", "door", "goal"]),
        ("Unlock", ["key", "door"]),
        ("UnlockPickup", ["key", "door", "box"]),
        ("BlockedUnlockPickup", ["ball", "key", "door", "box"]),
    ],
)
def test_plans_are_the_published_lists(task, expected):
    levels = levels_of(task)
    plans = Oracle(all_doors=False).plan(levels)
    for row in range(len(levels)):
        assert kinds(plans, row) == expected
        for p in range(plans.length[row]):
            assert plans.codes[row, p] == levels.grid[row][tuple(plans.cells[row, p])]
        if levels.target[row]:
            assert plans.codes[row, plans.length[row] - 1] & 127 == levels.target[row]
        for p, name in enumerate(names(plans, row)):
            if name.startswith("locked") and expected[p - 1] == "key":
                assert names(plans, row)[p - 1].split()[0] == name.split()[1]  # its colour


def test_all_doors_are_the_closed_ones_on_the_way():
    levels = levels_of("KeyCorridorS3R3", 200)
    some, every = Oracle(all_doors=False).plan(levels), Oracle().plan(levels)
    for row in range(len(levels)):
        short = [*map(tuple, some.cells[row, : some.length[row]])]
        long = [*map(tuple, every.cells[row, : every.length[row]])]
        assert [cell for cell in long if cell in short] == short
        assert len({*long}) == len(long)
        extra = [int(levels.grid[row][cell]) for cell in long if cell not in short]
        assert all(code & 15 == DOOR and code >> 7 & 3 == CLOSED for code in extra)
    assert (every.length > some.length).all()  # the key's room has a closed door


SOLVED = (
    *("KeyCorridorS3R3", "KeyCorridorS5R3", "ObstructedMaze-1Dlhb", "ObstructedMaze-2Dlh"),
    *("ObstructedMaze-2Dlhb-v1", "MultiRoom-N7-S8", "DoorKey-8x8", "BlockedUnlockPickup", "Unlock"),
)


@pytest.mark.parametrize("task", SOLVED)
def test_a_player_that_follows_the_plan_solves_the_level(task):
    """With a box it also has to take the key that lies in it."""
    for seed in range(4):
        name = f"MiniGrid-{task}" + ("" if task.endswith("-v1") else "-v0")  # v0 may lose a key
        world = GridWorld(name, num_envs=1, level=True, max_steps=2000)
        _, info = world.reset(seed)
        levels = Levels(*(info[name].numpy() for name in ("level", "agent_pos", "target")))
        plan = Oracle().plan(levels)
        bot = PlanBot(world, world)
        for p in range(plan.length[0]):
            x, y = map(int, plan.cells[0, p])
            bot.reach((x, y))
            if plan.codes[0, p] & 15 == BOX and not bot.is_over:
                bot.reach((x, y))
        assert bot.is_over
        assert bot.steps[-1].reward[0] > 0


def room(rows):
    """Grid [W, H] int16 from rows of characters."""
    codes = {
        "#": STONE,
        ".": EMPTY,
        "G": GOAL | GREEN << 4,
        "L": LAVA,
        "|": DOOR | RED << 4 | LOCKED << 7,
        "d": DOOR | RED << 4 | CLOSED << 7,
        "o": DOOR | RED << 4 | OPEN << 7,
        "k": KEY | RED << 4,
        "b": BALL | BLUE << 4,
        "x": BOX | GREY << 4 | KEY << 9 | RED << 12,
    }
    return np.array([[codes[c] for c in row] for row in rows], np.int16).T.copy()


def plan_of(rows, target=0):
    grid = room(rows)
    levels = Levels(grid[None], np.array([[1, 1]]), np.array([target]))
    plans = Oracle().plan(levels)
    return [*zip(kinds(plans, 0), map(tuple, plans.cells[0, : plans.length[0]]), strict=True)]


def test_the_way_is_the_cheapest_and_goes_round_what_is_in_the_way():
    assert plan_of(["#####", "#.b.#", "#...#", "#..G#", "#####"]) == [("goal", (3, 3))]
    blocked = plan_of(["#####", "#.bG#", "#####"])
    assert blocked == [("ball", (2, 1)), ("goal", (3, 1))]
    assert plan_of(["#####", "#.oG#", "#####"]) == [("goal", (3, 1))]
    lava = plan_of(["######", "#.LG##", "#.d.##", "######"])
    assert lava == [("door", (2, 2)), ("goal", (3, 1))]


def test_a_key_is_fetched_first_and_out_of_a_box():
    assert plan_of(["######", "#..|G#", "#k####", "######"]) == [
        *(("key", (1, 2)), ("door", (3, 1)), ("goal", (4, 1)))
    ]
    assert plan_of(["######", "#..|G#", "#x####", "######"])[0] == ("box", (1, 2))


def test_a_level_without_an_end_or_a_way_has_no_plan():
    assert plan_of(["####", "#..#", "####"]) == []
    assert plan_of(["#####", "#.#G#", "#####"]) == []
    assert plan_of(["#####", "#.|G#", "#####"]) == []  # no key
    assert plan_of(["#####", "#.LG#", "#####"]) == []
    assert plan_of(["#####", "#..b#", "#####"], target=BALL | GREEN << 4) == []


def test_paths_are_those_of_a_plain_search():
    """Costs of Dijkstra's algorithm by relaxing every edge until nothing changes."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        kinds_of = rng.choice(
            [EMPTY, STONE, KEY | RED << 4, DOOR | CLOSED << 7], (6, 5), p=[0.5, 0.25, 0.1, 0.15]
        )
        grid = kinds_of.astype(np.int16)
        grid[0, 0] = EMPTY
        price = np.select([grid == EMPTY, grid & 15 == DOOR, grid & 15 == KEY], [1, 2, 20], 10**6)
        cost = np.full(grid.shape, 10**9)
        cost[0, 0] = 0
        for _ in range(30):
            for x in range(6):
                for y in range(5):
                    for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
                        a, b = x + dx, y + dy
                        if 0 <= a < 6 and 0 <= b < 5 and price[a, b] < 10**6:
                            cost[a, b] = min(cost[a, b], cost[x, y] + price[a, b])
        path = np.empty((30, 2), np.int64)
        for x in range(6):
            for y in range(5):
                if grid[x, y] == STONE or (x, y) == (0, 0):
                    continue
                steps = find_path(grid, np.zeros(grid.shape, bool), 0, 0, x, y, path)
                if cost[x, y] >= 10**6:
                    assert steps == 0
                else:
                    assert sum(price[tuple(cell)] for cell in path[:steps]) == cost[x, y]
                    assert tuple(path[steps - 1]) == (x, y)


def test_the_nearest_door_is_one():
    levels = levels_of("MultiRoom-N7-S4", 20)
    plans = Oracle(nearest_door=True).plan(levels)
    first = Oracle().plan(levels)
    assert (plans.length == 1).all()
    assert (plans.cells[:, 0] == first.cells[:, 0]).all()  # a chain of rooms has one way


def test_the_task_is_stated():
    grid = room(["###", "#.#", "###"])
    assert task_of(grid, BALL | BLUE << 4) == "pick up the blue ball"
    assert task_of(grid, 0) == "open the locked door"
    assert task_of(room(["###", "#G#", "###"]), 0) == "get to the goal"
