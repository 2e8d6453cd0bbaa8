"""The wheeled robot of `HardMaze` in plain Python: no grid walk, no tables."""

import cmath
import math

import numpy as np

LASERS = (45, 0, -45)  # degrees


def to_pixel(length):
    """Pixel i covers [3 i - 1.5, 3 i + 1.5)."""
    return math.floor(length / 3 + 0.5)


def touched(walls, i, j):
    """Wall pixels [*, 2] within 3 pixels of pixel i, j, relative to it; outside is wall."""
    near = [(a, b) for a in range(-3, 4) for b in range(-3, 4) if a * a + b * b <= 9]
    return [(a, b) for a, b in near if is_wall(walls, i + a, j + b)]


def is_wall(walls, i, j):
    width, height = walls.shape
    return not (0 <= i < width and 0 <= j < height) or bool(walls[i, j])


def plain_laser(walls, x, y, direction):
    """Distance to the nearest wall pixel among those whose closed square the line touches."""
    i, j = to_pixel(x), to_pixel(y)
    dx = to_pixel(x + 100 * math.cos(direction)) - i
    dy = to_pixel(y + 100 * math.sin(direction)) - j
    a, b = np.meshgrid(
        np.arange(min(0, dx), max(0, dx) + 1), np.arange(min(0, dy), max(0, dy) + 1), indexing="ij"
    )
    on_line = 2 * np.abs(dx * b - dy * a) <= abs(dx) + abs(dy)
    a, b = a[on_line], b[on_line]
    outside = (a + i < 0) | (a + i >= len(walls)) | (b + j < 0) | (b + j >= len(walls))
    hit = outside | walls[np.clip(a + i, 0, len(walls) - 1), np.clip(b + j, 0, len(walls) - 1)]
    return min(100.0, 3 * math.sqrt((a[hit] ** 2 + b[hit] ** 2).min())) if hit.any() else 100.0


class PlainRobot:
    """One robot among `walls` [200, 200] bool, first axis x."""

    def __init__(self, walls, x, y, heading):
        self.walls, self.place, self.heading = walls, complex(x, y), heading
        self.bumpers = [0.0, 0.0]

    def move(self, left, right):
        """Published formula, in extended precision since it divides by the turn."""
        left, right = np.longdouble(left), np.longdouble(right)
        turn, heading = (right - left) / 20, np.longdouble(self.heading)
        if abs(turn) <= 1e-10:
            x, y, turn = left * np.cos(heading), left * np.sin(heading), np.longdouble(0)
        else:
            radius = left / turn + 10
            x = radius * (np.sin(heading + turn) - np.sin(heading))
            y = radius * (np.cos(heading) - np.cos(heading + turn))
        place = self.place + complex(float(x), float(y))
        self.heading = cmath.phase(cmath.exp(1j * float(heading + turn)))
        hits = touched(self.walls, to_pixel(place.real), to_pixel(place.imag))
        self.bumpers = [0.0, 0.0]
        for a, b in hits:
            bearing = cmath.phase(complex(a, b) * cmath.exp(-1j * self.heading))
            if 0 < bearing < math.pi / 2:
                self.bumpers[1] = 1.0
            if -math.pi / 2 < bearing < 0:
                self.bumpers[0] = 1.0
        if not hits:
            self.place = place

    def lasers(self):
        x, y = self.place.real, self.place.imag
        return [
            plain_laser(self.walls, x, y, self.heading + math.radians(angle)) for angle in LASERS
        ]


def genome_actions(seed, steps, inputs=5, outputs=2, scale=100.0):
    """A function from sensors to actions: random weights, saturated now and then.

    Returns a function `act` of sensors [inputs] that gives float32 [outputs] in -1..1.
    """
    random = np.random.default_rng(seed)
    first = random.normal(size=(5, inputs + 1))
    second = random.normal(size=(outputs, 6))

    def act(sensors):
        hidden = np.tanh(first @ np.append(np.asarray(sensors) / scale, 1))
        noise = random.normal(size=outputs) * 0.3
        return np.tanh(second @ np.append(hidden, 1) * 2 + noise).astype(np.float32)

    return act
