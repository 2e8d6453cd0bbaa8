"""NetHack as a Gymnasium environment with seeded episodes, a time limit and buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gymnasium import spaces

from firstlight.envs.nethack.base_env import BaseNetHackEnv, NetHackObs, nethack_seeds
from firstlight.envs.nethack.channels import nle_spaces
from firstlight.envs.nethack.game import ACTIONS, Game
from firstlight.envs.nethack.tasks import TASKS, TIME, GameState, nearby_glyphs


class NetHackEnv(BaseNetHackEnv):
    """A NetHack task.

    An episode depends only on the seed of its reset and the actions. It terminates at the hero's
    death, and at the goal of a task that ends there; the time limit truncates it. The last
    observation is the last state of the game, not the questions after it. `info` has the side
    channels of `channel_spaces`, and if the task has a goal, `success`: 1 once it was reached in
    this episode, else 0.

    Args:
        task: name in `tasks.TASKS`.
        keys: names of NLE's observations.
        max_episode_steps: time limit; default the task's, 5000.
        actions: name of a set in `game.ACTIONS`; default the task's.
        answers: see `Game`; default the task's.
        penalty: see `NetHackTask`; default the task's.
        character: see `Game`.
        text: whether `info` has the top line as the side channel `message`.
        savedir: folder for recordings (ttyrec); None for none.

    Raises:
        ValueError: for an unknown task, observation or set of actions.

    >>> env = NetHackEnv("score")
    >>> obs, info = env.reset(seed=0)
    >>> obs["glyphs"].shape, info["depth"]
    ((21, 79), 1)
    """

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
        super().__init__(keys, limit, text)
        self.penalty = self.task.penalty if penalty is None else penalty
        self.observation_space = nle_spaces(self.keys)
        self._actions = tuple(int(key) for key in ACTIONS[actions])
        self.action_space = spaces.Discrete(len(self._actions))
        self.game = Game(
            self.keys,
            character=character,
            answers=self.task.answers if answers is None else answers,
            options=self.task.options,
            savedir=savedir,
        )
        self._copied: NetHackObs = {}  # views that NetHack does not write into
        self._reached = False

    def set_buffers(self, views: Mapping[str, np.ndarray]) -> None:
        """See `BaseNetHackEnv`; before the first reset NetHack itself writes, without a copy."""
        super().set_buffers(views)
        if not self.game.set_buffers(views):
            self._copied |= views
            self._obs()

    def close(self) -> None:
        """Free the game; may be called twice."""
        self.game.close()

    def _begin(self, seed: int) -> None:
        self.game.reset(*nethack_seeds(seed))
        self._reached = False
        self._before = self._state(explored=0)
        self._update_progress()

    def _act(self, action: int) -> tuple[float, bool]:
        key = self._actions[action]
        self.game.act(key)
        self._update_progress()
        after = self._state(self._progress.explored)
        reward, arrived = self._rate(key, after)
        self._before = after
        return reward, self.game.over or (arrived and self.task.terminates)

    def _buffer(self, name: str) -> np.ndarray:
        return self.game.buffers[name]

    def _obs(self) -> NetHackObs:
        buffers, views = self.game.buffers, self._views
        for key, view in self._copied.items():
            view[...] = buffers[key]
        return {key: views[key] if key in views else buffers[key].copy() for key in self.keys}

    def _success(self) -> bool | None:
        return None if self.task.goal is None else self._reached

    def _rate(self, key: int, after: GameState) -> tuple[float, bool]:
        """Reward of a step, and whether it reached the goal; the step of a death has reward 0."""
        if self.game.over:
            return 0.0, False
        task, before = self.task, self._before
        reward = self.penalty if before.blstats[TIME] == after.blstats[TIME] else 0.0
        if task.step_reward is not None:
            reward += task.step_reward(before, after)
        arrived = not self._reached and task.goal is not None and task.goal(before, key, after)
        self._reached |= arrived
        return reward + task.goal_reward * arrived, arrived

    def _update_progress(self) -> None:
        game = self.game
        self._progress.update(game.buffers["glyphs"], game.buffers["blstats"], game.messages)

    def _state(self, explored: int) -> GameState:
        buffers = self.game.buffers
        blstats = buffers["blstats"].copy()
        nearby = nearby_glyphs(buffers["glyphs"], blstats)
        return GameState(blstats, buffers["internal"].copy(), nearby, explored)
