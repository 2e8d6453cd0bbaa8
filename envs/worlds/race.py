"""Race car on a closed track: a reward for the lap, a penalty for leaving the road."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.seeding import derive_many
from firstlight.envs.types import Obs, take
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset
from firstlight.envs.worlds.race_kernels import drive
from firstlight.envs.worlds.race_track import Track

CELL = 0.01
"""Length in metres of one cell of `progress` along the centre line."""

AHEAD, STRETCH = 12, 0.2  # observed stretches of road, and their length in metres
_DT, _SUBSTEPS = 0.03, 6  # seconds a step, and parts in which it is integrated
_STEER = 0.35  # rad
_SHORTEST = 0.1  # m, of a part of the track, so that a car crosses one border at most in a substep
_UNITS = (2.0, 0.5, 5.0)  # m/s, m/s and rad/s: units of vx, vy and r in `car`
_GOLDEN = (math.sqrt(5) - 1) / 2


class Race(ArrayBacked):
    """1:43 race cars on a track of 16.4 m (the car-racing task of Prajapat et al. 2024).

    The car is the dynamic bicycle model with Pacejka tyres and the constants of Liniger et al.
    (2015), at 0.03 s a step. Two actions from -1 to 1: throttle, negative brakes, and steering, to
    the left by up to 0.35 rad. It starts at rest at s = 0, up to 0.1 m beside the centre line:
    offsets of later episodes follow the golden ratio from a random number of each environment.

    The reward is that of the paper's released code without its progress term: -0.01 a step, -1 for
    a centre of mass off the road, 1 at the `finish`; either of the last two ends the episode. The
    horizon is part of the task and time is observed, so an episode *terminates* there as well. The
    track is not the paper's, see `race_track.CORNERS`.

    A policy sees `car`: d by half widths, sine and cosine of the heading relative to the road, and
    the velocities vx, vy and r in units of 2 m/s, 0.5 m/s and 5 rad/s. `road` is the curvature of
    the 12 stretches of 0.2 m ahead, 1 for the tightest bend. `place` is s, the farthest s so far,
    and time, as fractions of `finish` and `horizon`: a reward for progress is Markov in these.
    Reward modules read `progress`, the number of the cell of 1 cm at s, `position`, x and y in
    metres, `covered`, the farthest s, and `success`, 1 at the finish.

    Args:
        num_envs: `N`.
        finish: metres, by default the length of a lap.
        horizon: steps of an episode. The released code stops after 700.
        half_width: of the road, m; above 0.1, the maximum offset of starting cars.
        track: default is the one above.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for numbers out of range, a road too wide for the tightest bend, or a track of
            parts shorter than 0.1 m.

    >>> race = Race(num_envs=2)
    >>> step = race.step(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))  # accelerate, and brake
    >>> step.info["covered"].gt(0).tolist()
    [True, False]
    """

    _saved = ("car", "farthest", "elapsed", "over", "draw")
    reported = ("covered",)

    def __init__(
        self,
        num_envs: int = 16,
        *,
        finish: float | None = None,
        horizon: int = 700,
        half_width: float = 0.185,
        track: Track | None = None,
        autoreset: Autoreset = "same_step",
    ):
        self.track = Track() if track is None else track
        self.finish = self.track.length if finish is None else finish
        if min(num_envs, horizon) < 1 or self.finish <= 0 or half_width <= 0.1:
            raise ValueError(
                f"num_envs {num_envs} and horizon {horizon} must be at least 1, finish "
                f"{self.finish} above 0, and half_width {half_width} above 0.1, the start offset"
            )
        if (shortest := np.diff(self.track.ends, prepend=0).min()) < _SHORTEST:
            raise ValueError(
                f"a part of the track is {shortest:.3f} m long, expected at least {_SHORTEST}"
            )
        self._tightest = float(np.abs(self.track.curvature).max())
        if half_width * self._tightest > 0.8:
            raise ValueError(
                f"half_width {half_width} is too much for a bend of radius "
                f"{1 / self._tightest:.2f}: expected at most {0.8 / self._tightest:.2f}"
            )
        super().__init__(num_envs, autoreset)
        self.horizon, self.half_width = horizon, half_width
        self.cells = math.ceil(self.finish / CELL)
        self.obs_space = spaces.Dict(
            {
                "car": spaces.Box(-np.inf, np.inf, (6,)),
                "road": spaces.Box(-1, 1, (AHEAD,)),
                "place": spaces.Box(-np.inf, np.inf, (3,)),
            }
        )
        self.info_space = spaces.Dict(
            {
                "progress": spaces.Discrete(self.cells),
                "position": spaces.Box(-np.inf, np.inf, (2,)),
                "covered": spaces.Box(0, np.inf, ()),
                "success": spaces.Box(-1, 1, (), np.int8),
            }
        )
        self.act_space: spaces.Space = spaces.Box(-1, 1, (2,))
        self._draw = np.zeros(num_envs)
        self._car, self._farthest = np.zeros((num_envs, 6)), np.zeros(num_envs)
        self._elapsed = np.zeros(num_envs, np.int64)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; `seed` is that of the start offsets."""
        if seed is not None:
            self._draw = derive_many(seed, "race", self.num_envs) / 2.0**31
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture of road and car from above, x to the right and y up, [H, W, 3] uint8."""
        s, d = np.meshgrid(np.arange(0, self.track.length, 0.02), np.linspace(-1, 1, 19))
        road = self.track.position(s.ravel(), d.ravel() * self.half_width)
        low = road.min(0) - 0.1
        width, height = np.ceil((road.max(0) + 0.1 - low) * 50).astype(int)  # 2 cm a pixel
        picture = np.full((height, width, 3), 40, np.uint8)
        car = self.track.position(self._car[env_id, :1], self._car[env_id, 1:2])
        beside = np.stack(np.meshgrid([-0.03, 0, 0.03], [-0.03, 0, 0.03]), -1).reshape(-1, 2)
        for places, colour in ((road, (110, 110, 110)), (car + beside, (250, 210, 80))):
            x, y = ((places - low) * 50).astype(int).T
            picture[height - 1 - y.clip(0, height - 1), x.clip(0, width - 1)] = colour
        return picture

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        road = (self.track.ends, self.track.curvature, self.half_width, self.finish)
        rows = valid.numpy()
        cars = self._car[rows]
        drive(cars, (actions * np.array((1.0, _STEER)))[rows], *road, _DT, _SUBSTEPS)
        self._car[rows] = cars
        self._farthest = np.maximum(self._farthest, self._car[:, 0])
        self._elapsed += 1
        off = np.abs(self._car[:, 1]) > self.half_width
        won = ~off & (self._car[:, 0] >= self.finish)
        done = torch.from_numpy(off | won | (self._elapsed >= self.horizon))
        reward = torch.from_numpy((1.0 * won - off - 0.01).astype(np.float32))
        return reward, done, torch.zeros(self.num_envs, dtype=torch.bool)

    def _begin(self, ids: Tensor) -> None:
        rows = ids.numpy()
        self._car[rows] = 0
        self._car[rows, 1] = 0.2 * self._draw[rows] - 0.1
        self._farthest[rows], self._elapsed[rows] = 0, 0
        self._draw[rows] = (self._draw[rows] + _GOLDEN) % 1

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        obs, info = self._obs(), self._info()
        return (obs, info) if ids is self._all else (take(obs, ids), take(info, ids))

    def _obs(self) -> Obs:
        s, d, mu, *velocity = self._car.T
        heading = self.track.heading(s[:, None] + STRETCH * np.arange(AHEAD + 1))
        shares = s / self.finish, self._farthest / self.finish, self._elapsed / self.horizon
        speeds = (speed / unit for speed, unit in zip(velocity, _UNITS, strict=True))
        fields = {
            "car": np.stack((d / self.half_width, np.sin(mu), np.cos(mu), *speeds), 1),
            "road": np.clip(np.diff(heading) / (STRETCH * self._tightest), -1, 1),
            "place": np.stack(shares, 1),
        }
        return {name: torch.from_numpy(f.astype(np.float32)) for name, f in fields.items()}

    def _info(self) -> Obs:
        s, d = self._car[:, :2].T
        won = (s >= self.finish) & (np.abs(d) <= self.half_width)
        fields = {
            "progress": np.clip(s / CELL, 0, self.cells - 1).astype(np.int64),
            "position": self.track.position(s, d).astype(np.float32),
            "covered": self._farthest.astype(np.float32),
            "success": won.astype(np.int8),
        }
        return {name: torch.from_numpy(field) for name, field in fields.items()}
