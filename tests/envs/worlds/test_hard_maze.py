"""`HardMaze`: motion and sensors equal plain code, published distances, rewards, ends, pictures."""

import heapq
import math

import numpy as np
import pytest
import torch
from plain_robot import PlainRobot, genome_actions, plain_laser
from python_kernels import use_python_kernels

from firstlight.envs import HardMaze, Snapshot, check_vec
from firstlight.envs.positions import position_channel
from firstlight.envs.worlds import hard_maze, robot_kernels
from firstlight.envs.worlds.robot_kernels import MARGIN

INNER = slice(MARGIN, -MARGIN)
STEP_TO_WALL = torch.tensor([[1.0, 1.0]])


def walls_of(maze):
    return maze.map.walls[INNER, INNER]


def put(maze, **arrays):
    """Restore all environments with some arrays of their snapshots replaced."""
    changed = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    snapshots = [Snapshot(arrays={**p.arrays, **changed}) for p in maze.snapshots()]
    return maze.restore(torch.arange(maze.num_envs), snapshots)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_check_vec_passes(autoreset):
    check_vec(HardMaze(3, max_steps=9, max_travel=4.0, autoreset=autoreset), steps=30)


def test_robots_equal_a_plain_simulator(soak):
    """Random networks that see the sensors: equal sensors in each step, positions to 1e-9."""
    for seed in soak.times(24, 1000):
        steps = 2000 if soak.full else 70
        travel = 1.0 if seed % 2 else 4.0
        maze = HardMaze(1, max_steps=steps + 1, max_travel=travel)
        robot = PlainRobot(walls_of(maze), *hard_maze.START)
        sensors = maze.reset()[0]["sensors"][0].tolist()
        act = genome_actions(seed, steps)
        for _ in range(steps):
            action = act(sensors)
            if seed % 8 == 0:
                action = np.sign(action)  # straight lines and turns on the spot
            step = maze.step(torch.from_numpy(action)[None])
            robot.move(*(action.astype(float) * travel))
            sensors = step.obs["sensors"][0].tolist()
            assert abs(complex(*maze._pose[0, :2]) - robot.place) < 1e-9
            assert abs(math.remainder(maze._pose[0, 2] - robot.heading, math.tau)) < 1e-9
            expected = [*robot.lasers(), *robot.bumpers]
            assert maze._sensors[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_lasers_equal_all_touched_pixels_on_noise():
    """Also on walls of single pixels and along exact diagonals, where lines go through corners."""
    random = np.random.default_rng(3)
    walls = random.random((200, 200)) < 0.02
    clearance = robot_kernels.measure_clearance(np.pad(walls, MARGIN, constant_values=True))
    seen = set()
    for k in range(1500):
        x, y = random.uniform(0, 595, 2)
        turn = k % 24 * math.pi / 12 if k % 2 else random.uniform(-math.pi, math.pi)
        if walls[math.floor(x / 3 + 0.5), math.floor(y / 3 + 0.5)]:
            continue
        found = robot_kernels.measure(x, y, math.cos(turn), math.sin(turn), clearance)
        assert found == pytest.approx(plain_laser(walls, x, y, turn), abs=1e-9)
        seen.add(round(found))
    assert len(seen) > 40


def test_clearance_is_the_distance_in_kings_moves():
    walls = np.random.default_rng(0).random((30, 40)) < 0.01
    at = np.argwhere(walls)
    cells = np.argwhere(np.ones_like(walls))
    plain = np.abs(cells[:, None] - at).max(-1).min(1).reshape(walls.shape)
    assert np.array_equal(robot_kernels.measure_clearance(walls), plain)


def shortest_ways(blocked, start):
    """Length in units of the shortest way over 8 neighbours to each pixel, by Dijkstra."""
    far, queue = np.full(blocked.shape, np.inf), [(0.0, *start)]
    far[start] = 0
    while queue:
        gone, i, j = heapq.heappop(queue)
        if gone > far[i, j]:
            continue
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                length = gone + 3 * math.hypot(a, b)
                if not blocked[i + a, j + b] and length < far[i + a, j + b] - 1e-9:
                    far[i + a, j + b] = length
                    heapq.heappush(queue, (length, i + a, j + b))
    return far


def test_free_pixels_shortest_ways_and_reachable_cells_are_the_published_ones():
    """Of the published bitmap: 29,353 free pixels, 2,119 cells, 1,323 and 230 units to the goals.

    The walls here are fitted to it and have 29,347 free pixels.
    """
    maze = HardMaze(1)
    blocked = maze.map.blocked[INNER, INNER]
    assert (~blocked).sum() == 29_347
    far = shortest_ways(blocked, (20, 150))
    x, y = 3.0 * np.indices(far.shape)
    for (goal_x, goal_y, radius), edge, centre in zip(
        maze.goals, (1323, 230), (1372, 283), strict=True
    ):
        assert far[np.hypot(x - goal_x, y - goal_y) < radius].min() == pytest.approx(edge, rel=0.02)
        assert far[round(goal_x / 3), round(goal_y / 3)] == pytest.approx(centre, rel=0.02)
    reached = np.argwhere(np.isfinite(far)) * 3
    offsets = np.array([(a, b) for a in (-1.5, 0, 1.49) for b in (-1.5, 0, 1.49)])
    cells = np.unique(((reached[:, None] + offsets).reshape(-1, 2) // 12), axis=0)
    assert abs(len(cells) - 2119) <= 2


def test_the_reward_is_that_of_the_last_position_and_ends_the_episode():
    maze = HardMaze(1, max_steps=1, max_travel=4.0)
    put(maze, pose=[100.0, 220.0, -math.pi / 2])
    step = maze.step(torch.ones(1, 2))
    assert step.reward.item() == pytest.approx((50 - 16) / 50)  # 4 units nearer than before
    assert step.terminated.item()
    assert step.final_info["area"].item() == 2
    assert step.final_info["success"].item() == 1
    assert step.final_info["position"][0].tolist() == pytest.approx([100, 216])
    assert step.info["position"][0].tolist() == [60, 450]
    assert position_channel(maze.info_space) == "position"


def test_no_reward_before_the_last_step_or_outside_of_goals():
    maze = HardMaze(1, max_steps=2)
    put(maze, pose=[100.0, 200.0, 0.0])
    first = maze.step(torch.zeros(1, 2))
    assert (first.reward.item(), first.info["area"].item()) == (0, 2)
    put(maze, pose=[100.0, 251.0, math.pi / 2])
    last = maze.step(torch.zeros(1, 2))
    assert (last.reward.item(), last.terminated.item()) == (0, True)


def test_the_published_code_rewards_the_position_before_the_last_move():
    maze = HardMaze(1, max_steps=1, max_travel=4.0, reward_previous_position=True)
    put(maze, pose=[100.0, 220.0, -math.pi / 2])
    assert maze.step(torch.ones(1, 2)).reward.item() == pytest.approx((50 - 20) / 50)


def test_the_published_code_keeps_sensors_at_a_reset():
    """The first observation of all is 100 three times; a mended one sees the walls."""
    first = []
    for keep in (True, False):
        maze = HardMaze(1, max_steps=1, keep_sensors_at_reset=keep)
        assert maze.reset()[0]["sensors"][0].tolist() == [100, 100, 100, 0, 0]
        put(maze, pose=[17.0, 300.0, math.pi - 0.6])
        step = maze.step(STEP_TO_WALL)
        assert step.final_obs["sensors"][0, 3:].any()
        same = torch.equal(step.obs["sensors"], step.final_obs["sensors"])
        first.append((same, step.obs["sensors"][0].tolist()))
    assert [same for same, _ in first] == [True, False]
    assert first[1][1] == [100, 100, 100, 0, 0]


def test_a_stopped_robot_turns_and_reads_the_bumper_of_its_side():
    maze = HardMaze(1)
    for heading, expected in ((0.6, [1, 0]), (-0.6, [0, 1])):
        put(maze, pose=[580.4, 300.0, heading])  # before the wall on the right
        step = maze.step(torch.tensor([[0.9, 1.0]]))
        bumpers = step.obs["sensors"][0, 3:].tolist()
        assert step.info["position"][0].tolist() == pytest.approx([580.4, 300.0])
        assert maze._pose[0, 2] == pytest.approx(heading + 0.005)
        assert bumpers == expected


def test_laser_unit_scales_distances_alone():
    raw, scaled = HardMaze(1), HardMaze(1, laser_unit=100.0)
    for maze in (raw, scaled):
        put(maze, pose=[20.0, 20.0, -2.0])
    moved = [maze.step(STEP_TO_WALL).obs["sensors"][0].numpy() for maze in (raw, scaled)]
    np.testing.assert_allclose(moved[0] / [100, 100, 100, 1, 1], moved[1])
    assert moved[1].max() <= 1


def test_render_shows_walls_goals_and_robot():
    maze = HardMaze(2)
    put(maze, pose=[300.0, 200.0, 0.0])
    picture = maze.render(1)
    assert picture.shape == (600, 600, 3)
    assert picture[200, 305].tolist() == [255, 255, 255]
    assert picture[204, 300].tolist() == [50, 90, 190]
    assert picture[300, 174].tolist() == [90, 90, 90]
    green = np.argwhere((picture == (60, 160, 70)).all(-1))
    assert green.min(0).tolist() == [10, 10]


def test_the_pose_is_seen_in_shares_of_the_maze_and_beside_the_sensors():
    maze = HardMaze(2, observe_pose=True, max_steps=40)
    obs, _, _ = put(maze, pose=[150.0, 300.0, math.pi / 2])
    assert obs["pose"][1].tolist() == pytest.approx([0.25, 0.5, 0.0, 1.0], abs=1e-6)
    plain = HardMaze(2)
    assert torch.equal(put(plain, pose=[150.0, 300.0, math.pi / 2])[0]["sensors"], obs["sensors"])
    assert "pose" not in plain.obs_space.spaces
    check_vec(maze)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps 0"),
        ({"max_travel": 5.0}, "max_travel 5.0"),
        ({"laser_unit": 0.0}, "laser_unit 0.0"),
        ({"autoreset": "never"}, "'same_step' or 'next_step'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HardMaze(2, **options)


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (robot_kernels, hard_maze):
        use_python_kernels(monkeypatch, module)
    test_a_stopped_robot_turns_and_reads_the_bumper_of_its_side()
    test_the_reward_is_that_of_the_last_position_and_ends_the_episode()
