"""`MapMemory` around MiniGrid: true cells and poses, spaces, checkpoints and errors."""

import copy
import dataclasses
import functools

import gymnasium
import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import pytest
import torch
from slow_map import SlowMap, busy, envpool_of

from firstlight.agents.session.run_directory import checkpoint
from firstlight.envs.minigrid.map_memory import CHANNELS, MapMemory
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.types import Step, check
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.worlds.chain import Chain

WALL = (2, 5, 0)
TASKS = (
    *("DoorKey-8x8", "KeyCorridorS3R3", "ObstructedMaze-1Dlhb", "MultiRoom-N4-S5"),
    *("LavaCrossingS9N1", "RedBlueDoors-6x6"),
)


def mapped(task, *, num_envs=3, backend="envpool", size=15, show=True, **options):
    return MapMemory(bare(task, num_envs, backend, **options), size=size, show=show)


def python_mapped(task, **options):
    return mapped(task, backend="python", **options)


def bare(task, num_envs, backend="envpool", **options):
    task = f"MiniGrid-{task}-v0"
    if backend == "envpool":
        return envpool_of(task, num_envs=num_envs, **options)
    make = functools.partial(gymnasium.make, task, render_mode="rgb_array", **options)
    return GymVec([make] * num_envs)


def grids(vec):
    """True grids, [x, y] in MiniGrid's code, padded with walls, and positions of the agents."""
    envs = [env.unwrapped for env in vec._vec._vec.envs]
    margin = ((10, 10), (10, 10), (0, 0))
    padded = [np.pad(env.grid.encode(), margin, constant_values=255) for env in envs]
    for grid in padded:
        grid[grid[..., 0] == 255] = WALL
    return padded, np.array([env.agent_pos for env in envs])


def play(vec, actions):
    """Steps as nested lists."""
    steps = [vec.step(action) for action in actions]
    return [[plain(getattr(step, name)) for name in Step.__slots__] for step in steps]


def plain(part):
    return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()


@pytest.mark.parametrize("task", TASKS)
def test_the_tracked_pose_equals_the_true_pose(task):
    vec = mapped(task, num_envs=64, max_episode_steps=150)
    obs, info = vec.reset(0)
    start, numbers = info["agent_pos"].numpy(), np.random.default_rng(0)
    episodes, places = 64, set()
    for _ in range(400):
        step = vec.step(busy(obs["image"], numbers))
        obs = step.obs
        position, first = step.info["agent_pos"].numpy(), step.is_first.numpy()
        start = np.where(first[:, None], position, start)
        episodes += first.sum()
        pose = vec.pose()
        np.testing.assert_array_equal(pose[:, :2], position - start)
        np.testing.assert_array_equal(pose[:, 2], step.obs["direction"].numpy())
        places |= set(map(tuple, pose.tolist()))
    assert episodes > 150
    assert len(places) > 60


@pytest.mark.parametrize(
    "task",
    [
        *("DoorKey-6x6", "BlockedUnlockPickup", "ObstructedMaze-1Dlhb", "KeyCorridorS3R2"),
        *("Fetch-6x6-N2", "LavaCrossingS9N1", "MultiRoom-N2-S4"),
    ],
)
def test_known_cells_equal_the_true_grid(task):
    vec = python_mapped(task, max_steps=60)
    numbers = np.random.default_rng(0)
    obs, _ = vec.reset(3)
    changes = 0
    for _ in range(150):
        grid_of, positions = grids(vec)
        for n, grid in enumerate(grid_of):
            known = vec.chart(n)
            x, y = np.where(known[..., 0] > 0)
            offset = positions[n] - vec.pose()[n, :2] - 63 + 10
            np.testing.assert_array_equal(known[x, y], grid[x + offset[0], y + offset[1]])
            assert len(x) > 4
        step = vec.step(busy(obs["image"], numbers))
        obs = step.obs
        changes += int(step.info["new_changes"].sum())
    assert changes > 0 or task.startswith(("Fetch", "Lava"))


@pytest.mark.parametrize("backend", ["envpool", "python"])
def test_show_changes_only_the_observation(backend):
    inner = bare("DoorKey-5x5", 3, backend)
    hidden = mapped("DoorKey-5x5", show=False, backend=backend)
    shown = mapped("DoorKey-5x5", backend=backend)
    assert hidden.obs_space == inner.obs_space
    assert set(hidden.info_space) == {*inner.info_space, *CHANNELS}
    assert shown.info_space == hidden.info_space
    numbers = torch.Generator().manual_seed(0)
    answers = [vec.reset(1) for vec in (inner, hidden, shown)]
    assert plain(answers[0][0]) == plain(answers[1][0])
    for _ in range(300):
        action = torch.randint(7, (3,), generator=numbers)
        plainly, dark, light = (vec.step(action) for vec in (inner, hidden, shown))
        for name in set(Step.__slots__) - {"info", "final_info"}:
            assert plain(getattr(plainly, name)) == plain(getattr(dark, name)), name
        for name in set(Step.__slots__) - {"obs", "final_obs"}:
            assert plain(getattr(light, name)) == plain(getattr(dark, name)), name
        assert light.obs["direction"].tolist() == plainly.obs["direction"].tolist()


@pytest.mark.parametrize("backend", ["envpool", "python"])
def test_rollouts_follow_the_shape_law_and_the_spaces(backend):
    vec = mapped("DoorKey-5x5", backend=backend)
    rollout = check(Runner(vec).collect(RandomActor(vec.act_space), 260))
    for group, space in ((rollout.obs, vec.obs_space), (rollout.info, vec.info_space)):
        assert set(group) == set(space)
        for name, field in group.items():
            for row in field[::20].flatten(0, 1).numpy():
                assert space[name].contains(np.asarray(row)), name
    assert rollout.is_first[1:].any()
    for name in CHANNELS:
        assert rollout.info[name][rollout.is_first].sum() == 0
        assert rollout.next_info()[name].sum() > 0


def test_send_and_recv_equal_step_and_return_new_tensors():
    whole, halves = (mapped("DoorKey-5x5", max_episode_steps=9) for _ in range(2))
    for vec in (whole, halves):
        vec.reset(5)
    kept = []
    for t in range(40):
        action = torch.tensor([t % 3, 2, 5])
        expected = whole.step(action)
        halves.send(action)
        got = halves.recv()
        for name in Step.__slots__:
            assert plain(getattr(got, name)) == plain(getattr(expected, name)), name
        kept.append((got, plain(got.obs), plain(got.info)))
    assert all(plain(step.obs) == obs and plain(step.info) == info for step, obs, info in kept)


def test_a_loaded_checkpoint_continues_with_the_same_steps(tmp_path):
    numbers = torch.Generator().manual_seed(0)
    actions = torch.randint(7, (300, 3), generator=numbers)
    vec = python_mapped("DoorKey-5x5")
    assert vec.resume == "replay"
    vec.reset(2)
    before = play(vec, actions[:200])[-1]
    checkpoint.save(tmp_path, {"envs": vec.state_dict()}, 1)
    state = checkpoint.load(checkpoint.newest(tmp_path))["envs"]
    expected = play(vec, actions[200:])
    for other in (vec, python_mapped("DoorKey-5x5")):
        obs, info, lost = other.load_state_dict(copy.deepcopy(state))
        assert not lost.any()
        assert plain(obs) == before[0]
        assert {name: plain(info[name]) for name in CHANNELS} == {
            name: before[1][name] for name in CHANNELS
        }
        assert play(other, actions[200:]) == expected
    assert any(any(row[3]) or any(row[4]) for row in expected)  # across ends of episodes


def test_a_snapshot_restores_its_map_and_a_restarted_environment_clears_its_own():
    vec = python_mapped("DoorKey-6x6")
    vec.reset(1)
    numbers = torch.Generator().manual_seed(0)
    play(vec, torch.randint(7, (60, 3), generator=numbers))
    snapshots, charts, poses = vec.snapshots(), [vec.chart(n) for n in range(3)], vec.pose()
    play(vec, torch.randint(7, (60, 3), generator=numbers))
    stays = vec.chart(1)
    snapshots[2] = dataclasses.replace(snapshots[2], digest=1)  # so that the replay does not match
    obs, _, lost = vec.restore(torch.tensor([2, 0]), [snapshots[0], snapshots[2]])
    assert lost.tolist() == [False, True]
    np.testing.assert_array_equal(vec.chart(2), charts[0])
    np.testing.assert_array_equal(vec.pose()[2], poses[0])
    np.testing.assert_array_equal(vec.chart(1), stays)
    assert vec.pose()[0, :2].tolist() == [0, 0]
    view = vec._vec._vec.envs[0].unwrapped.gen_obs()["image"]
    begun = SlowMap(view, int(obs["direction"][1]))
    np.testing.assert_array_equal(vec.chart(0), begun.chart())
    with pytest.raises(ValueError, match=r"no arrays of a map memory: take it .* in MapMemory"):
        vec.restore(torch.tensor([0]), vec._vec.snapshots()[:1])


def test_envpool_refuses_snapshots():
    vec = mapped("DoorKey-5x5")
    assert vec.resume == "dropped"
    for method in (vec.snapshots, vec.state_dict):
        with pytest.raises(NotImplementedError, match="EnvPoolVec"):
            method()


def test_unsupported_environments_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"MiniGrid's view.*has obs Box\(0, 1"):
        MapMemory(Chain())
    inner = bare("Empty-5x5", 2)
    with pytest.raises(ValueError, match="size is 8"):
        MapMemory(inner, size=8)
    for size in (7, 15):
        with pytest.raises(ValueError, match=r"'new_cells' already|MiniGrid's view"):
            MapMemory(MapMemory(inner, size=size))
    inner.act_space = Chain().act_space
    with pytest.raises(ValueError, match="MiniGrid's actions"):
        MapMemory(inner)


def test_an_invalid_action_does_not_change_the_pose():
    vec = mapped("Empty-5x5", num_envs=2)
    vec.reset(0)
    with pytest.raises(ValueError, match="action"):
        vec.step(torch.tensor([2, 7]))
    assert vec.pose()[:, :2].tolist() == [[0, 0], [0, 0]]
    vec.step(torch.tensor([2, 6]))
    assert vec.pose()[:, :2].tolist() == [[1, 0], [0, 0]]


def test_render_and_close_are_those_of_the_environments():
    vec = mapped("Empty-5x5", num_envs=2)
    vec.enable_rendering()
    vec.reset(0)
    assert vec.render(1).shape == vec._vec.render(1).shape
    python = python_mapped("Empty-5x5", num_envs=1)
    python.enable_rendering()
    python.reset(0)
    assert python.render().ndim == 3
    for each in (vec, python):
        each.close()
        each.close()
