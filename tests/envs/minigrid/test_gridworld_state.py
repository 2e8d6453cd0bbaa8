"""Seeds, ends of episodes, saved state, pictures and errors of `GridWorld`."""

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


def test_equal_seeds_give_equal_episodes():
    def record(seed):
        vec = GridWorld("MiniGrid-KeyCorridorS3R2-v0", num_envs=3, full_grid=True, max_steps=5)
        _, info = vec.reset(seed)
        shown = [info["full_grid"]]
        for t in range(12):
            shown.append(vec.step(torch.full((3,), t % 3)).info["full_grid"])
        return torch.stack(shown)

    first = record(1)
    assert torch.equal(first, record(1))
    assert not torch.equal(first, record(2))


def test_more_environments_do_not_change_the_levels_of_the_first_ones():
    few, many = (GridWorld("MiniGrid-DoorKey-8x8-v0", num_envs=N, full_grid=True) for N in (2, 5))
    grids = [vec.reset(4)[1]["full_grid"] for vec in (few, many)]
    assert torch.equal(grids[0], grids[1][:2])


def test_levels_differ_between_environments_and_episodes():
    vec = GridWorld("MiniGrid-MultiRoom-N6-v0", num_envs=48, full_grid=True, max_steps=1)
    grids = [vec.reset(seed)[1]["full_grid"] for seed in range(3)]
    still = torch.full((48,), DONE)
    grids += [vec.step(still).info["full_grid"] for _ in range(3)]
    assert len({grid.numpy().tobytes() for grid in torch.cat(grids)}) == 6 * 48


def test_an_end_gives_the_last_observation_and_the_next_level():
    vec = GridWorld("MiniGrid-DoorKey-5x5-v0", num_envs=2, full_grid=True, max_steps=3)
    vec.reset(0)
    for t in range(6):
        before = vec._state["agent"].copy()
        step = vec.step(torch.tensor([RIGHT, DONE]))
        last = t % 3 == 2
        assert step.truncated.tolist() == [last, last]
        assert step.is_first.tolist() == [last, last]
        assert step.final_ids.tolist() == ([0, 1] if last else [])
        assert step.valid.all()
        if last:
            assert step.final_obs["direction"].tolist() == [(before[0, 2] + 1) % 4, before[1, 2]]
            assert step.final_info["agent_pos"].tolist() == before[:, :2].tolist()
            assert step.obs["direction"].tolist() == vec._state["agent"][:, 2].tolist()


def test_a_goal_at_the_step_limit_terminates():
    vec = GridWorld("MiniGrid-MultiRoom-N2-S4-v0", num_envs=1, max_steps=1)
    vec.reset(0)
    (snapshot,) = vec.snapshots()
    snapshot.arrays["grid"][:] = EMPTY
    snapshot.arrays["grid"][5, 5] = GOAL | GREEN << 4
    snapshot.arrays["agent"][:] = torch.tensor([4, 5, 0])
    vec.restore(torch.tensor([0]), [snapshot])
    step = vec.step(torch.tensor([FORWARD]))
    assert (step.terminated.item(), step.truncated.item()) == (True, False)
    assert step.reward.item() == pytest.approx(0.1)


def test_a_loaded_state_continues_with_the_same_steps():
    def play(vec, steps):
        g = torch.Generator().manual_seed(steps)
        fields = []
        for _ in range(steps):
            step = vec.step(torch.randint(0, 7, (4,), generator=g))
            fields.append((step.obs["image"], step.info["full_grid"], step.reward, step.is_first))
        return fields

    task = "MiniGrid-MultiRoomNoisyTV-N7-S4-v0"
    vec, other = (GridWorld(task, num_envs=4, full_grid=True, max_steps=20) for _ in range(2))
    vec.reset(1)
    last = play(vec, 13)[-1][1]
    state = vec.state_dict()
    expected = play(vec, 40)
    _, info, lost = other.load_state_dict(state)
    assert not lost.any()
    assert torch.equal(info["full_grid"], last)
    for one, again in zip(expected, play(other, 40), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_restore_sets_environments_back_to_snapshots():
    vec = GridWorld("MiniGrid-DoorKey-8x8-v0", num_envs=3, full_grid=True)
    vec.reset(0)
    snapshots = vec.snapshots()
    before = vec._observe(vec._all)["full_grid"]
    for t in range(10):
        vec.step(torch.full((3,), t % 3))
    ids = torch.tensor([2, 0])
    _, info, lost = vec.restore(ids, [snapshots[2], snapshots[1]])
    assert not lost.any()
    assert np.array_equal(info["full_grid"], before[[2, 1]])
    assert np.array_equal(vec._observe(vec._all)["full_grid"][[2, 0]], before[[2, 1]])
    with pytest.raises(ValueError, match="has no arrays"):
        vec.restore(ids, [Snapshot(seed=0), Snapshot(seed=1)])


def test_returned_tensors_do_not_change_later():
    vec = GridWorld("MiniGrid-MultiRoom-N2-S4-v0", num_envs=4, full_grid=True, max_steps=3)
    vec.reset(0)
    steps = [vec.step(torch.full((4,), t % 3)) for t in range(5)]
    copies = [{k: f.clone() for k, f in {**s.obs, **s.info}.items()} for s in steps]
    for t in range(9):
        vec.step(torch.full((4,), (t + 1) % 3))
    for step, copy in zip(steps, copies, strict=True):
        assert all(torch.equal({**step.obs, **step.info}[k], f) for k, f in copy.items())


@pytest.mark.parametrize("view", ["partial", "full"])
def test_rollouts_follow_the_shape_law_and_the_spaces(view):
    vec = GridWorld(
        "MiniGrid-KeyCorridorS3R1-v0", num_envs=4, view=view, full_grid=True, max_steps=7
    )
    rollout = check(Runner(vec, seed=1).collect(RandomActor(vec.act_space), 20))
    assert rollout.truncated.sum() >= 8
    for fields, space in ((rollout.obs, vec.obs_space), (rollout.info, vec.info_space)):
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
    vec = GridWorld("MiniGrid-Unlock-v0", num_envs=2)
    with pytest.raises(ValueError, match="action"):
        vec.step(torch.tensor(action))


def test_a_task_of_other_backends_is_refused():
    with pytest.raises(ValueError, match="no task 'MiniGrid-FourRooms-v0'; envpool and python"):
        GridWorld("MiniGrid-FourRooms-v0")
    with pytest.raises(ValueError, match="did you mean 'MiniGrid-DoorKey-8x8-v0'"):
        GridWorld("MiniGrid-DorKey-8x8-v0")


def test_pictures_show_agent_and_objects():
    vec = GridWorld("MiniGrid-MultiRoom-N4-S5-v1", num_envs=2)
    vec.reset(0)
    picture = vec.render(1)
    assert picture.dtype == np.uint8
    assert picture.shape == (25 * TILE, 25 * TILE, 3)
    x, y, heading = vec._state["agent"][1].tolist()
    own = picture[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
    assert np.array_equal(own, tile(EMPTY, heading, True))
    before = picture.copy()
    vec.step(torch.tensor([DONE, LEFT]))
    assert not np.array_equal(vec.render(1), before)
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


def test_the_package_registers_none_of_the_papers_ids():
    """If this fails, remove ours from `TASKS`."""
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
def test_only_taking_the_target_ends_the_maze(front, hand, ends):
    vec = GridWorld("MiniGrid-ObstructedMaze-1Dlhb-v0", num_envs=1)
    vec.reset(0)
    (snapshot,) = vec.snapshots()
    snapshot.arrays["grid"][:] = EMPTY
    snapshot.arrays["grid"][5, 3] = front
    snapshot.arrays["agent"][:] = torch.tensor([4, 3, 0])
    snapshot.arrays["carrying"].fill_(hand)
    vec.restore(torch.tensor([0]), [snapshot])
    step = vec.step(torch.tensor([PICKUP]))
    assert step.terminated.item() == ends
    assert (step.reward.item() > 0.9) == ends
