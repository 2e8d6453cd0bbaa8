"""MiniGrid by the Python package, with the side channels of the other backends."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import Ball
from minigrid.envs import MultiRoomEnv
from torch import Tensor

from firstlight.envs.minigrid.cells import AGENT, position_space
from firstlight.envs.text import MISSION_BYTES, encode_text
from firstlight.envs.vector.gym import GymVec


class NoisyTV(MultiRoomEnv):
    """MultiRoom with a ball in the first room, to which `drop` gives a random colour.

    The noisy TV of RIDE (Raileanu and Rocktäschel 2020): the colour changes wherever the agent is,
    also while it carries the ball. Nothing can be dropped.
    """

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)
        self.screen = Ball(self._rand_color())
        self.place_obj(self.screen, self.rooms[0].top, self.rooms[0].size)

    def step(self, action: Any) -> Any:
        """Step; `drop` changes the colour of the ball."""
        if action != self.actions.drop:
            return super().step(action)
        self.screen.color = self._rand_elem(COLOR_NAMES)
        return super().step(self.actions.done)


class Channels(gymnasium.Wrapper):
    """Wrapper that puts side channels into `info`, and the whole grid into `image` on request.

    Args:
        env: environment of the Python package.
        view: "partial" or "full".
        names: channels to fill: any of `agent_pos`, `full_grid` and `mission`.
    """

    def __init__(self, env: gymnasium.Env, view: str, names: tuple[str, ...]):
        super().__init__(env)
        self._view, self._names = view, names
        known = env.observation_space.spaces  # type: ignore[attr-defined]
        if view == "full":
            self.observation_space = spaces.Dict({**known, "image": whole_grid(env)})

    def reset(self, **options: Any) -> Any:
        """Begin an episode."""
        obs, info = self.env.reset(**options)
        return self._viewed(obs), info | self._channels()

    def step(self, action: Any) -> Any:
        """Step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._viewed(obs), reward, terminated, truncated, info | self._channels()

    def _viewed(self, obs: dict[str, Any]) -> dict[str, Any]:
        return {**obs, "image": self._grid()} if self._view == "full" else obs

    def _grid(self) -> np.ndarray:
        env: Any = self.env.unwrapped
        cells = env.grid.encode()
        cells[tuple(env.agent_pos)] = AGENT, 0, env.agent_dir
        return cells

    def _channels(self) -> dict[str, np.ndarray]:
        env: Any = self.env.unwrapped
        channels = {"agent_pos": np.array(env.agent_pos, np.int64)}
        if "full_grid" in self._names:
            channels["full_grid"] = self._grid()
        if "mission" in self._names:
            channels["mission"] = encode_text(env.mission)
        return channels


class PythonVec(GymVec):
    """`GymVec` without the channel `success`, which MiniGrid never fills."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        kept = {k: s for k, s in self.info_space.spaces.items() if k != "success"}
        self.info_space = spaces.Dict(kept)

    def _info(self, info: dict[str, Any]) -> dict[str, Tensor]:
        channels = super()._info(info)
        del channels["success"]
        return channels


class Factory:
    """Factory of one environment, which can be pickled for another process.

    Args:
        task: registered id.
        made: module and class, and keywords, if `task` is not registered.
        view: see `Channels`.
        names: see `Channels`.
        options: further keywords of the environment.
    """

    def __init__(
        self,
        task: str,
        made: tuple[str, Mapping[str, Any]] | None,
        view: str,
        names: tuple[str, ...],
        options: Mapping[str, Any],
    ):
        self.task, self.made, self.view, self.names = task, made, view, names
        self.options = dict(options)

    def __call__(self) -> gymnasium.Env:
        """Create the environment."""
        options = {"render_mode": "rgb_array", **self.options}
        if self.made is None or self.task in gymnasium.registry:
            env = gymnasium.make(self.task, **options)
        else:
            module, _, name = self.made[0].partition(":")
            env = getattr(importlib.import_module(module), name)(**self.made[1], **options)
        return Channels(env, self.view, self.names)


def whole_grid(env: gymnasium.Env) -> spaces.Box:
    """Space of the whole grid of an environment, [W, H, 3] uint8."""
    inner: Any = env.unwrapped
    return spaces.Box(0, 255, (inner.width, inner.height, 3), np.uint8)


def make_python(
    task: str,
    made: tuple[str, Mapping[str, Any]] | None,
    *,
    num_envs: int,
    view: str = "partial",
    full_grid: bool = False,
    mission: bool = False,
    asynchronous: bool = False,
    **options: Any,
) -> PythonVec:
    """Create environments of the Python package.

    Args:
        task: registered id, or name of the task.
        made: see `Factory`.
        num_envs: `N`.
        view: "partial" or "full".
        full_grid: add the whole grid [W, H, 3] uint8 as a side channel.
        mission: add the task's sentence [96] uint8 as a side channel.
        asynchronous: one process per environment.
        **options: keywords of the environment, such as `max_steps`.
    """
    names = ("agent_pos", *["full_grid"] * full_grid, *["mission"] * mission)
    factory = Factory(task, made, view, names, options)
    env = factory()
    whole = whole_grid(env)
    aside: dict[str, spaces.Space] = {
        "agent_pos": position_space(*whole.shape[:2]),
        "full_grid": whole,
        "mission": spaces.Box(0, 255, (MISSION_BYTES,), np.uint8),
    }
    env.close()
    return PythonVec(
        [factory] * num_envs,
        asynchronous=asynchronous,
        success_threshold=0.0,
        info_space=spaces.Dict({name: aside[name] for name in names}),
    )
