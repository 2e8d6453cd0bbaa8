"""Ant in a maze of walls, on MuJoCo: a reward where it stands at the end, and no other."""

from __future__ import annotations

import functools
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from firstlight.envs.vector.gym import GymVec

START = (-25.0, -25.0, 0.6)
"""Position of the torso at the start, m."""

GOALS = ((35.0, -25.0, 3.0), (-25.0, 35.0, 3.0))
"""Reward areas, x, y and radius."""

CENTRE, SIDE = 5.0, 70.0
"""Centre of the square inside of the outer walls, along both axes, and its side; m."""

_LOW, _HIGH = CENTRE - SIDE / 2, CENTRE + SIDE / 2
WALLS = (
    (_LOW, _LOW, _LOW, _HIGH),
    (_HIGH, _LOW, _HIGH, _HIGH),
    (_LOW, _LOW, _HIGH, _LOW),
    (_LOW, _HIGH, _HIGH, _HIGH),
    (-15.0, 3.0, -15.0, 37.0),
    (-16.0, -15.0, 10.0, -15.0),
    (10.0, -30.0, 10.0, 0.0),
)
"""Walls: x and y of both ends of the centre line."""

_HALF_THICKNESS, _HALF_HEIGHT = 0.3, 2.0


class AntMaze(gymnasium.Env):
    """Ant maze of SERENE and STAX (Paolo et al. 2021, 2024), with Gymnasium's ant.

    The ant starts in one corner; the reward is (r - d) / r at distance d from the centre of a goal
    of radius r, at the last step, which terminates the episode. Falling over does not end it. An
    action sets the torques of eight joints, from -1 to 1, for `frame_skip` steps of the simulation.

    A policy sees 15 positions, of which x and y are ``(q - 5) / 70``, and 14 speeds. `info` has
    `position`, x and y in m; `area`, 1 + the number of the goal that the ant is in, or 0; and
    `success`, whether it is in one.

    Walls, goals, start, noise and observation are the published ones; the published file gives the
    ant steps of 0.005 s and a mass of 25,755, Gymnasium's has 0.01 s and less than a kilogram.

    Args:
        max_steps: of an episode; 3,000 as in SERENE, STAX has 1,000.
        goals: x, y and radius of each.
        frame_skip: steps of the simulation for an action.
        render_mode: "rgb_array", or None.

    Raises:
        ImportError: if MuJoCo is not installed.
        ValueError: for `max_steps` below 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        *,
        max_steps: int = 3000,
        goals: Sequence[Sequence[float]] = GOALS,
        frame_skip: int = 5,
        render_mode: str | None = None,
    ):
        if max_steps < 1:
            raise ValueError(f"max_steps is {max_steps}, expected at least 1")
        self.max_steps, self.render_mode = max_steps, render_mode
        self.goals = np.asarray(goals, np.float64).reshape(-1, 3)
        self._ant = _make_ant(frame_skip, render_mode)
        self._ant.init_qpos[:3] = START
        self.observation_space = spaces.Box(-np.inf, np.inf, (29,), np.float32)
        self.action_space = spaces.Box(-1, 1, (8,), np.float32)
        self._elapsed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        obs, _ = self._ant.reset(seed=int(self.np_random.integers(2**31)))
        self._elapsed = 0
        return _scaled(obs), self._info(obs)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply torques [8]."""
        obs = self._ant.step(np.asarray(action, np.float64))[0]
        self._elapsed += 1
        over = self._elapsed >= self.max_steps
        reward = max(0.0, float(self._closeness(obs).max())) if over and len(self.goals) else 0.0
        return _scaled(obs), reward, over, False, self._info(obs)

    def render(self) -> Any:
        """Picture [480, 480, 3] uint8, or None without a `render_mode`."""
        return self._ant.render()

    def close(self) -> None:
        """Free the renderer."""
        self._ant.close()

    def _closeness(self, obs: np.ndarray) -> np.ndarray:
        """1 - distance / radius for each goal [G]; negative outside."""
        return 1 - np.hypot(*(self.goals[:, :2] - obs[:2]).T) / self.goals[:, 2]

    def _info(self, obs: np.ndarray) -> dict[str, Any]:
        inside = np.flatnonzero(self._closeness(obs) > 0)
        area = int(inside[-1]) + 1 if len(inside) else 0
        return {"position": obs[:2].astype(np.float32), "area": area, "success": area > 0}


def make_ant_maze(num_envs: int = 8, *, asynchronous: bool = False, **options: Any) -> GymVec:
    """Make `num_envs` ant mazes, with their side channels.

    Args:
        num_envs: `N`.
        asynchronous: step each in a process of its own.
        **options: of `AntMaze`.
    """
    goals = options.get("goals", GOALS)
    info = {
        "position": spaces.Box(np.float32(_LOW), np.float32(_HIGH), (2,)),
        "area": spaces.Discrete(len(goals) + 1),
    }
    factory = functools.partial(AntMaze, **options)
    vec = GymVec([factory] * num_envs, asynchronous=asynchronous, info_space=spaces.Dict(info))
    vec.max_steps = options.get("max_steps", 3000)
    return vec


def _make_ant(frame_skip: int, render_mode: str | None) -> Any:
    """Make Gymnasium's ant among the walls, without a reward of its own."""
    try:
        from gymnasium.envs.mujoco.ant_v5 import AntEnv
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ImportError("MuJoCo is not installed: pip install 'firstlight[mujoco]'") from error
    with tempfile.TemporaryDirectory() as folder:  # the model is read from a file, once
        path = Path(folder) / "ant_maze.xml"
        path.write_text(model_with_walls())
        return AntEnv(
            str(path),
            frame_skip=frame_skip,
            terminate_when_unhealthy=False,
            exclude_current_positions_from_observation=False,
            include_cfrc_ext_in_observation=False,
            render_mode=render_mode,
        )


def model_with_walls() -> str:
    """Return Gymnasium's model of the ant with the walls of the maze, as XML."""
    model = ET.parse(Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "ant.xml")
    world = model.getroot().find("worldbody")
    assert world is not None
    for from_x, from_y, to_x, to_y in WALLS:
        half = (to_x - from_x) / 2 + _HALF_THICKNESS, (to_y - from_y) / 2 + _HALF_THICKNESS
        attributes = {
            "type": "box",
            "pos": f"{(from_x + to_x) / 2} {(from_y + to_y) / 2} {_HALF_HEIGHT}",
            "size": f"{half[0]} {half[1]} {_HALF_HEIGHT}",
            "conaffinity": "1",
            "rgba": "0.5 0.5 0.5 1",
        }
        ET.SubElement(world, "geom", attributes)
    return ET.tostring(model.getroot(), encoding="unicode")


def _scaled(obs: np.ndarray) -> np.ndarray:
    """Observation [29] float32, with the position in shares of the maze."""
    out = obs.astype(np.float32)
    out[:2] = (obs[:2] - CENTRE) / SIDE
    return out
