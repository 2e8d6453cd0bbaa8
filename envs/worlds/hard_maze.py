"""Robot in a deceptive maze: a reward where it stands at the end, and no other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw
from torch import Tensor

from firstlight.envs.types import Obs, take
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset
from firstlight.envs.worlds.robot_kernels import LASER_RANGE, LASERS, RADIUS, sense, step_robots
from firstlight.envs.worlds.robot_maps import SIZE, hard_maze

START = (60.0, 450.0, np.pi / 4)
"""Pose at the start: x and y in units from the upper left corner, y down, and the heading."""

GOALS = ((60.0, 60.0, 50.0), (100.0, 200.0, 50.0))
"""Reward areas, x, y and radius: A is behind the whole maze, B close to the start."""


class HardMaze(ArrayBacked):
    """Hard maze of novelty search (Lehman & Stanley 2011) with the two goals of SERENE (2021).

    A robot with two wheels stands in a maze of 600 x 600 units. Two actions from -1 to 1 are how
    far the left and the right wheel travel, in shares of `max_travel`; it moves on the arc that
    they give. It stops at walls, but still turns. The reward is (r - d) / r at distance d from the
    centre of a goal of radius r, at the last step; then the episode terminates. Nothing is random.

    A policy sees `sensors`: the distances along lasers at +45, 0 and -45 degrees (positive angles
    are to the right), at most 100 units and divided by `laser_unit`, and whether the left and the
    right bumper touched a wall. Side channels: `position`, x and y in units; `area`, 1 + the number
    of the goal that the robot is in, or 0; `success`, whether it is in one. With `observe_pose` a
    policy also sees `pose`: x and y in shares of the maze, cosine and sine of the heading.

    Published code (SERENE's copy of fastsim_gym) rewards the position before the last move, and
    shows in the first observation the sensors of the last episode; both are options. Distances
    along lasers are between centres of pixels of 3 units.

    Args:
        num_envs: `N`.
        max_steps: steps of an episode.
        max_travel: units that a wheel travels in a step at most, at most 4.
        laser_unit: by which distances are divided; 1 as published, 100 gives shares of the range.
        goals: x, y and radius of each.
        observe_pose: whether policies see the pose of the robot.
        reward_previous_position: reward the position before the last move.
        keep_sensors_at_reset: show the sensors of the last episode in the first observation.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for numbers out of range.

    >>> maze = HardMaze(num_envs=1)
    >>> maze.reset()[0]["sensors"].tolist()
    [[100.0, 100.0, 100.0, 0.0, 0.0]]
    >>> [round(x, 2) for x in maze.step(torch.ones(1, 2)).info["position"][0].tolist()]
    [60.71, 450.71]
    """

    _saved = ("pose", "sensors", "elapsed", "over")

    max_steps: int

    def __init__(
        self,
        num_envs: int = 16,
        *,
        max_steps: int = 2000,
        max_travel: float = 1.0,
        laser_unit: float = 1.0,
        goals: Sequence[Sequence[float]] = GOALS,
        observe_pose: bool = False,
        reward_previous_position: bool = False,
        keep_sensors_at_reset: bool = False,
        autoreset: Autoreset = "same_step",
    ):
        if min(num_envs, max_steps) < 1 or laser_unit <= 0 or not 0 < max_travel <= 4:
            raise ValueError(
                f"num_envs {num_envs} and max_steps {max_steps} must be at least 1, laser_unit "
                f"{laser_unit} above 0, and max_travel {max_travel} above 0 and at most 4"
            )
        super().__init__(num_envs, autoreset)
        self.max_steps, self.max_travel, self.laser_unit = max_steps, max_travel, laser_unit
        self.goals = np.asarray(goals, np.float64).reshape(-1, 3)
        self.map = hard_maze()
        self.reward_previous_position = reward_previous_position
        self.keep_sensors_at_reset = keep_sensors_at_reset
        self._units = np.array([laser_unit] * len(LASERS) + [1.0, 1.0])
        self.obs_space = spaces.Dict(
            {"sensors": spaces.Box(0, max(LASER_RANGE / laser_unit, 1.0), (5,))}
        )
        self.observe_pose = observe_pose
        if observe_pose:
            self.obs_space["pose"] = spaces.Box(-1, 1, (4,))
        self.info_space = spaces.Dict(
            {
                "position": spaces.Box(0, np.float32(SIZE), (2,)),
                "area": spaces.Discrete(len(self.goals) + 1),
                "success": spaces.Box(-1, 1, (), np.int8),
            }
        )
        self.act_space: spaces.Space = spaces.Box(-1, 1, (2,))
        self._pose = np.tile(np.array(START), (num_envs, 1))
        self._sensors = np.zeros((num_envs, 5))
        self._sensors[:, :3] = LASER_RANGE  # what the published code shows at the very first reset
        self._elapsed = np.zeros(num_envs, np.int64)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; nothing depends on `seed`."""
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture from above, [600, 600, 3] uint8: goals green, lasers yellow, robot blue."""
        picture = Image.fromarray(self.map.picture())
        draw = ImageDraw.Draw(picture)
        for x, y, r in self.goals.tolist():
            draw.ellipse((x - r, y - r, x + r, y + r), outline=(60, 160, 70), width=3)
        draw_robot(draw, self._pose[env_id], self._sensors[env_id])
        return np.asarray(picture)

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = self._pose[:, :2].copy()
        travel = actions * np.float64(self.max_travel)
        step_robots(self._pose, travel, self._sensors, self.map.clearance, self.map.blocked)
        self._elapsed += 1
        done = self._elapsed >= self.max_steps
        reward = np.zeros(self.num_envs)
        if done.any():
            place = before if self.reward_previous_position else self._pose[:, :2]
            closeness, area = self.areas(place)
            reward[done & (area > 0)] = closeness[done & (area > 0)]
        none = torch.zeros(self.num_envs, dtype=torch.bool)
        return torch.from_numpy(reward.astype(np.float32)), torch.from_numpy(done), none

    def _begin(self, ids: Tensor) -> None:
        rows = ids.numpy()
        self._pose[rows], self._elapsed[rows] = START, 0
        if not self.keep_sensors_at_reset:
            pose, sensors = self._pose[rows], np.zeros((len(rows), 5))
            sense(pose, sensors, self.map.clearance)
            self._sensors[rows] = sensors

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        area = self.areas(self._pose[:, :2])[1]
        obs = {"sensors": torch.from_numpy((self._sensors / self._units).astype(np.float32))}
        if self.observe_pose:
            x, y, heading = self._pose.T
            pose = np.stack([x / SIZE, y / SIZE, np.cos(heading), np.sin(heading)], 1)
            obs["pose"] = torch.from_numpy(pose.astype(np.float32))
        fields = {
            "position": self._pose[:, :2].astype(np.float32),
            "area": area,
            "success": (area > 0).astype(np.int8),
        }
        info = {name: torch.from_numpy(field) for name, field in fields.items()}
        return (obs, info) if ids is self._all else (take(obs, ids), take(info, ids))

    def areas(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute rewards [N] at positions [N, 2], and 1 + the number of the goal there, or 0."""
        closeness = np.zeros(len(place))
        area = np.zeros(len(place), np.int64)
        for k, (x, y, radius) in enumerate(self.goals.tolist()):
            share = 1 - np.hypot(place[:, 0] - x, place[:, 1] - y) / radius
            here = share > 0
            closeness[here], area[here] = share[here], k + 1
        return closeness, area


def draw_robot(draw: ImageDraw.ImageDraw, pose: np.ndarray, sensors: np.ndarray) -> None:
    """Draw a robot and its lasers, a pixel for each unit; red if a bumper touches a wall."""
    x, y, heading = pose.tolist()
    for angle, distance in zip(LASERS, sensors.tolist(), strict=False):
        end = x + distance * np.cos(heading + angle), y + distance * np.sin(heading + angle)
        draw.line(((x, y), end), (250, 200, 80), 2)
    colour = (205, 60, 50) if sensors[3:5].any() else (50, 90, 190)
    draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=colour)
    tip = x + RADIUS * np.cos(heading), y + RADIUS * np.sin(heading)
    draw.line(((x, y), tip), (255, 255, 255), 2)
