"""`Curling`: motion equals plain code, stopping distances, contacts, rewards, pictures."""

import cmath
import math

import numpy as np
import pytest
import torch
from python_kernels import use_python_kernels

from firstlight.envs import Curling, Snapshot, check_vec
from firstlight.envs.worlds import curling, curling_kernels

BASE = -1.5j


def put(table, **arrays):
    """Restore all environments with some arrays of their snapshots replaced."""
    changed = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    snapshots = [Snapshot(arrays={**p.arrays, **changed}) for p in table.snapshots()]
    return table.restore(torch.arange(table.num_envs), snapshots)


def links(angles):
    """Ends of both links as complex numbers, round ends not counted."""
    joint = BASE + 1j * cmath.exp(1j * angles[0])
    return [(BASE, joint), (joint, joint + 0.85j * cmath.exp(1j * (angles[0] + angles[1])))]


def dot(a, b):
    return (a * b.conjugate()).real


def nearest(link, ball):
    """Point of a link's middle line that is nearest to the ball."""
    a, b = link
    return a + (b - a) * min(max(dot(ball - a, b - a) / abs(b - a) ** 2, 0), 1)


def rebound(velocity, normal, surface):
    approach = dot(surface - velocity, normal)
    if approach <= 0:
        return velocity
    return velocity + normal * approach * (1.9 if approach > 1 else 1)


class PlainTable:
    """One table, with complex numbers."""

    def __init__(self):
        self.ball, self.velocity = complex(-0.5, 0.2), 0j
        self.angles, self.speeds = [0.0, 0.0], [0.0, 0.0]
        self.contacts = self.holds = 0

    def step(self, action):
        self.velocity /= 1 + 1.1 / 60
        self.speeds = [float(a) for a in action]
        for _ in range(4):
            old = list(self.angles)
            for k, limit in enumerate((0.4 * math.pi, 0.9 * math.pi)):
                here = self.angles[k]
                self.angles[k] = max(-limit, min(limit, here + self.speeds[k] / 240))
                tip = links(self.angles)[1][1]
                if abs(tip.real) > 1.4 or tip.imag < -1.4:
                    self.angles[k] = here
                if self.angles[k] == here:
                    self.speeds[k] = 0.0
            self.ball += self.velocity / 240
            free = self.ball, self.velocity
            touched = self.meet()
            gap = min(abs(self.ball - nearest(link, self.ball)) for link in links(self.angles))
            self.contacts += touched
            if touched and gap < 0.2 - 1e-6:
                self.holds += 1
                (self.ball, self.velocity), self.angles, self.speeds = free, old, [0.0, 0.0]
                self.meet()

    def meet(self):
        """Contacts with the links, then with the walls."""
        touched = False
        joint = links(self.angles)[0][1]
        for k, link in enumerate(links(self.angles)):
            point = nearest(link, self.ball)
            if abs(self.ball - point) < 0.2:
                touched = True
                normal = (self.ball - point) / abs(self.ball - point)
                self.ball = point + 0.2 * normal
                contact = point + 0.05 * normal
                surface = 1j * self.speeds[0] * (contact - BASE)
                if k == 1:
                    surface += 1j * self.speeds[1] * (contact - joint)
                self.velocity = rebound(self.velocity, normal, surface)
        for normal in (1, -1, 1j, -1j):
            depth = -1.3 - dot(self.ball, normal)
            if depth > 0:
                self.ball += depth * normal
                self.velocity = rebound(self.velocity, complex(normal), 0j)
        return touched


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_check_vec_passes(autoreset):
    check_vec(Curling(3, max_steps=9, autoreset=autoreset), steps=30)


def test_tables_equal_a_plain_simulator(soak):
    """Random networks that see the state: equal states to 1e-9 in each step."""
    contacts = moved = 0
    for seed in soak.times(24, 1000):
        random = np.random.default_rng(seed)
        weights, offset = random.normal(size=(2, 6)) * 2, random.normal(size=2)
        table, plain = Curling(1, max_steps=1000), PlainTable()
        for _ in range(500):
            state = [plain.ball.real, plain.ball.imag, *plain.angles, *plain.speeds]
            action = np.tanh(weights @ state + offset).astype(np.float32)
            obs = table.step(torch.from_numpy(action)[None]).obs["state"][0].tolist()
            plain.step(action)
            x, y, vx, vy = table._balls[0]
            assert abs(complex(x, y) - plain.ball) < 1e-9
            assert abs(complex(vx, vy) - plain.velocity) < 1e-8
            assert table._angles[0] == pytest.approx(plain.angles, abs=1e-9)
            expected = [x, y, *plain.angles, *plain.speeds]
            assert obs == pytest.approx(expected, abs=1e-6)
        contacts += plain.contacts > 0
        moved += abs(plain.ball - complex(-0.5, 0.2)) > 0.3
    assert min(contacts, moved) > soak.repeats / 5


def test_nothing_moves_without_an_action():
    table = Curling(1)
    first = table.reset()[0]["state"]
    for _ in range(100):
        last = table.step(torch.zeros(1, 2)).obs["state"]
    assert torch.equal(first, last)
    assert first[0].tolist() == pytest.approx([-0.5, 0.2, 0, 0, 0, 0])


def test_a_free_ball_loses_the_published_share_of_its_speed_and_stops():
    """A share of 0.982 is left after each step, and the way is about 0.91 times the speed."""
    table = Curling(1, max_steps=2000)
    put(table, balls=[-1.2, 1.0, 1.0, 0.0], angles=[-1.2, -0.3])
    table.step(torch.zeros(1, 2))
    assert table._balls[0, 2] == pytest.approx(0.98200, abs=1e-5)
    for _ in range(1500):
        table.step(torch.zeros(1, 2))
    assert table._balls[0, 0] + 1.2 == pytest.approx(0.91, abs=0.005)


@pytest.mark.parametrize(("speed", "after"), [(2.0, -1.8), (1.2, -1.08), (0.9, 0.0)])
def test_a_wall_returns_fast_balls_and_stops_slow_ones(speed, after):
    table = Curling(1)
    put(table, balls=[1.299, 1.0, speed * (1 + 1.1 / 60), 0.3], angles=[1.0, 0.0])
    table.step(torch.zeros(1, 2))
    assert table._balls[0, 2] == pytest.approx(after)
    assert table._balls[0, 3] == pytest.approx(0.3 / (1 + 1.1 / 60))


def test_a_link_gives_the_ball_its_speed_or_more():
    """The outstretched arm at 1 rad/s hits at 1.6 units/s and more, so the ball is thrown."""
    table = Curling(1)
    put(table, balls=[-0.21, 0.1, 0.0, 0.0])
    for _ in range(10):
        table.step(torch.tensor([[1.0, 0.0]]))
    assert table._balls[0, 2] < -1.6 * 1.9 * 0.98**10
    slow = Curling(1)
    put(slow, balls=[-0.21, 0.1, 0.0, 0.0])
    for _ in range(60):
        slow.step(torch.tensor([[0.3, 0.0]]))
    distance = curling_kernels.overlap(*slow._balls[0, :2], *slow._angles[0])
    assert distance == pytest.approx(0, abs=1e-9)  # in contact, not inside
    assert 0.3 * 1.6 < np.hypot(*slow._balls[0, 2:]) < 0.3 * 1.9  # of the link at the contact


def test_joints_stop_at_their_limits():
    table = Curling(2, max_steps=2000)
    for _ in range(600):
        step = table.step(torch.tensor([[1.0, -1.0], [0.0, 1.0]]))
        x, y = curling_kernels.joints_at(*table._angles[0])[2:]
        assert abs(x) <= 1.4 + 1e-12
        assert y >= -1.4 - 1e-12
    assert table._angles[1].tolist() == pytest.approx([0, 0.9 * math.pi], abs=0.02)
    assert step.obs["state"][1, 4:].tolist() == [0, 0]


def test_balls_stay_on_the_table_and_out_of_the_arm():
    table, random = Curling(64, max_steps=2000), np.random.default_rng(0)
    actions = random.uniform(-1, 1, (64, 2))
    for t in range(600):
        if t % 40 == 0:
            actions = np.sign(random.uniform(-1, 1, (64, 2)))
        table.step(torch.from_numpy(actions.astype(np.float32)))
        assert np.abs(table._balls[:, :2]).max() <= 1.3 + 1e-12
    depths = [
        curling_kernels.overlap(*ball[:2], *angles)
        for ball, angles in zip(table._balls, table._angles, strict=True)
    ]
    assert max(depths) < 0.02
    assert (np.hypot(*(table._balls[:, :2] - curling.START).T) > 0.3).mean() > 0.4


def test_the_reward_is_that_of_the_last_position():
    table = Curling(1, max_steps=2)
    put(table, balls=[0.8, 0.6, 0.0, 0.0])
    steps = [table.step(torch.zeros(1, 2)) for _ in range(2)]
    assert [step.reward.item() for step in steps] == pytest.approx([0, 0.5])
    assert [step.terminated.item() for step in steps] == [False, True]
    assert steps[1].final_info["area"].item() == 1
    assert steps[1].info["position"][0].tolist() == pytest.approx([-0.5, 0.2])


def test_render_shows_table_arm_and_ball():
    table = Curling(2)
    put(table, balls=[0.5, 0.5, 0.0, 0.0])
    picture = table.render(1)
    assert picture.shape == (600, 600, 3)
    assert picture[200, 400].tolist() == [205, 60, 50]
    assert picture[500, 300].tolist() == [50, 90, 190]
    assert picture[5, 300].tolist() == [90, 90, 90]


def test_invalid_options_are_refused():
    with pytest.raises(ValueError, match="max_steps 0"):
        Curling(2, max_steps=0)


def test_the_kernels_pass_as_plain_python(monkeypatch):
    for module in (curling_kernels, curling):
        use_python_kernels(monkeypatch, module)
    test_a_link_gives_the_ball_its_speed_or_more()
    test_the_reward_is_that_of_the_last_position()
