"""NetHack as a Gymnasium environment that keeps to its seeds, its time limit and its buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from firstlight.envs.nethack.channels import Progress, check_views, nle_spaces
from firstlight.envs.nethack.draw import draw_terminal
from firstlight.envs.nethack.game import ACTIONS, Game
from firstlight.envs.nethack.tasks import TASKS, TIME, Moment, around
from firstlight.envs.seeding import derive


class NetHack(gymnasium.Env):
    """A task of NetHack.

    An episode follows from the seed of its reset and the actions alone. Death, and the goal of a
    task that ends at it, terminate; the time limit truncates. The last observation is the game's
    last moment, not the questions after it. `info` has the channels of `channel_spaces`, and
    `success` (0 or 1, from the goal on 1) where the task has a goal.

    Args:
        task: name in `nethack_tasks.TASKS`.
        keys: NLE's observations to show.
        max_episode_steps: time limit; default the task's, 5000.
        actions: name of a set in `nethack_game.ACTIONS`; default the task's.
        answers: see `Game`; default the task's.
        penalty: see `Task`; default the task's.
        character: see `Game`.
        text: carry the top line as the side channel `message`.
        savedir: folder for recordings (ttyrec); None for none.

    Raises:
        ValueError: for a task, a key or a set of actions that does not exist.

    >>> env = NetHack("score")
    >>> obs, info = env.reset(seed=0)
    >>> obs["glyphs"].shape, info["depth"]
    ((21, 79), 1)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        *,
        keys: Sequence[str] = ("glyphs", "blstats", "message"),
        max_episode_steps: int | None = None,
        actions: str | None = None,
        answers: bool | None = None,
        penalty: float | None = None,
        character: str = "mon-hum-neu-mal",
        text: bool = False,
        savedir: str | Path | None = None,
    ):
        if task not in TASKS:
            raise ValueError(f"there is no NetHack task {task!r}; there are {', '.join(TASKS)}")
        self.task = TASKS[task]
        actions = self.task.actions if actions is None else actions
        if actions not in ACTIONS:
            raise ValueError(f"actions is one of {', '.join(ACTIONS)}, not {actions!r}")
        limit = self.task.steps if max_episode_steps is None else max_episode_steps
        if limit < 1:
            raise ValueError(f"max_episode_steps is {limit}, expected at least 1")
        self.keys, self.limit, self.text = tuple(keys), limit, text
        self.penalty = self.task.penalty if penalty is None else penalty
        self.observation_space: spaces.Dict = nle_spaces(self.keys)
        self._actions = tuple(int(key) for key in ACTIONS[actions])
        self.action_space = spaces.Discrete(len(self._actions))
        self.game = Game(
            self.keys,
            character=character,
            answers=self.task.answers if answers is None else answers,
            options=self.task.options,
            savedir=savedir,
        )
        self._views: dict[str, np.ndarray] = {}
        self._copied: dict[str, np.ndarray] = {}  # those of them that NetHack does not write into
        self._steps, self._reached, self._ended = 0, False, True

    def set_buffers(self, views: Mapping[str, np.ndarray]) -> None:
        """Have every observation written into `views` from now on.

        Without a copy if this is called before the first reset, else with one. Observations of
        those names are then the views themselves, which the next step overwrites.

        Args:
            views: by name of the observation, arrays of its shape and dtype.

        Raises:
            ValueError: for a name, shape or dtype that does not fit.
        """
        check_views(views, self.observation_space)
        self._views |= views
        if not self.game.set_buffers(views):
            self._copied |= views
            self._obs()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin a game. Without a seed it follows from the last seed given."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self.game.reset(*(derive(seed, f"nethack.{name}") for name in ("core", "disp", "levels")))
        self._steps, self._reached, self._ended = 0, False, False
        self._progress = Progress()
        self._before = self._moment(explored=0)
        self._note()
        return self._obs(), self._info()

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take the action with this number; its key may have others follow, see `Game`."""
        if self._ended:
            raise RuntimeError("the episode is over: reset the environment")
        key = self._actions[action]
        self.game.act(key)
        self._steps += 1
        self._note()
        now = self._moment(self._progress.explored)
        reward, arrived = self._rate(key, now)
        self._before = now
        terminated = self.game.over or (arrived and self.task.ends)
        truncated = self._steps >= self.limit and not terminated
        self._ended = terminated or truncated
        return self._obs(), reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Picture of the terminal, [264, 480, 3] uint8."""
        buffers = self.game.buffers
        row, column = buffers["tty_cursor"].tolist()
        return draw_terminal(buffers["tty_chars"], buffers["tty_colors"], (row, column))

    def close(self) -> None:
        """Free the game; may be called twice."""
        self.game.close()

    def _rate(self, key: int, now: Moment) -> tuple[float, bool]:
        """Reward of the step, and whether it reached the goal; death has no reward."""
        if self.game.over:
            return 0.0, False
        task, before = self.task, self._before
        reward = self.penalty if before.blstats[TIME] == now.blstats[TIME] else 0.0
        if task.gain is not None:
            reward += task.gain(before, now)
        arrived = not self._reached and task.goal is not None and task.goal(before, key, now)
        self._reached |= arrived
        return reward + task.pays * arrived, arrived

    def _note(self) -> None:
        game = self.game
        self._progress.note(game.buffers["glyphs"], game.buffers["blstats"], game.said)

    def _moment(self, explored: int) -> Moment:
        buffers = self.game.buffers
        blstats = buffers["blstats"].copy()
        near = around(buffers["glyphs"], blstats)
        return Moment(blstats, buffers["internal"].copy(), near, explored)

    def _obs(self) -> dict[str, np.ndarray]:
        buffers, views = self.game.buffers, self._views
        for key, view in self._copied.items():
            view[...] = buffers[key]
        return {key: views[key] if key in views else buffers[key].copy() for key in self.keys}

    def _info(self) -> dict[str, Any]:
        buffers = self.game.buffers
        message = buffers["message"] if self.text else None
        info = self._progress.channels(buffers["blstats"], message)
        return info if self.task.goal is None else info | {"success": int(self._reached)}
