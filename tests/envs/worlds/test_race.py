"""`Race`: motion equal to plain Python, track, ends and rewards, snapshots."""

import cmath
import math

import numpy as np
import pytest
import torch
from python_kernels import use_python_kernels

from firstlight.envs import check_vec
from firstlight.envs.types import Snapshot, Step
from firstlight.envs.worlds import race, race_kernels
from firstlight.envs.worlds.race import STRETCH, Race
from firstlight.envs.worlds.race_track import Track

MODES = ("same_step", "next_step")
SQUARE = [(0, 0, 1), (4, 0, 1), (4, 4, 1), (0, 4, 1)]
CAR = {  # Liniger et al. 2015, the 1:43 car; `MASS` and so on as in its published parameter file
    **{"MASS": 0.041, "INERTIA": 27.8e-6, "FRONT": 0.029, "REAR": 0.033},
    **{"BF": 2.579, "CF": 1.2, "DF": 0.192, "BR": 3.3852, "CR": 1.2691, "DR": 0.1737},
    **{"CM1": 0.287, "CM2": 0.0545, "CR0": 0.0518, "CR2": 0.00035},
}


def forces(vx, vy, r, throttle, steer):
    """Published forces of drive, front and rear tyres in N, for a car that rolls forwards."""
    slip_front = steer - math.atan2(vy + 0.029 * r, vx)
    slip_rear = -math.atan2(vy - 0.033 * r, vx)
    return (
        0.287 * throttle - 0.0545 * vx * throttle - 0.0518 - 0.00035 * vx**2,
        0.192 * math.sin(1.2 * math.atan(2.579 * slip_front)),
        0.1737 * math.sin(1.2691 * math.atan(3.3852 * slip_rear)),
    )


def slow_forces(vx, vy, r, throttle, steer):
    """Forces at any speed: slip angles at 0.3 m/s or more, braking that fades."""

    def slip(wheel):
        return -math.atan(wheel.imag / max(abs(wheel.real), 0.3))

    front = slip(complex(vx, vy + 0.029 * r) * cmath.exp(-1j * steer))
    rear = slip(complex(vx, vy - 0.033 * r))
    motor = (0.287 - 0.0545 * vx) * throttle
    grip = max(-1, min(1, vx / 0.1))
    brake = 0.0518 + (-motor if motor < 0 else 0)
    return (
        (motor if motor > 0 else 0) - brake * grip - 0.00035 * vx * abs(vx),
        0.192 * math.sin(1.2 * math.atan(2.579 * front)),
        0.1737 * math.sin(1.2691 * math.atan(3.3852 * rear)),
    )


def body(vx, vy, r, throttle, steer, law=slow_forces):
    """Time derivatives of vx, vy and r."""
    drive, front, rear = law(vx, vy, r, throttle, steer)
    return (
        (drive - front * math.sin(steer) + 0.041 * vy * r) / 0.041,
        (rear + front * math.cos(steer) - 0.041 * vx * r) / 0.041,
        (front * 0.029 * math.cos(steer) - rear * 0.033) / 27.8e-6,
    )


def runge_kutta(slope, state, seconds, parts):
    h = seconds / parts
    for _ in range(parts):
        k1 = slope(state)
        k2 = slope([x + h / 2 * k for x, k in zip(state, k1, strict=True)])
        k3 = slope([x + h / 2 * k for x, k in zip(state, k2, strict=True)])
        k4 = slope([x + h * k for x, k in zip(state, k3, strict=True)])
        rates = zip(state, k1, k2, k3, k4, strict=True)
        state = [x + h / 6 * (a + 2 * b + 2 * c + d) for x, a, b, c, d in rates]
    return state


def on_road(track, state, throttle, steer):
    """Integrate a state s, d, mu, vx, vy, r for 0.005 s."""

    def slope(state, kappa):
        _, d, mu, vx, vy, r = state
        onward = (vx * math.cos(mu) - vy * math.sin(mu)) / (1 - kappa * d)
        aside = vx * math.sin(mu) + vy * math.cos(mu)
        return [onward, aside, r - kappa * onward, *body(vx, vy, r, throttle, steer)]

    here = next(i for i, end in enumerate(track.ends) if state[0] % track.length < end)
    far = slope(state, track.curvature[here])[0] * 0.005
    turn = np.diff(track.heading(np.array([state[0], state[0] + far])))[0]
    kappa = turn / far if far else track.curvature[here]
    return runge_kutta(lambda now: slope(now, kappa), state, 0.005, 1)


def moved(cars, inputs, track=None, width=9.0, finish=1e9, parts=6):
    """Call the kernel `drive` on a copy of `cars`."""
    track = track or Track()
    cars = np.array(cars, np.float64)
    road = (track.ends, track.curvature, width, finish)
    race_kernels.drive(cars, np.array(inputs, np.float64), *road, 0.03, parts)
    return cars


def driver(obs, speed=1.8):
    """Actions [N, 2] that steer to the middle and brake before bends."""
    off, sine, _, vx = obs["car"][:, :4].unbind(1)
    bend = obs["road"][:, :2].mean(1) / 0.2855
    steer = torch.atan(0.062 * bend) - sine - 0.25 * off
    slow = 1.6 - obs["road"][:, :6].abs().amax(1)
    return torch.stack([2 * (speed * slow - 2 * vx), steer / 0.35], 1).clamp(-1, 1)


def put(vec, **arrays):
    """Restore all environments with some arrays of their snapshots replaced."""
    snapshots = [Snapshot(arrays={**p.arrays, **arrays}) for p in vec.snapshots()]
    return vec.restore(torch.arange(vec.num_envs), snapshots)


def car(*state):
    return torch.tensor([*state, *[0.0] * (6 - len(state))], dtype=torch.float64)


@pytest.mark.parametrize("autoreset", MODES)
def test_check_vec_passes(autoreset):
    check_vec(Race(4, horizon=9, autoreset=autoreset), random=True)


def test_constants_equal_the_published_ones():
    assert {name: getattr(race_kernels, name) for name in CAR} == CAR


def test_motion_equals_a_plain_loop():
    """At all speeds, forwards, backwards, spinning and at rest, on straights and in bends."""
    random, track = np.random.default_rng(0), Track()
    cars = random.uniform([0, -0.18, -3, -0.5, -1, -8], [33, 0.18, 3, 3.5, 1, 8], (60, 6))
    cars[::6, 3:] *= 0.05
    cars[::12, 3:] = 0
    inputs = random.uniform([-1, -0.35], [1, 0.35], (60, 2))
    now = moved(cars, inputs, track)
    for before, after, (throttle, steer) in zip(cars, now, inputs, strict=True):
        plain = before.tolist()
        for _ in range(6):
            plain = on_road(track, plain, throttle, steer)
        assert after == pytest.approx(plain, rel=1e-9, abs=1e-9)


def test_above_walking_speed_forces_equal_the_published_ones():
    random = np.random.default_rng(1)
    for vx, vy, r, throttle, steer in random.uniform(
        [0.5, -0.2, -3, -1, -0.35], [3.5, 0.2, 3, 1, 0.35], (200, 5)
    ):
        state = (vx, vy, r, throttle, steer)
        assert slow_forces(*state) == pytest.approx(forces(*state), rel=1e-12)


def test_on_a_straight_at_constant_speed_s_grows_by_v_dt():
    """At the throttle that balances the resistance."""
    for v in (0.5, 1.5, 3.0):
        throttle = (0.0518 + 0.00035 * v * v) / (0.287 - 0.0545 * v)
        (after,) = moved([[0.1, 0.05, 0, v, 0, 0]], [[throttle, 0]])
        assert after == pytest.approx([0.1 + v * 0.03, 0.05, 0, v, 0, 0], abs=1e-9)


def test_a_car_at_rest_stays_for_any_steering_and_brakes():
    rest = [[1.0, 0.1, 0.3, 0, 0, 0]] * 3
    assert moved(rest, [[0, 0.35], [-1, -0.35], [0, 0]]) == pytest.approx(np.array(rest))


def test_brakes_stop_a_car_without_rolling_back():
    cars, speeds = np.array([[0.0, 0, 0, 2.0, 0, 0]]), []
    for _ in range(60):
        cars = moved(cars, [[-1, 0]])
        speeds.append(cars[0, 3])
    assert speeds == sorted(speeds, reverse=True)
    assert 0 <= speeds[-1] < 1e-6
    assert cars[0, 0] == pytest.approx(2**2 / (2 * 0.29 / 0.041), rel=0.1)


@pytest.mark.parametrize("track", [Track(), Track(SQUARE, length=None), Track(SQUARE[::-1])])
def test_the_track_is_closed(track):
    """Integrating the curvature in 400,000 steps gives one full turn, and the start."""
    ds = track.length / 400_000
    s = (np.arange(400_000) + 0.5) * ds
    bend = track.curvature[track.part(s)]
    assert abs(bend.sum() * ds) == pytest.approx(2 * math.pi, abs=1e-3)
    heading = track.heading(np.zeros(1)) + np.cumsum(bend) * ds
    place = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * ds, 0)
    assert place[-1] == pytest.approx([0, 0], abs=2e-3)
    start = track.position(np.zeros(1), np.zeros(1))
    shown = track.position(s[::1000] + ds / 2, np.zeros(400)) - start
    assert np.abs(shown - place[::1000]).max() < 2e-3


def test_the_lap_has_the_papers_length_and_the_road_does_not_overlap():
    vec = Race(1)
    assert (vec.track.length, vec.finish, vec.cells) == (16.4, 16.4, 1640)
    s = np.arange(0, 16.4, 0.02)
    place = vec.track.position(s, 0 * s)
    near = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
    apart = (s[:, None] - s) % 16.4
    far = (apart > 1.2) & (apart < 16.4 - 1.2)
    assert near[far].min() > 2 * vec.half_width


def test_s_and_d_refer_to_the_nearest_point_of_the_centre_line():
    track, random = Track(), np.random.default_rng(2)
    s, d = random.uniform(0, 16.4, 40), random.uniform(-0.18, 0.18, 40)
    grid = np.arange(0, 16.4, 0.001)
    line = track.position(grid, 0 * grid)
    for place, ahead, aside in zip(track.position(s, d), s, d, strict=True):
        away = np.hypot(*(line - place).T)
        assert away.min() == pytest.approx(abs(aside), abs=2e-4)
        nearest = grid[away.argmin()]
        assert abs((nearest - ahead + 8.2) % 16.4 - 8.2) < 2e-3
        toward = track.heading(np.array([nearest]))[0]
        x, y = place - line[away.argmin()]
        left = math.cos(toward) * y - math.sin(toward) * x
        assert left == pytest.approx(aside, abs=1e-5)


def test_a_lap_equals_motion_integrated_in_cartesian_coordinates():
    """x, y and heading are integrated without the track."""
    vec = Race(1)
    obs, info = vec.reset(4)
    free = [*info["position"][0].tolist(), 0.0, 0.0, 0.0, 0.0]
    errors = []
    for _ in range(600):
        action = driver(obs)
        throttle, steer = action[0].double() * torch.tensor([1, 0.35]).double()

        def slope(state, throttle=float(throttle), steer=float(steer)):
            _, _, phi, vx, vy, r = state
            east = vx * math.cos(phi) - vy * math.sin(phi)
            north = vx * math.sin(phi) + vy * math.cos(phi)
            return [east, north, r, *body(vx, vy, r, throttle, steer)]

        step = vec.step(action)
        if step.terminated[0]:
            break
        free, obs = runge_kutta(slope, free, 0.03, 6), step.obs
        errors.append(math.dist(free[:2], step.info["position"][0].tolist()))
    assert step.final_info["success"].item() == 1
    assert len(errors) > 200
    assert max(errors) < 0.01


def test_leaving_the_road_terminates_with_a_penalty_of_one():
    vec = Race(2)
    put(vec, car=car(1.0, 0.15, 0.8, 2.0), farthest=torch.tensor(3.0).double())
    step = vec.step(torch.zeros(2, 2))
    assert step.terminated.all()
    assert step.reward.tolist() == pytest.approx([-1.01] * 2)
    assert 1 < step.final_obs["car"][0, 0] < 1.1  # half widths: the car stops just beyond the edge
    assert step.final_info["success"].tolist() == [0, 0]
    assert step.final_info["covered"].tolist() == [3, 3]
    assert step.obs["place"].tolist() == [[0, 0, 0]] * 2


def test_the_finish_terminates_with_a_reward_of_one():
    vec = Race(2)
    put(vec, car=car(16.38, 0.0, 0.0, 2.0))
    step = vec.step(torch.zeros(2, 2))
    assert step.terminated.all()
    assert step.reward.tolist() == pytest.approx([0.99] * 2)
    assert step.final_info["success"].tolist() == [1, 1]
    assert step.final_info["progress"].tolist() == [1639] * 2
    assert step.final_info["covered"].tolist() == pytest.approx([16.4] * 2, abs=0.02)


def test_the_horizon_terminates_without_further_reward():
    vec = Race(1, horizon=3)
    steps = [vec.step(torch.zeros(1, 2)) for _ in range(3)]
    assert [step.terminated.item() for step in steps] == [False, False, True]
    assert [step.reward.item() for step in steps] == pytest.approx([-0.01] * 3)
    assert steps[-1].final_obs["place"].tolist() == [[0, 0, 1]]
    assert not any(step.truncated.any() for step in steps)


def test_observations_hold_the_state_and_the_road_ahead():
    vec = Race(1)
    obs, info, _ = put(vec, car=car(3.0, -0.1, 0.5, 1.0, 0.2, -2.0), elapsed=torch.tensor(70))
    expected = [-0.1 / 0.185, math.sin(0.5), math.cos(0.5), 0.5, 0.4, -0.4]
    assert obs["car"][0].tolist() == pytest.approx(expected)
    assert obs["place"][0].tolist() == pytest.approx([3 / 16.4, 0, 0.1])
    assert info["progress"].item() == 300
    for i, shown in enumerate(obs["road"][0].tolist()):
        inside = 3 + STRETCH * (i + (np.arange(1000) + 0.5) / 1000)
        bend = vec.track.curvature[vec.track.part(inside)].mean()
        assert shown == pytest.approx(bend / np.abs(vec.track.curvature).max(), abs=5e-3)


def test_driving_backwards_does_not_increase_covered():
    vec = Race(1)
    put(vec, car=car(0.5, 0, math.pi, 2.0), farthest=torch.tensor(0.5).double())
    steps = [vec.step(torch.tensor([[0.3, 0.0]])) for _ in range(12)]
    s = [step.obs["place"][0, 0].item() for step in steps]
    assert s == sorted(s, reverse=True)
    assert s[-1] < 0
    assert {step.info["covered"].item() for step in steps} == {0.5}
    assert steps[-1].info["progress"].item() == 0


def test_start_offsets_are_bounded_different_and_uniform():
    vec = Race(4, horizon=1)
    starts = [vec.reset(1)[0]["car"][:, 0]]
    starts += [vec.step(torch.zeros(4, 2)).obs["car"][:, 0] for _ in range(50)]
    offset = torch.cat(starts) * vec.half_width
    assert offset.abs().max() <= 0.1
    assert len(offset.unique()) == len(offset)
    counts = torch.histc(offset, 10, -0.1, 0.1)
    assert counts.min() > 0.6 * len(offset) / 10


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("between", ["nothing", "steps", "reset"])
def test_restored_cars_continue_with_the_same_steps(autoreset, between):
    """Across ends of episodes, including later start offsets."""
    vec = Race(3, horizon=8, autoreset=autoreset)
    actions = torch.rand(25, 3, 2, generator=torch.Generator().manual_seed(0))
    vec.reset(1)
    play(vec, actions[:5])
    snapshots = vec.snapshots()
    expected = play(vec, actions[5:])
    if between == "steps":
        play(vec, actions[:4])
    if between == "reset":
        vec.reset(7)
    obs, info, lost = vec.restore(torch.arange(3), snapshots)
    assert not lost.any()
    assert (obs["place"][:, 0] * 16.4).tolist() == pytest.approx(info["covered"].tolist())
    assert play(vec, actions[5:]) == expected
    one, _, _ = vec.restore(torch.tensor([2]), snapshots[2:])
    assert torch.equal(one["car"], obs["car"][2:])


def play(vec, actions):
    """Steps as nested lists."""

    def plain(part):
        return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()

    steps = [vec.step(action) for action in actions]
    return [[plain(getattr(step, name)) for name in Step.__slots__] for step in steps]


def test_render_shows_road_and_car():
    vec = Race(2)
    put(vec, car=car(16.0, 0.0))
    picture = vec.render(1)
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert colours == {(40, 40, 40), (110, 110, 110), (250, 210, 80)}
    y, x = (picture == (250, 210, 80)).all(-1).nonzero()
    assert y.mean() > 0.5 * picture.shape[0]  # near the start, low and to the left
    assert x.mean() < 0.2 * picture.shape[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon 0 must be at least 1"),
        ({"finish": 0.0}, "finish 0.0 above 0"),
        ({"half_width": 0.1}, "half_width 0.1 above 0.1"),
        ({"half_width": 0.3}, "too much for a bend of radius 0.29"),
        ({"track": Track([(*c[:2], 1.99) for c in SQUARE], length=None)}, "0.020 m long"),
        ({"autoreset": "never"}, "'same_step' or 'next_step'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Race(2, **options)


@pytest.mark.parametrize(
    "corners", [SQUARE[:2], [(0, 0, 3.5), *SQUARE[1:]], [(0, 0, 0), *SQUARE[1:]]]
)
def test_invalid_tracks_are_refused(corners):
    with pytest.raises(ValueError, match=r"corners|arcs"):
        Track(corners)


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (race_kernels, race):
        use_python_kernels(monkeypatch, module)
    test_motion_equals_a_plain_loop()
    test_on_a_straight_at_constant_speed_s_grows_by_v_dt()
    test_a_car_at_rest_stays_for_any_steering_and_brakes()
    test_brakes_stop_a_car_without_rolling_back()
