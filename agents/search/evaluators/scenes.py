"""Draw small pictures of the worlds of our own, from the numbers that describe a moment."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from PIL import Image, ImageDraw

from firstlight.agents.search.evaluators.base import PICTURE
from firstlight.agents.search.evaluators.scene_kernels import draw_capsules
from firstlight.envs.worlds.curling import Curling
from firstlight.envs.worlds.curling_kernels import (
    BALL,
    BASE_Y,
    HALF_WIDTH,
    INNER,
    LOWER,
    UPPER,
)
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.envs.worlds.redundant_arm import WALLS, RedundantArm
from firstlight.envs.worlds.redundant_arm_kernels import LINK
from firstlight.envs.worlds.robot_kernels import RADIUS
from firstlight.envs.worlds.robot_maps import SIZE

_FINE = 10  # times PICTURE, for backgrounds that are then reduced
_GREY, _PAPER = (90, 90, 90), (244, 244, 240)
_BLUE, _RED = (50, 90, 190), (205, 60, 50)


class Scene(ABC):
    """Draws moments of one world: its walls, and what moves as discs and bars.

    Attributes:
        background: [64, 64, 3] float64.
        colours: [C, 3] float64, of the capsules.
    """

    background: np.ndarray
    colours: np.ndarray

    def draw(self, scenes: np.ndarray) -> np.ndarray:
        """Draw scenes [B, S, K] as [B, S, 64, 64, 3] uint8."""
        flat = scenes.reshape(-1, scenes.shape[-1])
        pictures = np.empty((len(flat), PICTURE, PICTURE, 3), np.uint8)
        draw_capsules(self.background, self.capsules(flat), self.colours, pictures)
        return pictures.reshape(*scenes.shape[:2], PICTURE, PICTURE, 3)

    @abstractmethod
    def capsules(self, scenes: np.ndarray) -> np.ndarray:
        """Place what moves: [M, C, 5] in pixels, see `draw_capsules`, of scenes [M, K]."""


class MazeScene(Scene):
    """Robot of `HardMaze` among its walls; scenes are x, y and heading."""

    def __init__(self, maze: HardMaze):
        self.background = _reduced(Image.fromarray(maze.map.picture()))
        self.colours = np.array([_BLUE], np.float64)

    def capsules(self, scenes: np.ndarray) -> np.ndarray:
        """A disc where the robot is."""
        unit = PICTURE / SIZE
        at = scenes[:, None, [0, 1, 0, 1]] * unit
        return np.concatenate([at, np.full((len(at), 1, 1), RADIUS * unit)], -1)


class CurlingScene(Scene):
    """Arm and ball of `Curling`; scenes are x and y of the ball and the angles of the joints."""

    def __init__(self, curling: Curling):
        picture, draw = _canvas(_GREY)
        margin = (1.5 - INNER) / 3 * picture.width
        far = picture.width - margin
        draw.rectangle((margin, margin, far, far), fill=_PAPER)
        self.background = _reduced(picture)
        self.colours = np.array([_BLUE, _BLUE, _RED], np.float64)

    def capsules(self, scenes: np.ndarray) -> np.ndarray:
        """Two links and the ball."""
        x, y, first, second = scenes.T
        joint_x, joint_y = -UPPER * np.sin(first), BASE_Y + UPPER * np.cos(first)
        reach = LOWER - HALF_WIDTH
        end_x = joint_x - reach * np.sin(first + second)
        end_y = joint_y + reach * np.cos(first + second)
        zero, base = np.zeros(len(scenes)), np.full(len(scenes), BASE_Y)
        link, ball = np.full(len(scenes), HALF_WIDTH), np.full(len(scenes), BALL)
        bars = [
            (zero, base, joint_x, joint_y, link),
            (joint_x, joint_y, end_x, end_y, link),
            (x, y, x, y, ball),
        ]
        unit = PICTURE / 3
        drawn = [
            ((a + 1.5) * unit, (1.5 - b) * unit, (c + 1.5) * unit, (1.5 - d) * unit, r * unit)
            for a, b, c, d, r in bars
        ]
        return np.stack([np.stack(bar, -1) for bar in drawn], 1)


class ArmScene(Scene):
    """Links of `RedundantArm`; scenes are the tip's x and y and the angles of the joints."""

    def __init__(self, arm: RedundantArm):
        picture, draw = _canvas(_PAPER)
        side = picture.width
        for x, y, width, height in WALLS:
            box = (x * side, (1 - y - height) * side, (x + width) * side, (1 - y) * side)
            draw.rectangle(box, fill=_GREY)
        self.background = _reduced(picture)
        joints = len(arm.first_angles)
        self.colours = np.array([*[_BLUE] * joints, _RED], np.float64)

    def capsules(self, scenes: np.ndarray) -> np.ndarray:
        """A bar for each link, and a disc at the tip."""
        heading = np.pi / 2 + scenes[:, 2:].cumsum(1)
        moved = LINK * np.stack([np.cos(heading), np.sin(heading)], -1)  # [M, J, 2]
        points = 0.5 + np.concatenate([np.zeros_like(moved[:, :1]), moved.cumsum(1)], 1)
        points = points * [PICTURE, -PICTURE] + [0, PICTURE]
        bars = np.concatenate([points[:, :-1], points[:, 1:]], -1)
        tip = points[:, -1:][:, :, [0, 1, 0, 1]]
        ends = np.concatenate([bars, tip], 1)  # [M, J + 1, 4]
        radius = np.full((*ends.shape[:2], 1), 0.5)
        radius[:, -1] = LINK / 5 * PICTURE
        return np.concatenate([ends, radius], -1)


def _canvas(colour: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    side = _FINE * PICTURE
    picture = Image.new("RGB", (side, side), colour)
    return picture, ImageDraw.Draw(picture)


def _reduced(picture: Image.Image) -> np.ndarray:
    small = picture.resize((PICTURE, PICTURE), Image.Resampling.BOX)
    return np.asarray(small, np.float64)
