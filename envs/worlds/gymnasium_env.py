"""Worlds as Gymnasium environments, and the ids under which `gymnasium.make` finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from firstlight.envs.types import Obs
from firstlight.envs.worlds.array_backed import ArrayBacked
from firstlight.envs.worlds.collect_ball import CollectBall
from firstlight.envs.worlds.curling import Curling
from firstlight.envs.worlds.hard_maze import HardMaze
from firstlight.envs.worlds.redundant_arm import RedundantArm
from firstlight.envs.worlds.warehouse import MAX_STEPS, Warehouse


class WorldEnv(gymnasium.Env):
    """One environment of a world, with Gymnasium's interface.

    Observations are dictionaries of arrays, and `info` has the side channels. Every episode has a
    seed of its own, drawn from `np_random`.

    Args:
        world: makes the environments; called with `num_envs`, `autoreset` and `options`.
        render_mode: "rgb_array", or None.
        options: further keywords of `world`.

    >>> env = WorldEnv(Warehouse, scene="complex_static")
    >>> obs, info = env.reset(seed=0)
    >>> obs["lidar"].shape, sorted(info)
    ((24,), ['collisions', 'position', 'success', 'target_position'])
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, world: Callable[..., ArrayBacked], *, render_mode: str | None = None, **options: Any
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}, expected 'rgb_array' or None")
        self.render_mode = render_mode
        self.vec = world(num_envs=1, autoreset="next_step", **options)
        self.observation_space, self.action_space = self.vec.obs_space, self.vec.act_space
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        obs, info = self.vec.reset(int(self.np_random.integers(2**31)))
        self._over = False
        return _first(obs), _first(info)

    def step(
        self, action: Any
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, np.ndarray]]:
        """Step the environment; `action` is one of `action_space`.

        Raises:
            RuntimeError: before `reset`, and after the end of an episode.
            ValueError: for an invalid action.
        """
        if self._over:
            raise RuntimeError("no episode is open: call reset()")
        step = self.vec.step(torch.from_numpy(np.asarray(action, self.action_space.dtype)[None]))
        terminated, truncated = bool(step.terminated), bool(step.truncated)
        self._over = terminated or truncated
        return _first(step.obs), float(step.reward), terminated, truncated, _first(step.info)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Picture [H, W, 3] uint8, or None without a `render_mode`."""
        return None if self.render_mode is None else self.vec.render()


def _first(fields: Obs) -> dict[str, Any]:
    """Fields of the only environment, as arrays and numbers."""
    return {name: field[0].numpy()[()] for name, field in fields.items()}


def make_warehouse(**options: Any) -> WorldEnv:
    """Make a `Warehouse` as a `WorldEnv`, which takes the same `options`."""
    return WorldEnv(Warehouse, **options)


def make_hard_maze(**options: Any) -> WorldEnv:
    """Make a `HardMaze` as a `WorldEnv`, which takes the same `options`."""
    return WorldEnv(HardMaze, **options)


def make_collect_ball(**options: Any) -> WorldEnv:
    """Make a `CollectBall` as a `WorldEnv`, which takes the same `options`."""
    return WorldEnv(CollectBall, **options)


def make_redundant_arm(**options: Any) -> WorldEnv:
    """Make a `RedundantArm` as a `WorldEnv`, which takes the same `options`."""
    return WorldEnv(RedundantArm, **options)


def make_curling(**options: Any) -> WorldEnv:
    """Make a `Curling` as a `WorldEnv`, which takes the same `options`."""
    return WorldEnv(Curling, **options)


def register() -> None:
    """Register an id for each scene of `Warehouse`, and one for each other world with an id."""
    for name, make in (
        ("HardMaze", make_hard_maze),
        ("CollectBall", make_collect_ball),
        ("RedundantArm", make_redundant_arm),
        ("Curling", make_curling),
    ):
        gymnasium.register(f"firstlight/{name}-v0", entry_point=f"{__name__}:{make.__name__}")
    for scene in MAX_STEPS:
        gymnasium.register(
            f"firstlight/Warehouse{scene.title().replace('_', '')}-v0",
            entry_point=f"{__name__}:{make_warehouse.__name__}",
            kwargs={"scene": scene},
        )
