"""`Warehouse`: motion and sensors equal plain code, rewards, ends, seeds, snapshots, pictures."""

import cmath
import math

import numpy as np
import pytest
import torch
from python_kernels import use_python_kernels

from firstlight.envs import check_vec
from firstlight.envs.positions import position_channel
from firstlight.envs.types import Snapshot, Step
from firstlight.envs.worlds import warehouse, warehouse_kernels
from firstlight.envs.worlds.warehouse import LAYOUTS, MAX_STEPS, Warehouse

MODES = ("same_step", "next_step")
SCENES = tuple(MAX_STEPS)


def put(vec, **arrays):
    """Restore all environments with some arrays of their snapshots replaced."""
    changed = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    snapshots = [Snapshot(arrays={**p.arrays, **changed}) for p in vec.snapshots()]
    return vec.restore(torch.arange(vec.num_envs), snapshots)


def scattered(layout, count, seed=0):
    """Random poses [count, 3] of vehicles that touch nothing."""
    random, poses = np.random.default_rng(seed), []
    while len(poses) < count:
        x, y = random.uniform(0, layout.size)
        if gap(layout, x, y) > 0.4:
            poses.append([x, y, random.uniform(0, 2 * math.pi)])
    return np.array(poses)


def gap(layout, x, y):
    """Distance from a point to the nearest wall or rack, 0 inside of a rack."""
    nearest = np.clip([x, y], layout.racks[:, :2], layout.racks[:, 2:])
    width, height = layout.size
    return min(np.hypot(*(nearest - [x, y]).T).min(), x, y, width - x, height - y)


def inside(layout, points):
    """Which points [*, 2] are in a rack or outside of the hall."""
    point = points[..., None, :]
    racks = (point > layout.racks[:, :2]) & (point < layout.racks[:, 2:])
    return racks.all(-1).any(-1) | (points < 0).any(-1) | (points > layout.size).any(-1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scene": "simple_dynamic", "autoreset": "next_step"},
        {"scene": "complex_static", "target_view": "in_sight", "num_beams": 5},
        {
            "scene": "complex_dynamic",
            "target_view": "never",
            "on_collision": "end",
            "collision_reward": -1.0,
            "autoreset": "next_step",
        },
    ],
    ids=lambda options: options.get("scene", "default"),
)
def test_check_vec_passes(options):
    check_vec(Warehouse(3, max_steps=7, **options), steps=20, random=True)


def test_step_limits_are_the_published_ones():
    limits = [Warehouse(1, scene=scene).max_steps for scene in SCENES]
    assert dict(zip(SCENES, limits, strict=True)) == {
        "simple_static": 2000,
        "simple_dynamic": 2000,
        "complex_static": 3000,
        "complex_dynamic": 4000,
    }


def plain_move(layout, pose, speed, action):
    """Move one vehicle in 1,000 parts of a step. Returns pose, speed and whether it was stopped."""
    wanted = (0.5 + action[0], 1.5 * action[1])  # the middle of -0.5 and 1.5 m/s, and 1.5 rad/s
    v = max(speed[0] - 0.15, min(speed[0] + 0.15, wanted[0]))
    w = max(speed[1] - 0.4, min(speed[1] + 0.4, wanted[1]))
    place, heading = complex(*pose[:2]), pose[2]
    for _ in range(1000):
        place += v * 1e-4 * cmath.exp(1j * (heading + w * 5e-5))
        heading += w * 1e-4
    if gap(layout, place.real, place.imag) < 0.4:
        return [*pose[:2], heading % math.tau], [0.0, w], True
    return [place.real, place.imag, heading % math.tau], [v, w], False


def test_motion_equals_a_plain_loop():
    """At all speeds, in the open and where racks and walls stop vehicles."""
    vec, random = Warehouse(60, scene="complex_static"), np.random.default_rng(1)
    layout = vec.layout
    near = [p for p in scattered(layout, 900) if gap(layout, *p[:2]) < 0.5]
    pose = np.concatenate([scattered(layout, 20, seed=2), near])[:60]
    speed = random.uniform([-0.5, -1.5], [1.5, 1.5], (60, 2))
    action = random.uniform(-1, 1, (60, 2)).astype(np.float32)
    vec._pose, vec._speed = pose.copy(), speed.copy()
    vec.step(torch.from_numpy(action))
    stopped = []
    for n in range(60):
        now, speeds, contact = plain_move(layout, pose[n], speed[n], action[n].tolist())
        assert vec._pose[n] == pytest.approx(now, abs=1e-6)
        assert vec._speed[n] == pytest.approx(speeds, abs=1e-9)
        assert vec._contact[n] == contact
        stopped.append(contact)
    assert 5 <= sum(stopped) <= 40


def test_constant_speeds_give_a_circle():
    """At 1 m/s and 1.5 rad/s, of radius 2/3 m, closed after 2 pi / 1.5 s."""
    vec = Warehouse(1)
    put(vec, pose=[2.3, 10.0, 0.7], speed=[1.0, 1.5])
    for step in range(1, 42):
        vec.step(torch.tensor([[0.5, 1.0]]))
        angle = 0.7 + 0.15 * step
        x = 2.3 + (math.sin(angle) - math.sin(0.7)) / 1.5
        y = 10.0 - (math.cos(angle) - math.cos(0.7)) / 1.5
        assert vec._pose[0, :2] == pytest.approx([x, y], abs=1e-9)
    assert not vec._collisions.any()


@pytest.mark.parametrize("scene", ["simple_static", "complex_dynamic"])
def test_vehicles_never_overlap_racks_or_walls(scene):
    vec, g = Warehouse(32, scene=scene), torch.Generator().manual_seed(0)
    turns = torch.randn(32, generator=g) * 0.3
    for _ in range(400):
        noise = torch.randn(32, generator=g)
        vec.step(torch.stack([torch.ones(32), (turns + noise).clamp(-1, 1)], 1))
        assert min(gap(vec.layout, x, y) for x, y in vec._pose[:, :2]) >= 0.4 - 1e-9
    assert (vec._collisions > 0).sum() > 16


@pytest.mark.parametrize("kind", LAYOUTS)
def test_lidar_equals_brute_force_ray_casting(kind):
    """Points every 4 mm along each beam, up to the first in a rack or outside of the hall."""
    layout, beams, reach = LAYOUTS[kind], 16, 6.0
    vec = Warehouse(25, scene=f"{kind}_static", num_beams=beams, lidar_range=reach)
    vec._pose = scattered(layout, 25)
    vec._pose[:8, 2] = np.arange(8) * math.pi / 2  # along the axes
    lidar = vec._observe(vec._all)[0]["lidar"].numpy()
    far = np.arange(1, 1501) * 0.004
    for pose, measured in zip(vec._pose, lidar, strict=True):
        angle = pose[2] + np.arange(beams) * math.tau / beams
        ray = np.stack([np.cos(angle), np.sin(angle)], 1)[:, None] * far[:, None]
        blocked = inside(layout, pose[:2] + ray)
        first = np.where(blocked.any(1), far[blocked.argmax(1)], reach)
        missed = np.abs(measured * reach - first) > 0.0041
        grazes = [
            graze(layout, pose, angle[b], measured[b] * reach) for b in np.flatnonzero(missed)
        ]
        assert all(grazes)
    assert 0.2 < (lidar < 1).mean() < 0.98


def graze(layout, pose, angle, distance):
    """Whether a beam meets a corner of a rack so closely that points 4 mm apart can miss it."""
    end = pose[:2] + distance * np.array([math.cos(angle), math.sin(angle)])
    corners = layout.racks[:, [[0, 1], [0, 3], [2, 1], [2, 3]]].reshape(-1, 2)
    return np.hypot(*(corners - end).T).min() < 0.008


def test_turning_by_one_beam_shifts_the_lidar_and_turns_the_target():
    vec = Warehouse(30, scene="complex_static", num_beams=12)
    vec._pose = scattered(vec.layout, 30)
    before, _ = vec._observe(vec._all)
    vec._pose[:, 2] += math.tau / 12
    after, _ = vec._observe(vec._all)
    torch.testing.assert_close(after["lidar"], before["lidar"].roll(-1, 1), atol=1e-5, rtol=0)
    turned = torch.view_as_complex(before["target"][:, 1:].contiguous()) * cmath.exp(
        -2j * math.pi / 12
    )
    torch.testing.assert_close(
        after["target"][:, 1:], torch.view_as_real(turned), atol=1e-5, rtol=0
    )
    assert torch.equal(after["target"][:, 0], before["target"][:, 0])


def test_the_target_is_shown_relative_to_the_vehicle():
    vec = Warehouse(1)
    obs, info, _ = put(vec, pose=[17.5, 14.0, math.pi], speed=[0.75, -0.75])
    assert obs["target"][0].tolist() == pytest.approx([4 / math.hypot(20, 20), 0, -1], abs=1e-6)
    assert obs["motion"][0].tolist() == [0.5, -0.5]
    assert info["target_position"][0].tolist() == [17.5, 18]
    assert info["position"][0].tolist() == [17.5, 14]
    assert position_channel(vec.info_space) == "position"


def test_the_target_is_in_sight_where_no_point_of_the_line_is_in_a_rack():
    vec = Warehouse(150, scene="complex_static", target_view="in_sight", lidar_range=12.0)
    hidden = Warehouse(1, target_view="never").reset(0)[0]["target"]
    vec._pose = scattered(vec.layout, 150)
    shown = vec._observe(vec._all)[0]["target"]
    target = vec.layout.lane[0]
    share = np.linspace(0, 1, 3000)[:, None]
    seen = []
    for pose, fields in zip(vec._pose, shown, strict=True):
        line = pose[:2] + share * (target - pose[:2])
        near = math.dist(pose[:2], target) <= 12
        seen.append(near and not inside(vec.layout, line).any())
        assert bool(fields.any()) == seen[-1]
    assert 5 < sum(seen) < 75
    assert not hidden.any()


@pytest.mark.parametrize("autoreset", MODES)
def test_the_target_ends_an_episode_with_a_reward_of_one(autoreset):
    vec = Warehouse(2, autoreset=autoreset)
    put(vec, pose=[17.5, 17.4, 0.5 * math.pi], speed=[1.0, 0.0])
    step = vec.step(torch.tensor([[0.5, 0.0]] * 2))
    assert step.reward.tolist() == [1, 1]
    assert step.terminated.all()
    assert not step.truncated.any()
    ends = step.final_info if autoreset == "same_step" else step.info
    assert ends["success"].tolist() == [1, 1]
    following = step if autoreset == "same_step" else vec.step(torch.ones(2, 2))
    assert following.info["success"].tolist() == [0, 0]
    assert (following.info["position"] <= 3).all()
    assert following.obs["motion"].tolist() == [[0, 0]] * 2


@pytest.mark.parametrize(
    ("on_collision", "reward"), [("stop", 0.0), ("stop", -0.25), ("end", -1.0)]
)
def test_collisions_stop_the_vehicle_or_end_the_episode(on_collision, reward):
    vec = Warehouse(1, on_collision=on_collision, collision_reward=reward, autoreset="next_step")
    put(vec, pose=[3.9, 6.0, 0.0], speed=[1.5, 0.0])  # 0.6 m before a rack
    steps = [vec.step(torch.tensor([[1.0, 0.0]])) for _ in range(2)]
    assert [step.reward.item() for step in steps] == [0, reward]
    assert [step.terminated.item() for step in steps] == [False, on_collision == "end"]
    assert steps[1].info["collisions"].item() == 1
    assert steps[1].info["position"][0].tolist() == pytest.approx([4.05, 6.0])
    assert steps[1].obs["motion"][0, 0] == 0


def test_the_step_limit_truncates():
    vec = Warehouse(2, max_steps=3)
    steps = [vec.step(torch.zeros(2, 2)) for _ in range(4)]
    assert [step.truncated.tolist() for step in steps] == [[False] * 2] * 2 + [
        [True] * 2,
        [False] * 2,
    ]
    assert not any(step.terminated.any() or step.reward.any() for step in steps)


@pytest.mark.parametrize(("scene", "speed"), [("simple_dynamic", 0.3), ("complex_dynamic", 0.6)])
def test_a_moving_target_follows_its_lane(scene, speed):
    """Its places equal those of numpy's interpolation, and it turns round only if it should."""
    vec = Warehouse(50, scene=scene)
    layout, turns = vec.layout, 0
    sides = np.hypot(*np.diff(layout.corners, axis=0).T)
    ends = np.append(0, np.cumsum(sides))
    before, direction = vec._place.copy(), vec._direction.copy()
    assert before.std() > layout.lane_length / 5  # random places
    for _ in range(200):
        step = vec.step(torch.zeros(50, 2))
        moved = vec._place - before
        np.testing.assert_allclose(np.abs(moved), 0.1 * speed)
        turns += (np.sign(moved) != direction).sum()
        before, direction = vec._place.copy(), np.sign(moved)
        s = before % ends[-1]
        plain = np.stack([np.interp(s, ends, layout.corners[:, i]) for i in range(2)], 1)
        np.testing.assert_allclose(step.info["target_position"].numpy(), plain, atol=1e-5)
    expected = 50 if scene == "complex_dynamic" else 0  # 0.005 of 10,000
    assert abs(turns - expected) <= 4 * math.sqrt(expected)


def test_starts_are_in_the_bay_and_follow_the_seed():
    vec = Warehouse(400)
    _, info = vec.reset(5)
    place = info["position"]
    assert ((place >= 1.5) & (place <= 3)).all()
    for numbers in (*((place - 1.5) / 1.5).T, torch.from_numpy(vec._pose[:, 2] / math.tau)):
        assert torch.histc(numbers.float(), 4, 0, 1).min() > 70  # 100 expected
    assert torch.equal(vec.reset(5)[1]["position"], place)
    assert not torch.equal(vec.reset(None)[1]["position"], place)
    assert (vec.reset(6)[1]["position"] != place).all()


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("between", ["nothing", "steps", "reset"])
def test_restored_vehicles_continue_with_the_same_steps(autoreset, between):
    """Across ends of episodes, including later starts and turns of the target."""
    vec = Warehouse(3, scene="complex_dynamic", max_steps=8, autoreset=autoreset)
    actions = torch.rand(25, 3, 2, generator=torch.Generator().manual_seed(0))
    vec.reset(1)
    play(vec, actions[:5])
    state = vec.state_dict()
    expected = play(vec, actions[5:])
    if between == "steps":
        play(vec, actions[:4])
    if between == "reset":
        vec.reset(7)
    _, _, lost = vec.load_state_dict(state)
    assert not lost.any()
    assert play(vec, actions[5:]) == expected


def play(vec, actions):
    """Steps as nested lists."""

    def plain(part):
        return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()

    steps = [vec.step(action) for action in actions]
    return [[plain(getattr(step, name)) for name in Step.__slots__] for step in steps]


def test_render_shows_racks_target_and_vehicle():
    vec = Warehouse(2, scene="complex_static")
    put(vec, pose=[20.0, 15.0, 0.0])
    picture = vec.render(1)
    assert picture.shape == (480, 640, 3)
    for colour, x, y in [
        ((50, 90, 190), 20, 15),
        ((60, 160, 70), 28.5, 27),
        ((250, 215, 120), 20, 12.5),  # the beam to the right reaches the rack
        ((120, 120, 125), 20, 12),
    ]:
        here = (picture == colour).all(-1)
        assert here[
            479 - round(16 * y) - 8 : 479 - round(16 * y) + 8, round(16 * x) - 8 : round(16 * x) + 8
        ].any()
    grey = (picture == (120, 120, 125)).all(-1).mean()
    racks = (np.prod(vec.layout.racks[:, 2:] - vec.layout.racks[:, :2], 1)).sum() / 1200
    assert grey == pytest.approx(racks, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene": "simple"}, "scene is 'simple', expected one of simple_static"),
        ({"target_view": "seen"}, "target_view is 'seen', expected one of always"),
        ({"on_collision": "bounce"}, "on_collision is 'bounce', expected one of stop, end"),
        ({"num_beams": 0}, "num_beams 0"),
        ({"max_steps": 0}, "max_steps 0"),
        ({"lidar_range": 0.0}, "lidar_range 0.0"),
        ({"collision_reward": 1.0}, "collision_reward 1.0 at most 0"),
        ({"autoreset": "never"}, "'same_step' or 'next_step'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Warehouse(2, **options)


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (warehouse_kernels, warehouse):
        use_python_kernels(monkeypatch, module)
    test_motion_equals_a_plain_loop()
    test_turning_by_one_beam_shifts_the_lidar_and_turns_the_target()
    test_the_target_ends_an_episode_with_a_reward_of_one("same_step")
