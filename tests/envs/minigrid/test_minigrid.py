"""MiniGrid tasks: equal fields from every backend, the papers' ids, views and errors."""

import itertools
import warnings

import gymnasium
import numpy as np
import pytest
import torch

from firstlight.agents.evaluation import record
from firstlight.envs import minigrid
from firstlight.envs.check import check_vec
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.envs.minigrid.map_memory import MapMemory
from firstlight.envs.minigrid.python_backend import make_python
from firstlight.envs.minigrid.tasks import TASKS, backends_of
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import check

DOORKEY = "MiniGrid-DoorKey-5x5-v0"
PAPERS = {  # steps: 20 for each room, 30 for each cell of a room
    "MiniGrid-MultiRoom-N7-S4-v0": 140,
    "MiniGrid-MultiRoom-N7-S8-v0": 140,
    "MiniGrid-MultiRoom-N10-S4-v0": 200,
    "MiniGrid-MultiRoom-N10-S10-v0": 200,
    "MiniGrid-MultiRoom-N12-S10-v0": 240,
    "MiniGrid-MultiRoomNoisyTV-N7-S4-v0": 140,
    "MiniGrid-KeyCorridorS8R5-v0": 30 * 64,
    "MiniGrid-KeyCorridorS9R6-v0": 30 * 81,
    "MiniGrid-KeyCorridorS10R7-v0": 3000,
}
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)


@pytest.fixture(autouse=True)
def _no_warnings_of_old_versions():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def shapes(fields):
    return {name: (tuple(field.shape), field.dtype) for name, field in fields.items()}


def length(vec):
    """Length of an episode of the action `done`."""
    vec.reset(0)
    steps, still = 1, torch.full((vec.num_envs,), DONE)
    while not vec.step(still).truncated.all():
        steps += 1
    return steps


@pytest.mark.parametrize("view", ["partial", "map", "full"])
@pytest.mark.parametrize("aside", [False, True])
def test_every_backend_gives_the_same_fields(view, aside):
    found = []
    for backend in ("native", "envpool", "python"):
        if backend == "envpool" and (view == "full" or aside):
            continue
        vec = minigrid.make(
            DOORKEY, num_envs=2, backend=backend, view=view, full_grid=aside, max_steps=4
        )
        assert vec.success_threshold == 0
        assert vec.act_space == gymnasium.spaces.Discrete(7)
        rollout = check(Runner(vec, seed=0).collect(RandomActor(vec.act_space), 12))
        assert set(rollout.obs) == set(vec.obs_space)
        assert set(rollout.info) == set(vec.info_space)
        spaces = {k: (s.shape, s.dtype) for k, s in vec.obs_space.spaces.items()}
        found.append((shapes(rollout.obs), shapes(rollout.info), spaces))
        vec.close()
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
    ("backend", "view"),
    [
        *itertools.product(("native", "python"), ("partial", "map", "full")),
        *itertools.product(("envpool",), ("partial", "map")),
    ],
)
def test_every_backend_passes_check_vec(backend, view):
    options = {"full_grid": True} if view == "full" else {"text": True}
    vec = minigrid.make(
        "MiniGrid-KeyCorridorS3R2-v0",
        **{"num_envs": 5, "backend": backend, "view": view, "max_steps": 11, **options},
    )
    check_vec(vec)
    vec.close()


@pytest.mark.parametrize("backend", ["native", "envpool", "python"])
def test_agent_pos_follows_the_moves(backend):
    """After a step forward the agent is on the cell ahead if the view shows it free."""
    vec = minigrid.make("MiniGrid-DoorKey-8x8-v0", num_envs=4, backend=backend, max_steps=30)
    bounds = vec.info_space["agent_pos"]
    assert (bounds.low.tolist(), bounds.high.tolist(), bounds.dtype) == ([0, 0], [7, 7], np.int64)
    obs, info = vec.reset(0)
    g, moved = torch.Generator().manual_seed(0), 0
    for _ in range(60):
        action = torch.randint(0, 3, (4,), generator=g)
        step = vec.step(action)
        ahead = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]])[obs["direction"]]
        free = (action == FORWARD) & (obs["image"][:, 3, 5, 0] == 1)
        wanted = info["agent_pos"] + ahead * free[:, None]
        plain = step.valid & ~step.is_first
        assert torch.equal(step.info["agent_pos"][plain], wanted[plain])
        moved += int((free & plain).sum())
        obs, info = step.obs, step.info
    assert moved > 20


def test_the_whole_grid_of_the_package_has_the_agent_in_it():
    vec = make_python(DOORKEY, None, num_envs=2, full_grid=True)
    _, info = vec.reset(0)
    for action in (LEFT, FORWARD, RIGHT, FORWARD, PICKUP, TOGGLE):
        for env, pos, grid in zip(vec._vec.envs, info["agent_pos"], info["full_grid"], strict=True):
            expected = env.unwrapped.grid.encode()
            x, y = env.unwrapped.agent_pos
            assert pos.tolist() == [x, y]
            expected[x, y] = 10, 0, env.unwrapped.agent_dir
            assert np.array_equal(grid, expected)
        info = vec.step(torch.tensor([action, FORWARD])).info


@pytest.mark.parametrize("task", PAPERS)
def test_papers_ids_have_the_papers_limits(task):
    assert TASKS[task].max_steps == PAPERS[task]
    for backend in backends_of(task):
        vec = minigrid.make(task, num_envs=2, backend=backend, num_threads=1)
        if backend != "python":
            assert length(vec) == PAPERS[task]
        else:
            assert {env.unwrapped.max_steps for env in vec._vec.envs} == {PAPERS[task]}
        vec.close()


def test_every_native_task_has_the_packages_limit_and_size():
    for name, task in TASKS.items():
        if name in gymnasium.registry:
            env = gymnasium.make(name).unwrapped
            assert (env.width, env.height, env.max_steps) == (
                *(task.width, task.height, task.max_steps),
            )


@pytest.mark.parametrize("rows", [3, 5])
def test_envpool_builds_key_corridors_that_it_does_not_register(rows):
    """Agents start in the middle room of a corridor of the right size."""
    task = {3: "MiniGrid-KeyCorridorS5R3-v0", 5: "MiniGrid-KeyCorridorS8R5-v0"}[rows]
    side = {3: 4, 5: 7}[rows]
    _, info = minigrid.make(task, num_envs=64, backend="envpool").reset(0)
    column, row = info["agent_pos"].unbind(1)
    assert (column // side == 1).all()
    assert (row >= side * (rows // 2)).all()  # the walls across the corridor are gone
    assert (row <= side * (rows // 2 + 1)).all()


def test_envpools_full_maze_begins_in_the_packages_room():
    for version in (0, 1):
        task = f"MiniGrid-ObstructedMaze-Full-v{version}"
        _, info = minigrid.make(task, num_envs=64, backend="envpool").reset(0)
        assert (info["agent_pos"] // 5 == 1).all()


def test_auto_chooses_the_backend_by_task_and_view():
    assert isinstance(minigrid.make("MiniGrid-MultiRoom-N2-S4-v0", num_envs=1), GridWorld)
    assert isinstance(minigrid.make(DOORKEY, num_envs=1, full_grid=True), GridWorld)
    assert isinstance(minigrid.make(DOORKEY, num_envs=1), GridWorld)
    assert minigrid.make("MiniGrid-MemoryS11-v0", num_envs=1).resume == "dropped"
    assert minigrid.make("MiniGrid-FourRooms-v0", num_envs=1, view="full").resume == "replay"


def test_view_map_wraps_the_chosen_backend_with_the_given_size():
    vec = minigrid.make(DOORKEY, num_envs=2, backend="native", view="map", size=9)
    assert isinstance(vec, MapMemory)
    obs, _ = vec.reset(0)
    assert obs["image"].shape == (2, 9, 9, 3)
    assert vec.resume == "state"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("MiniGrid-DorKey-8x8-v0", {}, "no MiniGrid task .*did you mean 'MiniGrid-DoorKey-8x8-v0'"),
        ("MiniGrid-MultiRoom-N7-S9-v0", {}, "did you mean 'MiniGrid-MultiRoom-N7-S[48]-v0'"),
        ("MiniGrid-KeyCorridorS8R5-v1", {}, "did you mean 'MiniGrid-KeyCorridorS8R5-v0'"),
        ("qqqqqqqqqq", {}, "no MiniGrid task 'qqqqqqqqqq'$"),
        ("MiniGrid-FourRooms-v0", {"backend": "native"}, "envpool and python have it"),
        (
            *("MiniGrid-MultiRoomNoisyTV-N7-S4-v0", {"backend": "envpool"}),
            "'envpool' has no .*native and python have it",
        ),
        (DOORKEY, {"backend": "envpool", "full_grid": True}, "whole grid .*native and python can"),
        (DOORKEY, {"backend": "envpool", "view": "full"}, "whole grid .*native and python can"),
        (DOORKEY, {"backend": "rust"}, "'native' or 'envpool' or 'python', not 'rust'"),
        (DOORKEY, {"view": "wide"}, "view is 'partial' or 'map' or 'full', not 'wide'"),
        (DOORKEY, {"view": "full", "text": True}, "partial view"),
    ],
)
def test_invalid_choices_are_refused_with_a_hint(task, options, message):
    with pytest.raises(ValueError, match=message):
        minigrid.make(task, num_envs=1, **options)


def test_drop_changes_the_colour_of_the_packages_noisy_tv():
    vec = minigrid.make(
        "MiniGrid-MultiRoomNoisyTV-N7-S4-v0", num_envs=1, backend="python", full_grid=True
    )
    _, info = vec.reset(0)
    colours = set()
    for _ in range(60):
        grid = info["full_grid"][0]
        ball = grid[grid[..., 0] == 6]
        assert len(ball) == 1
        colours.add(int(ball[0, 1]))
        info = vec.step(torch.tensor([DROP])).info
    assert len(colours) == 6


def test_the_package_gives_equal_steps_in_processes():
    options = {"num_envs": 2, "backend": "python", "full_grid": True, "max_steps": 5}
    one, many = (minigrid.make(DOORKEY, asynchronous=a, **options) for a in (False, True))
    try:
        for vec in (one, many):
            vec.reset(3)
        for t in range(8):
            expected, got = (vec.step(torch.tensor([t % 3, FORWARD])) for vec in (one, many))
            assert torch.equal(got.obs["image"], expected.obs["image"])
            assert torch.equal(got.info["full_grid"], expected.info["full_grid"])
    finally:
        many.close()


@pytest.mark.parametrize("backend", ["native", "envpool", "python"])
@pytest.mark.parametrize("view", ["partial", "map"])
def test_every_backend_can_be_recorded(backend, view, tmp_path):
    vec = minigrid.make(DOORKEY, num_envs=2, backend=backend, view=view, max_steps=6)
    (episode,) = record(RandomActor(vec.act_space), vec, tmp_path / "episode.gif", seed=0)
    assert episode.length <= 6
    assert (tmp_path / "episode.gif").stat().st_size > 500
