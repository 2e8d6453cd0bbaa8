"""`RedundantArm`: motion equals plain code, illegal moves, rewards and their published timing."""

import cmath
import math

import numpy as np
import pytest
import torch
from python_kernels import use_python_kernels

from firstlight.envs import RedundantArm, Snapshot, check_vec
from firstlight.envs.worlds import redundant_arm, redundant_arm_kernels


def put(arm, **arrays):
    """Restore all environments with some arrays of their snapshots replaced."""
    changed = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    snapshots = [Snapshot(arrays={**p.arrays, **changed}) for p in arm.snapshots()]
    return arm.restore(torch.arange(arm.num_envs), snapshots)


def points_of(angles):
    """Points [21] of an arm as complex numbers."""
    steps = 0.05 * np.exp(1j * (math.pi / 2 + np.cumsum(angles)))
    return 0.5 + 0.5j + np.append(0, np.cumsum(steps))


def plain_step(angles, speeds, action):
    """Two moves of 0.01 s. Returns angles, speeds and whether one was illegal."""
    for _ in range(2):
        new = angles + speeds * 0.01 + action / 2 * 0.01**2
        points, before = points_of(new), points_of(angles)
        x, y = points.real, points.imag
        far = ((x < 0) | (x >= 1) | (y < 0) | (y >= 1)).any()
        wall = any(
            ((x > a) & (x < a + w) & (y > b) & (y < b + h)).any()
            for a, b, w, h in redundant_arm.WALLS
        )
        gaps = np.abs(x[:, None] - x) + np.abs(y[:, None] - y) + np.eye(21)
        fast = abs(points[-1] - before[-1]) / 2 + (new[-1] - angles[-1]) / 0.01 > 1
        if far or wall or gaps.min() < 0.0475 or fast:
            return angles, speeds, True
        speeds, angles = (new - angles) / 0.01, new
    return angles, speeds, False


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_check_vec_passes(autoreset):
    check_vec(RedundantArm(3, max_steps=9, autoreset=autoreset), steps=30)


def test_arms_equal_a_plain_simulator(soak):
    """Random networks that see the angles: equal positions to 1e-9, and equal ends."""
    ends = 0
    for seed in soak.times(24, 1000):
        random = np.random.default_rng(seed)
        weights, offset = random.normal(size=(20, 20)), random.normal(size=20) * 2
        arm = RedundantArm(1, max_steps=250, autoreset="next_step")
        angles, speeds = np.linspace(math.pi / 5, math.pi / 20, 20), np.zeros(20)
        for _ in range(249):
            action = np.tanh(weights @ angles / math.pi + offset).astype(np.float32)
            step = arm.step(torch.from_numpy(action)[None])
            angles, speeds, illegal = plain_step(angles, speeds, action.astype(float))
            np.testing.assert_allclose(arm._angles[0], angles, atol=1e-12)
            np.testing.assert_allclose(arm._speeds[0], speeds, atol=1e-9)
            tip = points_of(angles)[-1]
            assert abs(complex(*arm._tips[0]) - tip) < 1e-9
            assert step.terminated.item() == illegal
            inside = any(abs(tip - complex(x, y)) < r for x, y, r in redundant_arm.GOALS)
            assert step.reward.item() == (illegal and inside)
            if illegal:
                ends += 1
                break
    assert ends > soak.repeats / 4


def test_the_start_is_the_published_one():
    _, info = RedundantArm(1).reset()
    assert info["position"][0].tolist() == pytest.approx([0.3065, 0.6917], abs=5e-5)


def test_no_joint_turns_by_more_than_a_radian_in_a_hundred_steps():
    """Speeds grow by half of the acceleration only: 200 moves, 200² / 4 · 0.01² + … = 1.005 rad."""
    angle = speed = 0.0
    for _ in range(200):
        new = angle + speed * 0.01 + 0.5 * 0.01**2
        angle, speed = new, (new - angle) / 0.01
    assert angle == pytest.approx(1.005, abs=1e-9)
    arm = RedundantArm(1)
    put(arm, angles=in_area())
    alone = torch.zeros(1, 20)
    alone[0, 19] = 1.0
    turned, speed = in_area()[19], 0.0
    for _ in range(10):
        arm.step(alone)
        for _ in range(2):
            turned, speed = turned + speed * 0.01 + 0.5 * 0.01**2, speed + 0.5 * 0.01
    assert arm._angles[0, 19] == pytest.approx(turned, abs=1e-12)


def in_area():
    """Angles of a legal arm in the form of an S, whose tip is in the area at (0.85, 0.85)."""
    half = np.linspace(-1.7, 1.7, 10)
    headings = math.pi / 4 + np.append(half, half[::-1])
    angles = np.diff(headings, prepend=math.pi / 2)
    assert abs(points_of(angles)[-1] - (0.85 + 0.85j)) < 0.04
    assert not plain_step(angles, np.zeros(20), np.zeros(20))[2]
    return angles


@pytest.mark.parametrize("pays", [False, True])
def test_the_end_of_time_is_rewarded_only_on_request(pays):
    arm = RedundantArm(1, max_steps=1, reward_at_timeout=pays)
    put(arm, angles=in_area())
    step = arm.step(torch.zeros(1, 20))
    assert step.terminated.item()
    assert step.reward.item() == pays
    assert step.final_info["area"].item() == 2
    assert step.final_info["success"].item() == pays


def test_an_illegal_move_in_an_area_is_rewarded_and_not_made():
    arm = RedundantArm(1)
    angles, speeds = in_area(), np.zeros(20)
    speeds[19] = 1.5  # more than is legal
    put(arm, angles=angles, speeds=speeds, tips=np.array([0.85, 0.85]))
    step = arm.step(torch.zeros(1, 20))
    assert (step.reward.item(), step.terminated.item()) == (1, True)
    assert step.final_info["position"][0].tolist() == pytest.approx([0.85, 0.85])
    assert step.info["success"].item() == 0


@pytest.mark.parametrize(
    "points",
    [
        [(0.5, 0.1)],  # inside of a wall
        [(1.0, 0.3)],
        [(0.3, -0.001)],
        [(0.3, 0.3), (0.32, 0.327)],  # too close to each other
    ],
)
def test_illegal_points(points):
    legal = [(0.3, 0.35), (0.49, 0.1), (0.35, 0.35)]  # the second on the edge of a wall
    walls = np.array(redundant_arm.WALLS)
    assert redundant_arm_kernels.is_legal(np.array(legal), walls)
    assert not redundant_arm_kernels.is_legal(np.array(legal[:1] + points), walls)


def test_render_shows_arm_and_tip():
    arm = RedundantArm(2)
    picture = arm.render(1)
    x, y = arm._tips[1]
    assert picture.shape == (500, 500, 3)
    assert picture[int(500 * (1 - y)), int(500 * x)].tolist() == [205, 60, 50]
    assert picture[450, 250].tolist() == [90, 90, 90]
    blue = (picture == (50, 90, 190)).all(-1)
    assert 0 < blue.mean() < 0.05


def test_invalid_options_are_refused():
    with pytest.raises(ValueError, match="max_steps 0"):
        RedundantArm(2, max_steps=0)


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (redundant_arm_kernels, redundant_arm):
        use_python_kernels(monkeypatch, module)
    test_an_illegal_move_in_an_area_is_rewarded_and_not_made()
    test_the_start_is_the_published_one()
    assert cmath.isclose(points_of(np.zeros(20))[-1], 0.5 + 1.5j)
