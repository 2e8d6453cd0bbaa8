"""Automated guided vehicle in a warehouse: a reward for reaching the target, and no other."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw
from torch import Tensor

from firstlight.envs.seeding import derive_many, splitmix
from firstlight.envs.types import Obs, take
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset
from firstlight.envs.worlds.warehouse_kernels import judge, locate, move, sense
from firstlight.envs.worlds.warehouse_layouts import COMPLEX, SIMPLE, Layout

Scene = Literal["simple_static", "simple_dynamic", "complex_static", "complex_dynamic"]
TargetView = Literal["always", "in_sight", "never"]
OnCollision = Literal["stop", "end"]

LAYOUTS = {"simple": SIMPLE, "complex": COMPLEX}
MAX_STEPS = {
    "simple_static": 2000,
    "simple_dynamic": 2000,
    "complex_static": 3000,
    "complex_dynamic": 4000,
}
"""Step limits of the paper."""

TARGET_SPEED = {
    "simple_static": 0.0,
    "simple_dynamic": 0.3,
    "complex_static": 0.0,
    "complex_dynamic": 0.6,
}
"""Speed of the target along its lane, m/s."""

RADIUS = 0.4  # of the vehicle, m
_DT = 0.1  # seconds a step
_LIMITS = np.array([1.5, 0.5, 1.5])  # of the speeds forwards, backwards and of turning, m/s, rad/s
_ACCELERATION = np.array([1.5, 4.0])  # m/s² and rad/s²
_REVERSAL = 0.005  # probability a step that the target of "complex_dynamic" turns round
_SCALE = 16  # pixels a metre


class Warehouse(ArrayBacked):
    """Vehicles that look for a target among racks (the task of Yin et al. 2024, arXiv 2404.12594).

    The paper's are the four scenes, simple or complex with a target that stands or moves, their
    step limits of 2000, 2000, 3000 and 4000, continuous positions and actions, and a sparse reward.
    Sizes, sensors, kinematics and rewards could not be found and are ours: docs/environments.md.

    A vehicle is a disc of radius 0.4 m that moves like a unicycle, 0.1 s a step. Two actions from
    -1 to 1 are the speeds to reach: forwards, from -0.5 m/s (backwards) to 1.5 m/s, so that -0.5
    means to stand, and turning to the left, from -1.5 to 1.5 rad/s; the speeds change by at most
    1.5 m/s² and 4 rad/s². It starts at rest
    in the bay at a random place with a random heading. The reward is 1 within `goal_radius` of the
    target, which ends the episode, `collision_reward` in each step in which a wall or a rack stops
    the vehicle, and 0 otherwise. At the step limit an episode is truncated.

    The target stands at the first corner of the layout's lane, or moves along it from a random
    place; in "complex_dynamic" it turns round at random, every 20 s on average.

    A policy sees `lidar`, the distances along beams in all directions (the first one straight
    ahead, then to the left) as shares of `lidar_range`; `motion`, the two speeds as shares of their
    maxima; `target`, the distance to the target as a share of the hall's diagonal, and cosine and
    sine of its direction relative to the heading, or three zeros while it is not shown.

    Side channels: `position` and `target_position`, x and y in metres; `collisions`, the number of
    steps of the episode in which the vehicle was stopped; `success`, 1 at the target.

    Args:
        num_envs: `N`.
        scene: layout, motion of the target, and step limit.
        max_steps: step limit; None is that of the scene.
        num_beams: of the lidar.
        lidar_range: in metres.
        target_view: "always" shows the target also through racks, "in_sight" within `lidar_range`
            where no rack is between, "never" not at all.
        goal_radius: distance in metres at which the target is reached.
        on_collision: "stop" the vehicle, which can turn and go on, or "end" the episode.
        collision_reward: of a step in which the vehicle was stopped, at most 0.
        layout: None is that of the scene.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for an unknown choice, or numbers out of range.

    >>> vec = Warehouse(num_envs=2)
    >>> step = vec.step(torch.tensor([[1.0, 0.0], [-0.5, 1.0]]))  # accelerate; stand and turn
    >>> step.obs["motion"].tolist()
    [[0.10000000149011612, 0.0], [0.0, 0.2666666805744171]]
    """

    _saved = (
        "pose",
        "speed",
        "place",
        "direction",
        "collisions",
        "contact",
        "found",
        "elapsed",
        "over",
        "draw",
    )
    reported = ("collisions",)

    def __init__(
        self,
        num_envs: int = 16,
        *,
        scene: Scene = "simple_static",
        max_steps: int | None = None,
        num_beams: int = 24,
        lidar_range: float = 6.0,
        target_view: TargetView = "always",
        goal_radius: float = 0.5,
        on_collision: OnCollision = "stop",
        collision_reward: float = 0.0,
        layout: Layout | None = None,
        autoreset: Autoreset = "same_step",
    ):
        for name, value, choices in (
            ("scene", scene, get_args(Scene)),
            ("target_view", target_view, get_args(TargetView)),
            ("on_collision", on_collision, get_args(OnCollision)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
        self.max_steps = MAX_STEPS[scene] if max_steps is None else max_steps
        if min(num_envs, num_beams, self.max_steps) < 1:
            raise ValueError(
                f"num_envs {num_envs}, num_beams {num_beams} and max_steps {self.max_steps} must "
                "be at least 1"
            )
        if lidar_range <= 0 or goal_radius <= 0 or collision_reward > 0:
            raise ValueError(
                f"lidar_range {lidar_range} and goal_radius {goal_radius} must be above 0, and "
                f"collision_reward {collision_reward} at most 0"
            )
        super().__init__(num_envs, autoreset)
        self.scene, self.goal_radius, self.lidar_range = scene, goal_radius, lidar_range
        self.on_collision, self.collision_reward = on_collision, collision_reward
        self.layout = LAYOUTS[scene.partition("_")[0]] if layout is None else layout
        self.target_speed = TARGET_SPEED[scene]
        self._reversal = _REVERSAL if scene == "complex_dynamic" else 0.0
        ending = float(on_collision == "end")
        self._rules = np.array([goal_radius, collision_reward, ending, self.max_steps])
        self._sight = {"always": -1.0, "in_sight": lidar_range, "never": 0.0}[target_view]
        angle = 2 * np.pi * np.arange(num_beams) / num_beams
        self._beams = np.stack([np.cos(angle), np.sin(angle)], 1)
        self._units = np.array([_LIMITS[0], _LIMITS[2], self.layout.diagonal])
        low, high = np.zeros(2, np.float32), self.layout.size.astype(np.float32)
        self.obs_space = spaces.Dict(
            {
                "lidar": spaces.Box(0, 1, (num_beams,)),
                "motion": spaces.Box(-1, 1, (2,)),
                "target": spaces.Box(-1, 1, (3,)),
            }
        )
        self.info_space = spaces.Dict(
            {
                "position": spaces.Box(low, high),
                "target_position": spaces.Box(low, high),
                "collisions": spaces.Box(0, np.inf, ()),
                "success": spaces.Box(-1, 1, (), np.int8),
            }
        )
        self.act_space: spaces.Space = spaces.Box(-1, 1, (2,))
        self._pose, self._speed = np.zeros((num_envs, 3)), np.zeros((num_envs, 2))
        self._place, self._direction = np.zeros(num_envs), np.ones(num_envs)
        self._collisions, self._elapsed = (np.zeros(num_envs, np.int64) for _ in range(2))
        self._contact, self._found = (np.zeros(num_envs, bool) for _ in range(2))
        self._draw = np.zeros(num_envs, np.int64)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; `seed` is that of starts and targets."""
        if seed is not None:
            self._draw = derive_many(seed, "warehouse", self.num_envs)
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture from above, x to the right and y up, [H, W, 3] uint8, 16 pixels a metre.

        Racks are grey, the target green with its lane, the beams yellow, and the vehicle blue, red
        where it was stopped, with a line that shows its heading.
        """
        width, height = (self.layout.size * _SCALE).astype(int).tolist()
        picture = Image.new("RGB", (width, height), (244, 244, 240))
        draw = ImageDraw.Draw(picture)

        def pixels(points: np.ndarray) -> list[tuple[float, float]]:
            """Pixel coordinates of points [*, 2] in metres."""
            return [(x * _SCALE, height - 1 - y * _SCALE) for x, y in points.tolist()]

        def disc(centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
            corners = np.array([[-radius, radius], [radius, -radius]]) + centre
            draw.ellipse(pixels(corners), fill=colour)

        for rack in self.layout.racks:
            draw.rectangle(pixels(rack[[[0, 3], [2, 1]]]), fill=(120, 120, 125))
        if self.target_speed:
            draw.line(pixels(self.layout.lane[[*range(len(self.layout.lane)), 0]]), (150, 205, 150))
        here, heading = self._pose[env_id, :2], self._pose[env_id, 2]
        obs, _ = self._observe(torch.tensor([env_id]))
        ahead = np.array([np.cos(heading), np.sin(heading)])
        turned = np.stack([self._beams @ (ahead * (1, -1)), self._beams @ ahead[::-1]], 1)
        for end in here + turned * obs["lidar"].numpy().T * self.lidar_range:
            draw.line(pixels(np.stack([here, end])), (250, 215, 120))
        disc(self._targets()[env_id], self.goal_radius, (60, 160, 70))
        disc(here, RADIUS, (205, 60, 50) if self._contact[env_id] else (50, 90, 190))
        draw.line(pixels(np.stack([here, here + ahead * RADIUS])), (255, 255, 255), 2)
        return np.asarray(picture)

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layout, count = self.layout, self.num_envs
        hall = layout.racks, layout.size, RADIUS, _DT
        move(self._pose, self._speed, actions, self._contact, *hall, _LIMITS, _ACCELERATION)
        if self._reversal:
            rows = np.flatnonzero(valid.numpy())
            self._direction[rows[self._uniform(rows) < self._reversal]] *= -1
        self._place += self._direction * (self.target_speed * _DT)
        self._elapsed += 1
        reward, ends = np.empty(count, np.float32), np.empty((2, count), bool)
        state = self._pose, self._targets(), self._contact, self._elapsed, self._rules
        judge(*state, self._collisions, self._found, reward, ends[0], ends[1])
        return torch.from_numpy(reward), torch.from_numpy(ends[0]), torch.from_numpy(ends[1])

    def _begin(self, ids: Tensor) -> None:
        rows = ids.numpy()
        low, high = self.layout.bay[:2], self.layout.bay[2:]
        where = np.stack([self._uniform(rows) for _ in range(2)], 1)
        self._pose[rows, :2] = low + where * (high - low)
        self._pose[rows, 2] = 2 * np.pi * self._uniform(rows)
        self._speed[rows], self._direction[rows] = 0, 1
        moves = self.target_speed > 0
        self._place[rows] = self._uniform(rows) * self.layout.lane_length if moves else 0
        self._collisions[rows], self._elapsed[rows] = 0, 0
        self._contact[rows], self._found[rows] = False, False

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        targets = self._targets()
        obs = {
            name: np.empty((self.num_envs, *(space.shape or ())), np.float32)
            for name, space in self.obs_space.spaces.items()
        }
        layout, seen = self.layout, (obs["lidar"], obs["motion"], obs["target"])
        hall = layout.racks, layout.size, self._beams, self.lidar_range, self._sight
        sense(self._pose, self._speed, targets, *hall, self._units, *seen)
        info = {
            "position": self._pose[:, :2].astype(np.float32),
            "target_position": targets.astype(np.float32),
            "collisions": self._collisions.astype(np.float32),
            "success": self._found.astype(np.int8),
        }
        parts = [{k: torch.from_numpy(v) for k, v in part.items()} for part in (obs, info)]
        if ids is not self._all:
            parts = [take(part, ids) for part in parts]
        return parts[0], parts[1]

    def _targets(self) -> np.ndarray:
        """Position [N, 2] of each target in metres."""
        targets = np.empty((self.num_envs, 2))
        locate(self._place, self.layout.corners, self.layout.ends, targets)
        return targets

    def _uniform(self, rows: np.ndarray) -> np.ndarray:
        """Draw [M] float64 in [0, 1) for the environments `rows` [M] int64."""
        self._draw[rows], numbers = splitmix(self._draw[rows])
        return numbers
