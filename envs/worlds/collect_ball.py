"""Robot that carries balls to a drop zone."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw
from torch import Tensor

from firstlight.envs.types import Obs, take
from firstlight.envs.worlds.array_backed import ArrayBacked, Autoreset
from firstlight.envs.worlds.collect_ball_kernels import (
    GONE,
    LYING,
    REACH,
    sense_collectors,
    step_collectors,
)
from firstlight.envs.worlds.hard_maze import draw_robot
from firstlight.envs.worlds.robot_kernels import LASER_RANGE, LASERS
from firstlight.envs.worlds.robot_maps import SIZE, collect_ball_arena

DROP_ZONE = (100.0, 500.0)
"""Where balls are delivered, and where the robot starts; units, y down."""

BALLS = (
    (75.0, 75.0),
    (75.0, 540.0),
    (225.0, 540.0),
    (450.0, 450.0),
    (450.0, 75.0),
    (225.0, 225.0),
)
"""Where the balls lie at the start."""

TRAVEL = 2.0  # units that a wheel travels in a step at most


class CollectBall(ArrayBacked):
    """Robot that collects balls (SERENE, Paolo et al. 2021), in the simulator of `HardMaze`.

    Two actions from -1 to 1 are the travel of both wheels, up to 2 units; a third one is the
    gripper. Where it is above 0, a robot without a ball takes the first one within 10 units. At 0
    or below, a robot puts its ball down, and within 10 units of the drop zone delivers it: the ball
    is gone, and the reward is 1. An episode terminates after `max_steps`. Nothing is random.

    A policy sees `sensors`, 10 numbers from 0 to 1: the distances along lasers at +45, 0 and -45
    degrees in shares of 100 units, the left and the right bumper, whether the sectors of 50 degrees
    around -20 and +20 degrees hold a ball in sight, the same around +20 and -20 degrees for the
    drop zone, and whether a ball is held. Positive angles are to the right. Side channels:
    `position`, x and y in units; `delivered`, number of balls; `success`, whether it is above 0.

    The published code gives the start heading 45 to a function of radians (`start_heading=45.0`),
    and compares balls and drop zone with the position before the move (`handle_previous_position`;
    there also, in the first step, with the last one of the episode before). Six deliveries need
    4,500 units or more, and 4,000 can be driven in 2,000 steps: five is the practical maximum.

    Args:
        num_envs: `N`.
        max_steps: steps of an episode.
        start_heading: rad.
        handle_previous_position: take and put down where the robot was before the move.
        autoreset: "same_step" resets in the step that ends an episode, "next_step" in the next one.

    Raises:
        ValueError: for numbers below 1.

    >>> world = CollectBall(num_envs=1)
    >>> [round(x, 2) for x in world.reset()[0]["sensors"][0].tolist()]
    [0.84, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    _saved = ("pose", "places", "states", "sensors", "elapsed", "over")

    reported = ("delivered",)
    success_threshold = 0.0
    max_steps: int

    def __init__(
        self,
        num_envs: int = 16,
        *,
        max_steps: int = 2000,
        start_heading: float = np.pi / 4,
        handle_previous_position: bool = False,
        autoreset: Autoreset = "same_step",
    ):
        if min(num_envs, max_steps) < 1:
            raise ValueError(
                f"num_envs is {num_envs} and max_steps {max_steps}, expected at least 1"
            )
        super().__init__(num_envs, autoreset)
        self.max_steps, self.handle_previous_position = max_steps, handle_previous_position
        self.start = np.array([*DROP_ZONE, start_heading])
        self.map, self._drop = collect_ball_arena(), np.array(DROP_ZONE)
        self._units = np.array([LASER_RANGE] * len(LASERS) + [1.0] * 7)
        self.obs_space = spaces.Dict({"sensors": spaces.Box(0, 1, (10,))})
        self.info_space = spaces.Dict(
            {
                "position": spaces.Box(0, np.float32(SIZE), (2,)),
                "delivered": spaces.Discrete(len(BALLS) + 1),
                "success": spaces.Box(-1, 1, (), np.int8),
            }
        )
        self.act_space: spaces.Space = spaces.Box(-1, 1, (3,))
        self._pose = np.tile(self.start, (num_envs, 1))
        self._places = np.tile(np.array(BALLS), (num_envs, 1, 1))
        self._states = np.full((num_envs, len(BALLS)), LYING, np.int64)
        self._sensors = np.zeros((num_envs, 10))
        self._elapsed = np.zeros(num_envs, np.int64)
        self.reset(0)

    def reset(self, seed: int | None = None) -> tuple[Obs, Obs]:
        """Begin an episode in every environment; nothing depends on `seed`."""
        return self._begin_all()

    def render(self, env_id: int = 0) -> np.ndarray:
        """Picture from above, [600, 600, 3] uint8: drop zone green, balls orange, robot blue."""
        picture = Image.fromarray(self.map.picture())
        draw = ImageDraw.Draw(picture)
        x, y = DROP_ZONE
        draw.ellipse((x - REACH, y - REACH, x + REACH, y + REACH), outline=(60, 160, 70), width=3)
        for place, state in zip(self._places[env_id], self._states[env_id], strict=True):
            if state == LYING:
                x, y = place.tolist()
                draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(230, 140, 30))
        draw_robot(draw, self._pose[env_id], self._sensors[env_id])
        return np.asarray(picture)

    def _advance(self, actions: np.ndarray, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward = np.zeros(self.num_envs)
        step_collectors(
            self._pose,
            actions[:, :2] * np.float64(TRAVEL),
            actions[:, 2],
            self._drop,
            self._places,
            self._states,
            self.handle_previous_position,
            self.map.clearance,
            self.map.blocked,
            self._sensors,
            reward,
        )
        self._elapsed += 1
        done = torch.from_numpy(self._elapsed >= self.max_steps)
        return torch.from_numpy(reward.astype(np.float32)), done, torch.zeros_like(done)

    def _begin(self, ids: Tensor) -> None:
        rows = ids.numpy()
        self._pose[rows], self._places[rows] = self.start, BALLS
        self._states[rows], self._elapsed[rows] = LYING, 0
        pose, places, states = self._pose[rows], self._places[rows], self._states[rows]
        sensors = np.zeros((len(rows), 10))
        sense_collectors(pose, self._drop, places, states, self.map.clearance, sensors)
        self._sensors[rows] = sensors

    def _observe(self, ids: Tensor) -> tuple[Obs, Obs]:
        delivered = (self._states == GONE).sum(1)
        obs = {"sensors": torch.from_numpy((self._sensors / self._units).astype(np.float32))}
        fields = {
            "position": self._pose[:, :2].astype(np.float32),
            "delivered": delivered.astype(np.int64),
            "success": (delivered > 0).astype(np.int8),
        }
        info = {name: torch.from_numpy(field) for name, field in fields.items()}
        return (obs, info) if ids is self._all else (take(obs, ids), take(info, ids))
