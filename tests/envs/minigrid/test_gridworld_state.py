"""Our own MiniGrid as a vector: seeds, ends, state, pictures, refusals."""

import gymnasium
import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import pytest
import torch

from firstlight.envs.minigrid.cells import (
    BALL,
    BLUE,
    BOX,
    CLOSED,
    DOOR,
    EMPTY,
    GOAL,
    GREEN,
    KEY,
    LOCKED,
    OPEN,
    STONE,
)
from firstlight.envs.minigrid.draw import TILE, tile
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.envs.minigrid.tasks import TASKS
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Snapshot, check

LEFT, RIGHT, FORWARD, PICKUP, DONE = 0, 1, 2, 3, 6


def test_the_seed_decides_every_episode():
    def record(seed):
        world = GridWorld("MiniGrid-KeyCorridorS3R2-v0", num_envs=3, full_grid=True, max_steps=5)
        _, info = world.reset(seed)
        shown = [info["full_grid"]]
        for t in range(12):
            shown.append(world.step(torch.full((3,), t % 3)).info["full_grid"])
        return torch.stack(shown)

    first = record(1)
    assert torch.equal(first, record(1))
    assert not torch.equal(first, record(2))


def test_more_environments_leave_the_first_ones_as_they_are():
    few, many = (GridWorld("MiniGrid-DoorKey-8x8-v0", num_envs=N, full_grid=True) for N in (2, 5))
    grids = [world.reset(4)[1]["full_grid"] for world in (few, many)]
    assert torch.equal(grids[0], grids[1][:2])


def test_no_two_environments_or_episodes_share_their_levels():
    world = GridWorld("MiniGrid-MultiRoom-N6-v0", num_envs=48, full_grid=True, max_steps=1)
    grids = [world.reset(seed)[1]["full_grid"] for seed in range(3)]
    still = torch.full((48,), DONE)
    grids += [world.step(still).info["full_grid"] for _ in range(3)]
    assert len({grid.numpy().tobytes() for grid in torch.cat(grids)}) == 6 * 48


def test_an_end_shows_both_the_last_cell_and_the_next_level():
    world = GridWorld("MiniGrid-DoorKey-5x5-v0", num_envs=2, full_grid=True, max_steps=3)
    world.reset(0)
    for t in range(6):
        before = world._state["agent"].copy()
        step = world.step(torch.tensor([RIGHT, DONE]))
        last = t % 3 == 2
        assert step.truncated.tolist() == [last, last]
        assert step.is_first.tolist() == [last, last]
        assert step.final_ids.tolist() == ([0, 1] if last else [])
        assert step.valid.all()
        if last:
            assert step.final_obs["direction"].tolist() == [(before[0, 2] + 1) % 4, before[1, 2]]
            assert step.final_info["agent_pos"].tolist() == before[:, :2].tolist()
            assert step.obs["direction"].tolist() == world._state["agent"][:, 2].tolist()


def test_a_goal_on_the_last_step_is_an_end_of_its_own():
    world = GridWorld("MiniGrid-MultiRoom-N2-S4-v0", num_envs=1, max_steps=1)
    world.reset(0)
    (point,) = world.snapshots()
    point.arrays["grid"][:] = EMPTY
    point.arrays["grid"][5, 5] = GOAL | GREEN << 4
    point.arrays["agent"][:] = torch.tensor([4, 5, 0])
    world.restore(torch.tensor([0]), [point])
    step = world.step(torch.tensor([FORWARD]))
    assert (step.terminated.item(), step.truncated.item()) == (True, False)
    assert step.reward.item() == pytest.approx(0.1)


def test_the_world_goes_on_from_its_saved_state():
    def play(world, steps):
        g = torch.Generator().manual_seed(steps)
        told = []
        for _ in range(steps):
            step = world.step(torch.randint(0, 7, (4,), generator=g))
            told.append((step.obs["image"], step.info["full_grid"], step.reward, step.is_first))
        return told

    task = "MiniGrid-MultiRoomNoisyTV-N7-S4-v0"
    world, other = (GridWorld(task, num_envs=4, full_grid=True, max_steps=20) for _ in range(2))
    world.reset(1)
    last = play(world, 13)[-1][1]
    state = world.state_dict()
    expected = play(world, 40)
    _, info, lost = other.load_state_dict(state)
    assert not lost.any()
    assert torch.equal(info["full_grid"], last)
    for told, again in zip(expected, play(other, 40), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(told, again, strict=True))


def test_restore_sets_environments_back_to_snapshots():
    world = GridWorld("MiniGrid-DoorKey-8x8-v0", num_envs=3, full_grid=True)
    world.reset(0)
    points = world.snapshots()
    before = world._look(world._all)["full_grid"]
    for t in range(10):
        world.step(torch.full((3,), t % 3))
    ids = torch.tensor([2, 0])
    _, info, lost = world.restore(ids, [points[2], points[1]])
    assert not lost.any()
    assert np.array_equal(info["full_grid"], before[[2, 1]])
    assert np.array_equal(world._look(world._all)["full_grid"][[2, 0]], before[[2, 1]])
    with pytest.raises(ValueError, match="has no arrays"):
        world.restore(ids, [Snapshot(seed=0), Snapshot(seed=1)])


def test_what_a_step_told_stays_what_it_was():
    world = GridWorld("MiniGrid-MultiRoom-N2-S4-v0", num_envs=4, full_grid=True, max_steps=3)
    world.reset(0)
    steps = [world.step(torch.full((4,), t % 3)) for t in range(5)]
    copies = [{k: f.clone() for k, f in {**s.obs, **s.info}.items()} for s in steps]
    for t in range(9):
        world.step(torch.full((4,), (t + 1) % 3))
    for step, copy in zip(steps, copies, strict=True):
        assert all(torch.equal({**step.obs, **step.info}[k], f) for k, f in copy.items())


@pytest.mark.parametrize("view", ["partial", "full"])
def test_rollouts_of_a_random_agent_obey_the_law(view):
    world = GridWorld(
        "MiniGrid-KeyCorridorS3R1-v0", num_envs=4, view=view, full_grid=True, max_steps=7
    )
    rollout = check(Runner(world, seed=1).collect(RandomActor(world.act_space), 20))
    assert rollout.truncated.sum() >= 8
    for fields, space in ((rollout.obs, world.obs_space), (rollout.info, world.info_space)):
        assert set(fields) == set(space.spaces)
        for name, field in fields.items():
            assert field.shape[2:] == space[name].shape
            assert space[name].contains(field[0, 0].numpy()[()])
    if view == "full":
        assert torch.equal(rollout.obs["image"], rollout.info["full_grid"])


@pytest.mark.parametrize(
    "action", [[0, 7], [-1, 0], [0], [0, 0, 0], [0.0, 1.0], [[0], [0]]], ids=str
)
def test_impossible_actions_are_refused(action):
    world = GridWorld("MiniGrid-Unlock-v0", num_envs=2)
    with pytest.raises(ValueError, match="action"):
        world.step(torch.tensor(action))


def test_a_task_of_other_backends_is_refused():
    with pytest.raises(ValueError, match="no task 'MiniGrid-FourRooms-v0'; envpool and python"):
        GridWorld("MiniGrid-FourRooms-v0")
    with pytest.raises(ValueError, match="did you mean 'MiniGrid-DoorKey-8x8-v0'"):
        GridWorld("MiniGrid-DorKey-8x8-v0")


def test_pictures_show_what_is_there():
    world = GridWorld("MiniGrid-MultiRoom-N4-S5-v1", num_envs=2)
    world.reset(0)
    picture = world.render(1)
    assert picture.dtype == np.uint8
    assert picture.shape == (25 * TILE, 25 * TILE, 3)
    x, y, heading = world._state["agent"][1].tolist()
    own = picture[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
    assert np.array_equal(own, tile(EMPTY, heading, True))
    before = picture.copy()
    world.step(torch.tensor([DONE, LEFT]))
    assert not np.array_equal(world.render(1), before)
    looks = [
        tile(code, heading, lit).tobytes()
        for code in (
            *(EMPTY, STONE, GOAL | GREEN << 4, KEY, BALL, BOX, BALL | BLUE << 4),
            *(DOOR | state << 7 for state in (OPEN, CLOSED, LOCKED)),
        )
        for heading in (-1, 0, 1, 2, 3)
        for lit in (False, True)
    ]
    assert len(set(looks)) == len(looks)


def test_the_package_knows_none_of_the_papers_ids():
    """Once it registers them, ours should give way."""
    for name in ("MultiRoom-N7-S4", "MultiRoom-N12-S10", "KeyCorridorS8R5", "KeyCorridorS10R7"):
        assert f"MiniGrid-{name}-v0" in TASKS
        assert f"MiniGrid-{name}-v0" not in gymnasium.registry


@pytest.mark.parametrize(
    ("front", "hand", "ends"),
    [
        (BALL | BLUE << 4, 0, True),
        (BALL | GREEN << 4, 0, False),
        (BOX | BLUE << 4, 0, False),
        (BALL | BLUE << 4, KEY | BLUE << 4, False),
    ],
)
def test_taking_the_target_and_nothing_else_ends_the_maze(front, hand, ends):
    world = GridWorld("MiniGrid-ObstructedMaze-1Dlhb-v0", num_envs=1)
    world.reset(0)
    (point,) = world.snapshots()
    point.arrays["grid"][:] = EMPTY
    point.arrays["grid"][5, 3] = front
    point.arrays["agent"][:] = torch.tensor([4, 3, 0])
    point.arrays["carrying"].fill_(hand)
    world.restore(torch.tensor([0]), [point])
    step = world.step(torch.tensor([PICKUP]))
    assert step.terminated.item() == ends
    assert (step.reward.item() > 0.9) == ends
