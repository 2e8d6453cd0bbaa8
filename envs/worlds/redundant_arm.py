"""Arm of twenty joints: a reward for stopping its tip in an area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw
from torch import Tensor

from firstlight.envs.types import Obs, take
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset
from firstlight.envs.worlds.redundant_arm_kernels import LINK, move_arms, place

JOINTS = 20
WALLS = (
    (0.49, 0.0, 0.02, 0.2),
    (0.49, 0.8, 0.02, 0.2),
    (0.0, 0.49, 0.2, 0.02),
    (0.8, 0.49, 0.2, 0.02),
)
"""x, y, width and height; y is up."""

GOALS = ((0.25, 0.25, 0.05), (0.85, 0.85, 0.05), (0.25, 0.90, 0.05))
"""x, y and radius of each reward area."""

_SCALE = 500  # pixels


class RedundantArm(ArrayBacked):
    """Arm of 20 links in an arena of 1 x 1, as in SERENE and STAX (Paolo et al. 2021, 2024).

    Its base is in the middle. It starts bent, at angles from pi/5 to pi/20, at rest. Twenty actions
    from -1 to 1 accelerate the joints. A move is illegal, is not made, and ends the episode if a
    joint would leave the arena or be inside of a wall, if two joints would come closer than 0.0475
    in taxicab distance, or if half of the way of the tip and the speed of the last joint would
    exceed 1.

    The reward is 1 if an illegal move ends the episode while the tip is in an area. So the arm must
    find a place there from which it cannot go on: as published, the end of the time is not
    rewarded. `reward_at_timeout` rewards it too.

    A policy sees `angles`, in units of pi; joints have no limits, and none can turn by more than
    1.01 rad in 100 steps. Side channels: `position`, x and y of the tip; `area`, 1 + the number of
    the area that the tip is in, or 0; `success`, 1 if the episode has ended there with a reward.

    Args:
        num_envs: `N`.
        max_steps: at which an episode terminates. SERENE runs 101 steps, STAX 100.
        reward_at_timeout: reward a tip in an area also when the time is over.
        goals: x, y and radius of each area.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for numbers below 1.

    >>> arm = RedundantArm(num_envs=1)
    >>> [round(x, 4) for x in arm.reset()[1]["position"][0].tolist()]
    [0.3065, 0.6917]
    """

    _saved = ("angles", "speeds", "tips", "rewarded", "elapsed", "over")

    max_steps: int

    def __init__(
        self,
        num_envs: int = 16,
        *,
        max_steps: int = 100,
        reward_at_timeout: bool = False,
        goals: Sequence[Sequence[float]] = GOALS,
        autoreset: Autoreset = "same_step",
    ):
        if min(num_envs, max_steps) < 1:
            raise ValueError(f"num_envs {num_envs} and max_steps {max_steps} must be at least 1")
        super().__init__(num_envs, autoreset)
        self.max_steps, self.reward_at_timeout = max_steps, reward_at_timeout
        self.goals = np.asarray(goals, np.float64).reshape(-1, 3)
        self.walls = np.array(WALLS)
        limit = 0.2 + max_steps  # pi: more than any joint can turn
        self.obs_space = spaces.Dict({"angles": spaces.Box(-limit, limit, (JOINTS,))})
        self.info_space = spaces.Dict(
            {
                "position": spaces.Box(0, 1, (2,)),
                "area": spaces.Discrete(len(self.goals) + 1),
                "success": spaces.Box(-1, 1, (), np.int8),
            }
        )
        self.act_space: spaces.Space = spaces.Box(-1, 1, (JOINTS,))
        self.first_angles = np.linspace(np.pi / 5, np.pi / 20, JOINTS)
        points = np.empty((JOINTS + 1, 2))
        place(self.first_angles, points)
        self.first_tip = points[-1]
        self._angles, self._speeds = (np.zeros((num_envs, JOINTS)) for _ in range(2))
        self._tips, self._rewarded = np.zeros((num_envs, 2)), np.zeros(num_envs, bool)
        self._elapsed = np.zeros(num_envs, np.int64)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; nothing depends on `seed`."""
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture, y up, [500, 500, 3] uint8: walls grey, areas green, arm blue, its tip red."""
        picture = Image.new("RGB", (_SCALE, _SCALE), (244, 244, 240))
        draw = ImageDraw.Draw(picture)

        def box(left: float, low: float, right: float, high: float) -> list[float]:
            return [left * _SCALE, (1 - high) * _SCALE, right * _SCALE, (1 - low) * _SCALE]

        for x, y, width, height in WALLS:
            draw.rectangle(box(x, y, x + width, y + height), fill=(90, 90, 90))
        for x, y, r in self.goals.tolist():
            draw.ellipse(box(x - r, y - r, x + r, y + r), outline=(60, 160, 70), width=3)
        points = np.empty((JOINTS + 1, 2))
        place(self._angles[env_id], points)
        ends = [(x * _SCALE, (1 - y) * _SCALE) for x, y in points.tolist()]
        draw.line(ends, (50, 90, 190), 4)
        (x, y), r = points[-1].tolist(), LINK / 5
        draw.ellipse(box(x - r, y - r, x + r, y + r), fill=(205, 60, 50))
        return np.asarray(picture)

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        illegal = np.empty(self.num_envs, bool)
        move_arms(self._angles, self._speeds, actions, self.walls, self._tips, illegal)
        self._elapsed += 1
        done = illegal | (self._elapsed >= self.max_steps)
        self._rewarded = (done if self.reward_at_timeout else illegal) & (self.area(self._tips) > 0)
        none = torch.zeros(self.num_envs, dtype=torch.bool)
        return torch.from_numpy(self._rewarded.astype(np.float32)), torch.from_numpy(done), none

    def _begin(self, ids: Tensor) -> None:
        rows = ids.numpy()
        self._angles[rows], self._speeds[rows] = self.first_angles, 0
        self._tips[rows], self._elapsed[rows] = self.first_tip, 0
        self._rewarded[rows] = False

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        obs = {"angles": torch.from_numpy((self._angles / np.pi).astype(np.float32))}
        fields = {
            "position": self._tips.astype(np.float32),
            "area": self.area(self._tips),
            "success": self._rewarded.astype(np.int8),
        }
        info = {name: torch.from_numpy(field) for name, field in fields.items()}
        return (obs, info) if ids is self._all else (take(obs, ids), take(info, ids))

    def area(self, place: np.ndarray) -> np.ndarray:
        """Compute 1 + the number of the area [N] that tips at [N, 2] are in, or 0."""
        area = np.zeros(len(place), np.int64)
        for k, (x, y, radius) in enumerate(self.goals.tolist()):
            area[np.hypot(place[:, 0] - x, place[:, 1] - y) < radius] = k + 1
        return area
