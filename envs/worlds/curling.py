"""Arm that throws a ball: a reward where the ball lies at the end, and no other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw
from torch import Tensor

from firstlight.envs.types import Obs, take
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset
from firstlight.envs.worlds.curling_kernels import BALL, BASE_Y, HALF_WIDTH, INNER, joints_at, play

START = (-0.5, 0.2)
"""x and y of the ball at the start, y up; the middle of the table is (0, 0)."""

GOALS = ((0.8, 0.8, 0.4), (0.8, -0.8, 0.2))
"""x, y and radius of each reward area."""

LIMITS = (0.4 * np.pi, 0.9 * np.pi)  # rad, of the joints
_SCALE = 200  # pixels a unit


class Curling(ArrayBacked):
    """Arm of two links on a table of 3 x 3, and a ball that it pushes (SERENE, Paolo et al. 2021).

    The base of the arm is the middle of the lower side. Two actions from -1 to 1 are the speeds of
    the joints in rad/s, 60 steps a second. The reward is (r - d) / r with the ball at distance d
    from the centre of an area of radius r, at the last step, which terminates the episode. Nothing
    is random.

    The contact model is ours, the published simulator is Box2D. The arm obeys: its joints have the
    wanted speed, and stop at their limits, where the end of the arm would leave the table, and
    while the ball is pinned between a link and a wall. Links are capsules of half-width 0.05. The
    ball is a disc without spin or friction that loses 1.8 % of its speed a step; at a link or wall
    it rebounds with restitution 0.9 if it approaches faster than 1, else it keeps contact. Contacts
    are resolved four times a step.

    A policy sees `state`: x and y of the ball, both angles in rad, counter-clockwise, and both
    speeds of the joints. Side channels: `position`, that of the ball; `area`, 1 + the number of the
    area that it is in, or 0; `success`, whether it is in one.

    Args:
        num_envs: `N`.
        max_steps: steps of an episode.
        goals: x, y and radius of each area.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for numbers below 1.

    >>> Curling(num_envs=1).reset()[1]["position"].tolist()
    [[-0.5, 0.20000000298023224]]
    """

    _saved = ("balls", "angles", "speeds", "elapsed", "over")

    max_steps: int

    def __init__(
        self,
        num_envs: int = 16,
        *,
        max_steps: int = 500,
        goals: Sequence[Sequence[float]] = GOALS,
        autoreset: Autoreset = "same_step",
    ):
        if min(num_envs, max_steps) < 1:
            raise ValueError(f"num_envs {num_envs} and max_steps {max_steps} must be at least 1")
        super().__init__(num_envs, autoreset)
        self.max_steps = max_steps
        self.goals = np.asarray(goals, np.float64).reshape(-1, 3)
        self.limits = np.array(LIMITS)
        far = INNER - BALL
        high = np.array([far, far, *LIMITS, 1, 1], np.float32) + np.float32(1e-6)
        self.obs_space = spaces.Dict({"state": spaces.Box(-high, high)})
        self.info_space = spaces.Dict(
            {
                "position": spaces.Box(-high[:2], high[:2]),
                "area": spaces.Discrete(len(self.goals) + 1),
                "success": spaces.Box(-1, 1, (), np.int8),
            }
        )
        self.act_space: spaces.Space = spaces.Box(-1, 1, (2,))
        self._balls = np.zeros((num_envs, 4))
        self._angles, self._speeds = np.zeros((num_envs, 2)), np.zeros((num_envs, 2))
        self._elapsed = np.zeros(num_envs, np.int64)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; nothing depends on `seed`."""
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture, y up, [600, 600, 3] uint8: walls grey, areas green, arm blue, ball red."""
        side = 3 * _SCALE
        picture = Image.new("RGB", (side, side), (90, 90, 90))
        draw = ImageDraw.Draw(picture)

        def pixel(x: float, y: float) -> tuple[float, float]:
            return (x + 1.5) * _SCALE, (1.5 - y) * _SCALE

        def box(x: float, y: float, r: float) -> list[tuple[float, float]]:
            return [pixel(x - r, y + r), pixel(x + r, y - r)]

        draw.rectangle(box(0, 0, INNER), fill=(244, 244, 240))
        for x, y, r in self.goals.tolist():
            draw.ellipse(box(x, y, r), outline=(60, 160, 70), width=3)
        joint_x, joint_y, end_x, end_y = joints_at(*self._angles[env_id])
        points = [pixel(0, BASE_Y), pixel(joint_x, joint_y), pixel(end_x, end_y)]
        draw.line(points, (50, 90, 190), int(2 * HALF_WIDTH * _SCALE), joint="curve")
        x, y = self._balls[env_id, :2].tolist()
        draw.ellipse(box(x, y, BALL), fill=(205, 60, 50))
        return np.asarray(picture)

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        play(self._balls, self._angles, self._speeds, actions, self.limits)
        self._elapsed += 1
        done = self._elapsed >= self.max_steps
        reward = np.where(done, self.areas(self._balls[:, :2])[0], 0).astype(np.float32)
        none = torch.zeros(self.num_envs, dtype=torch.bool)
        return torch.from_numpy(reward), torch.from_numpy(done), none

    def _begin(self, ids: Tensor) -> None:
        rows = ids.numpy()
        self._balls[rows] = (*START, 0, 0)
        self._angles[rows], self._speeds[rows], self._elapsed[rows] = 0, 0, 0

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        state = np.concatenate([self._balls[:, :2], self._angles, self._speeds], 1)
        area = self.areas(self._balls[:, :2])[1]
        obs = {"state": torch.from_numpy(state.astype(np.float32))}
        fields = {
            "position": self._balls[:, :2].astype(np.float32),
            "area": area,
            "success": (area > 0).astype(np.int8),
        }
        info = {name: torch.from_numpy(field) for name, field in fields.items()}
        return (obs, info) if ids is self._all else (take(obs, ids), take(info, ids))

    def areas(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute rewards [N] of balls at [N, 2], and 1 + the number of the area there, or 0."""
        closeness, area = np.zeros(len(place)), np.zeros(len(place), np.int64)
        for k, (x, y, radius) in enumerate(self.goals.tolist()):
            share = 1 - np.hypot(place[:, 0] - x, place[:, 1] - y) / radius
            here = share > 0
            closeness[here], area[here] = share[here], k + 1
        return closeness, area
