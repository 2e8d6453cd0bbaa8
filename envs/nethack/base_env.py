"""Base class of the NetHack and MiniHack environments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from firstlight.envs.nethack.channels import EpisodeProgress
from firstlight.envs.nethack.draw import draw_terminal
from firstlight.envs.seeding import derive
from firstlight.envs.vector.buffered import BufferedEnv

SCREEN = ("tty_chars", "tty_colors", "tty_cursor")

NetHackObs = dict[str, np.ndarray]


class BaseNetHackEnv(gymnasium.Env, BufferedEnv):
    """A game with seeded episodes, a time limit that truncates, and buffers for observations.

    Args:
        keys: names of the observations.
        max_episode_steps: time limit.
        text: whether `info` has the top line as the side channel `message`.

    Raises:
        ValueError: if the time limit is below 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"
    observation_space: spaces.Dict

    def __init__(self, keys: Sequence[str], max_episode_steps: int, text: bool):
        if max_episode_steps < 1:
            raise ValueError(f"max_episode_steps is {max_episode_steps}, expected at least 1")
        self.keys, self.limit, self.text = tuple(keys), max_episode_steps, text
        self._views: NetHackObs = {}
        self._steps, self._over = 0, True

    def set_buffers(self, views: Mapping[str, np.ndarray]) -> None:
        """Write every observation into `views` from now on, and return them as observations.

        The next step so overwrites an observation.

        Args:
            views: by name of the observation, arrays of its shape and dtype.

        Raises:
            ValueError: for a name, shape or dtype that does not fit.
        """
        check_views(views, self.observation_space)
        self._views |= views

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NetHackObs, dict[str, Any]]:
        """Begin an episode; without a seed, from one drawn from the last seed given."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._progress = EpisodeProgress()
        self._begin(seed)
        self._steps, self._over = 0, False
        return self._obs(), self._info()

    def step(self, action: int) -> tuple[NetHackObs, float, bool, bool, dict[str, Any]]:
        """Step with the action of index `action`."""
        if self._over:
            raise RuntimeError("the episode is over: call reset()")
        reward, terminated = self._act(action)
        self._steps += 1
        truncated = self._steps >= self.limit and not terminated
        self._over = terminated or truncated
        return self._obs(), reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Picture of the terminal, [264, 480, 3] uint8."""
        chars, colors, cursor = (self._buffer(name) for name in SCREEN)
        row, column = cursor.tolist()
        return draw_terminal(chars, colors, (row, column))

    @abstractmethod
    def close(self) -> None:
        """Free the game; may be called twice."""

    @abstractmethod
    def _begin(self, seed: int) -> None:
        """Begin a game from `seed` alone."""

    @abstractmethod
    def _act(self, action: int) -> tuple[float, bool]:
        """Take an action. Returns the reward and whether the episode terminated."""

    @abstractmethod
    def _buffer(self, name: str) -> np.ndarray:
        """Array that NLE writes the observation `name` into."""

    @abstractmethod
    def _obs(self) -> NetHackObs:
        """The observation; copies, or views given to `set_buffers`."""

    @abstractmethod
    def _success(self) -> bool | None:
        """Whether the goal has been reached in this episode; None if there is no goal."""

    def _info(self) -> dict[str, Any]:
        message = self._buffer("message") if self.text else None
        info = self._progress.channels(self._buffer("blstats"), message)
        success = self._success()
        return info if success is None else info | {"success": int(success)}


def nethack_seeds(seed: int) -> tuple[int, int, int]:
    """Derive the seeds of NetHack's generators: of events, of what is shown, of levels."""
    core, disp, levels = (derive(seed, f"nethack.{name}") for name in ("core", "disp", "levels"))
    return core, disp, levels


def check_views(views: Mapping[str, np.ndarray], space: spaces.Dict) -> None:
    """Check that observations of `space` can be written into `views` as they are.

    Raises:
        ValueError: naming a view of an unknown name, of another shape or dtype, that is not
            contiguous, or that is read-only.
    """
    for name, view in views.items():
        if name not in space.spaces:
            raise ValueError(f"there is no observation {name!r}; there are {sorted(space.spaces)}")
        one = space[name]
        if view.shape != one.shape or view.dtype != one.dtype:
            expected = f"{one.dtype} {one.shape}"
            raise ValueError(f"the view of {name!r} is {view.dtype} {view.shape}, not {expected}")
        if not (view.flags.c_contiguous and view.flags.writeable):
            raise ValueError(f"the view of {name!r} is not contiguous, or cannot be written")
