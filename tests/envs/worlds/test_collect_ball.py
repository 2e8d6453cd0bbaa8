"""`CollectBall`: robots equal plain code, balls are taken and delivered, published numbers."""

import math

import numpy as np
import pytest
import torch
from plain_robot import PlainRobot, genome_actions, is_wall, to_pixel
from python_kernels import use_python_kernels

from firstlight.envs import CollectBall, Snapshot, check_vec
from firstlight.envs.worlds import collect_ball, collect_ball_kernels, robot_kernels
from firstlight.envs.worlds.robot_kernels import MARGIN

INNER = slice(MARGIN, -MARGIN)
STILL_OPEN, STILL_CLOSED = torch.tensor([[0.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]])


def put(world, **arrays):
    """Restore all environments with some arrays of their snapshots replaced."""
    changed = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    snapshots = [Snapshot(arrays={**p.arrays, **changed}) for p in world.snapshots()]
    return world.restore(torch.arange(world.num_envs), snapshots)


class PlainCollector(PlainRobot):
    """A robot, its balls and what it sees of them."""

    def __init__(self, walls, heading):
        super().__init__(walls, *collect_ball.DROP_ZONE, heading)
        self.drop = complex(*collect_ball.DROP_ZONE)
        self.balls, self.held = [complex(*ball) for ball in collect_ball.BALLS], None

    def step(self, left, right, grip):
        self.move(2 * left, 2 * right)
        if grip > 0 and self.held is None:
            near = [b for b, ball in enumerate(self.balls) if ball is not None]
            near = [b for b in near if abs(self.balls[b] - self.place) <= 10]
            if near:
                self.held, self.balls[near[0]] = near[0], None
        elif grip <= 0 and self.held is not None:
            delivered = abs(self.drop - self.place) <= 10
            if not delivered:
                self.balls[self.held] = self.place
            self.held = None
            return float(delivered)
        return 0.0

    def is_in_sight(self, light):
        """No wall pixel whose closed square touches the line between the two pixels."""
        (i, j), (a, b) = ((to_pixel(z.real), to_pixel(z.imag)) for z in (self.place, light))
        for p in range(min(i, a), max(i, a) + 1):
            for q in range(min(j, b), max(j, b) + 1):
                off = abs((a - i) * (q - j) - (b - j) * (p - i))
                if 2 * off <= abs(a - i) + abs(b - j) and is_wall(self.walls, p, q):
                    return False
        return True

    def sector(self, light, degrees):
        if light in (None, self.place) or not self.is_in_sight(light):
            return 0.0
        bearing = math.atan2((light - self.place).imag, (light - self.place).real) - self.heading
        off = math.remainder(bearing - math.radians(degrees), math.tau)
        return float(abs(off) <= math.radians(25))

    def sensors(self):
        balls = [max(self.sector(ball, side) for ball in self.balls) for side in (-20, 20)]
        drop = [self.sector(self.drop, side) for side in (20, -20)]
        lasers = [length / 100 for length in self.lasers()]
        return [*lasers, *self.bumpers, *balls, *drop, float(self.held is not None)]


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_check_vec_passes(autoreset):
    check_vec(CollectBall(3, max_steps=9, autoreset=autoreset), steps=30)


def test_robots_equal_a_plain_simulator(soak):
    """Random networks that see the sensors: equal sensors in each step, positions to 1e-9."""
    taken = 0
    for seed in soak.times(4, 1000):
        steps = 2000 if soak.full else 50
        heading = 45.0 if seed % 3 == 0 else -0.2 - seed
        world = CollectBall(1, max_steps=steps + 1, start_heading=heading)
        robot = PlainCollector(world.map.walls[INNER, INNER], heading)
        sensors = world.reset()[0]["sensors"][0].tolist()
        act = genome_actions(seed, steps, inputs=10, outputs=3, scale=1.0)
        for _ in range(steps):
            action = act(sensors)
            step = world.step(torch.from_numpy(action)[None])
            reward = robot.step(*action.astype(float))
            sensors = step.obs["sensors"][0].tolist()
            assert abs(complex(*world._pose[0, :2]) - robot.place) < 1e-9
            assert sensors == pytest.approx(robot.sensors(), abs=1e-6)
            assert step.reward.item() == reward
            taken += robot.held is not None
    assert taken or not soak.full


def test_a_ball_is_taken_carried_put_down_and_delivered():
    """The first ball in reach is taken, and only one."""
    world = CollectBall(1)
    put(world, pose=[232.0, 540.0, 0.0])
    step = world.step(STILL_CLOSED)
    assert world._states[0].tolist() == [0, 0, 1, 0, 0, 0]
    assert step.obs["sensors"][0, 9] == 1
    put(world, pose=[78.0, 536.0, 0.0])
    world.step(STILL_CLOSED)  # holds one already
    assert world._states[0].tolist() == [0, 0, 1, 0, 0, 0]
    assert world.step(STILL_OPEN).reward.item() == 0  # put down here
    assert world._places[0, 2].tolist() == [78, 536]
    world.step(STILL_CLOSED)
    assert world._states[0].tolist() == [0, 1, 0, 0, 0, 0]  # of two in reach the first
    put(world, pose=[100.0, 509.0, 0.0])
    step = world.step(STILL_OPEN)
    assert (step.reward.item(), step.info["delivered"].item()) == (1, 1)
    assert step.info["success"].item() == 1
    assert world.step(STILL_OPEN).reward.item() == 0
    assert world._states[0].tolist() == [0, 2, 0, 0, 0, 0]


def test_out_of_reach_nothing_happens():
    world = CollectBall(1)
    put(world, pose=[225.0, 529.9, 0.0])
    world.step(STILL_CLOSED)
    assert (world._states == 0).all()


def test_the_published_code_compares_the_position_before_the_move():
    for previous in (False, True):
        world = CollectBall(1, handle_previous_position=previous)
        put(world, pose=[225.0, 529.0, math.pi / 2])  # drives to 531, 9 units away
        world.step(torch.tensor([[1.0, 1.0, 1.0]]))
        assert bool((world._states == 1).any()) == (not previous)


def test_lights_are_in_sectors_and_not_behind_walls():
    world = CollectBall(1)
    facing = {
        0.0: [1, 1],  # straight ahead: both sectors
        math.radians(30): [1, 0],
        math.radians(-30): [0, 1],
        math.pi: [0, 0],
    }
    for heading, expected in facing.items():
        put(
            world, pose=[40.0, 75.0, heading], states=[0, 2, 2, 2, 2, 2]
        )  # a ball 35 units to the right
        sensors = world.step(STILL_OPEN).obs["sensors"][0]
        assert sensors[5:7].tolist() == expected
        assert sensors[7:9].tolist() == [0, 0]  # the bar hides the drop zone
    put(world, pose=[100.0, 450.0, math.pi / 2 - math.radians(30)])
    assert world.step(STILL_OPEN).obs["sensors"][0, 7:9].tolist() == [1, 0]  # to the right


def test_reachable_cells_are_the_published_ones():
    """2,123 of 2,500."""
    world = CollectBall(1)
    free = ~world.map.blocked[INNER, INNER]
    reached, front = np.zeros_like(free), [(33, 167)]
    reached[33, 167] = True
    while front:
        i, j = front.pop()
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                if free[i + a, j + b] and not reached[i + a, j + b]:
                    reached[i + a, j + b] = True
                    front.append((i + a, j + b))
    at = np.argwhere(reached) * 3
    offsets = np.array([(a, b) for a in (-1.5, 0, 1.49) for b in (-1.5, 0, 1.49)])
    cells = np.unique(((at[:, None] + offsets).reshape(-1, 2) // 12), axis=0)
    assert abs(len(cells) - 2123) <= 2


def test_the_end_and_a_new_episode():
    world = CollectBall(1, max_steps=2)
    put(world, pose=[225.0, 540.0, 0.0])
    assert not world.step(STILL_CLOSED).terminated.item()
    last = world.step(STILL_CLOSED)
    assert last.terminated.item()
    assert last.final_obs["sensors"][0, 9] == 1
    assert last.obs["sensors"][0, 9] == 0
    assert (world._states == 0).all()


def test_render_shows_balls_that_lie():
    world = CollectBall(2)
    put(world, pose=[300.0, 200.0, 0.0], states=[0, 2, 0, 0, 0, 0])
    picture = world.render(1)
    assert picture.shape == (600, 600, 3)
    assert picture[75, 75].tolist() == [230, 140, 30]
    assert picture[540, 75].tolist() != [230, 140, 30]
    assert picture[300, 10].tolist() == [90, 90, 90]


def test_invalid_options_are_refused():
    with pytest.raises(ValueError, match="max_steps 0"):
        CollectBall(2, max_steps=0)


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (robot_kernels, collect_ball_kernels, collect_ball):
        use_python_kernels(monkeypatch, module)
    test_a_ball_is_taken_carried_put_down_and_delivered()
    test_lights_are_in_sectors_and_not_behind_walls()
