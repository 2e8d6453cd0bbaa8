"""MiniHack as Gymnasium environments with seeded levels and a time limit that truncates."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from firstlight.envs.nethack.base_env import SCREEN, BaseNetHackEnv, NetHackObs, nethack_seeds
from firstlight.envs.nethack.channels import is_closed_door, key_channels
from firstlight.envs.nethack.game import (
    AGENT_QUESTIONS,
    ESCAPE,
    LINE,
    MAX_KEYS,
    OVER,
    QUESTION,
    SPACE,
    WAITS,
)
from firstlight.envs.nethack.tasks import X, Y
from firstlight.envs.seeding import derive

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that pkg_resources, which minihack imports, is deprecated
    import minihack  # noqa: F401  (registers the ids)
    from minihack import MiniHack
    from minihack.envs.keyroom import MiniHackKeyDoor
    from minihack.envs.minigrid import MiniGridHack

logging.getLogger("nle.env.base").setLevel(logging.WARNING)  # it logs each game
_ENDLESS = 2**62
_ALWAYS = ("glyphs", "blstats", "message", "program_state", "internal")
_INVENTORY = ("inv_glyphs", "inv_letters", "inv_strs")
_DIRECTIONS = b"ykuh.lbjn"  # keys, by rows of the cells around the hero
_ATTEMPTS = 50


@contextlib.contextmanager
def shared_generators(seed: int) -> Iterator[None]:
    """Seed Python's and numpy's shared generators, and restore their states afterwards."""
    python, shared = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(shared)  # noqa: NPY002


class MiniHackLevel(BaseNetHackEnv):
    """A registered MiniHack task.

    MiniHack itself draws its levels from entropy whatever the seed of a reset. Here an episode
    depends only on the seed of its reset and the actions: every reset seeds NetHack's generators,
    those of the level's design and those of a MiniGrid inside. The time limit truncates, but a goal
    reached in the last step counts; the last observation is the last state of the game. `info` has
    the side channels of `channel_spaces`, and `success` (0 or 1).

    Args:
        task: id, such as "MiniHack-Room-5x5-v0".
        keys: names of MiniHack's observations.
        max_episode_steps: time limit; default the task's.
        text: whether `info` has the top line as the side channel `message`.
        savedir: folder for recordings (ttyrec); None for none.
        **options: further keywords of the environment.

    Raises:
        ValueError: for a task that is not registered, or that MiniHack cannot make.

    >>> env = MiniHackLevel("MiniHack-Room-5x5-v0")
    >>> obs, info = env.reset(seed=0)
    >>> sorted(obs), info["success"]
    (['blstats', 'glyphs', 'message'], 0)
    """

    def __init__(
        self,
        task: str,
        *,
        keys: Sequence[str] = ("glyphs", "blstats", "message"),
        max_episode_steps: int | None = None,
        text: bool = False,
        savedir: str | Path | None = None,
        **options: Any,
    ):
        if task not in gymnasium.registry:
            raise ValueError(f"there is no MiniHack task {task!r}")
        if savedir is not None:
            options |= {"savedir": str(savedir), "save_ttyrec_every": 1}
        options = {"fix_moon_phase": True, **options}
        with shared_generators(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                made = gymnasium.make(
                    task, disable_env_checker=True, observation_keys=tuple(keys), **options
                )
            except AssertionError as error:  # the Crossing tasks and MiniGrid 3
                raise ValueError(f"MiniHack cannot make {task} with this MiniGrid") from error
        level: Any = made.unwrapped
        assert isinstance(level, MiniHack)
        limit = level._max_episode_steps if max_episode_steps is None else max_episode_steps
        super().__init__(keys, limit, text)
        self.level, level._max_episode_steps = level, _ENDLESS
        # both would overwrite the last observation with the questions after the end
        level._quit_game = _do_not_quit
        level._perform_known_steps = functools.partial(_answer_prompts, level)
        level._get_time_penalty = functools.partial(_penalty, level, level._get_time_penalty)
        if isinstance(level, MiniHackKeyDoor):
            level.get_object_direction = DoorFinder(level)
        self.observation_space = level.observation_space
        self.action_space = level.action_space
        self._disable_unused_buffers()
        self._last_obs: Mapping[str, np.ndarray] = {}
        self._reached = False

    def close(self) -> None:
        """Free the game; may be called twice."""
        self.level.close()

    def _begin(self, seed: int) -> None:
        level, design = self.level, derive(seed, "nethack.design")
        with shared_generators(design):
            if isinstance(level, MiniGridHack):
                level.minigrid_env.reset(seed=design)
            core, disp, levels = nethack_seeds(seed)
            level.nethack.set_initial_seeds(core, disp, False, levels)
            self._last_obs, _ = level.reset(sample_seed=False)
        self._reached = False
        self._update_progress()

    def _act(self, action: int) -> tuple[float, bool]:
        self._last_obs, reward, terminated, _, info = self.level.step(action)
        self._reached = info["end_status"] == self.level.StepStatus.TASK_SUCCESSFUL
        self._update_progress()
        return float(reward), bool(terminated)

    def _buffer(self, name: str) -> np.ndarray:
        return self.level.nethack._obs_buffers[name]

    def _obs(self) -> NetHackObs:
        for key, view in self._views.items():
            view[...] = self._last_obs[key]
        views, last = self._views, self._last_obs
        return {key: views[key] if key in views else np.array(last[key]) for key in self.keys}

    def _success(self) -> bool | None:
        return self._reached

    def _info(self) -> dict[str, Any]:
        info = super()._info()
        if isinstance(self.level, MiniHackKeyDoor):
            info |= key_channels(self._buffer("glyphs"), self._buffer("inv_glyphs"))
        return info

    def _update_progress(self) -> None:
        message = self._buffer("message").tobytes()
        self._progress.update(self._buffer("glyphs"), self._buffer("blstats"), [message])

    def _disable_unused_buffers(self) -> None:
        """Spare NetHack 133 kB of descriptions in each step if nothing reads them."""
        level = self.level
        if level.reward_manager is not None:
            return
        inventory = _INVENTORY if isinstance(level, MiniHackKeyDoor) else ()
        shown = {key.removesuffix("_crop") for key in self.keys}
        if any(key.startswith("pixel") for key in shown):
            return
        game = level.nethack
        used = {name: game._obs_buffers[name] for name in {*_ALWAYS, *SCREEN, *inventory, *shown}}
        game._pynethack.set_buffers(**used)
        empty = np.zeros(0, np.uint8)
        game._obs = tuple(used.get(name, empty) for name in level._observation_keys)


class DoorFinder:
    """Finds the closed door beside the hero by glyphs, for MiniHack's action `apply`.

    MiniHack compares descriptions of the screen, 133 kB that NetHack would write in each step. It
    also walks against the door until it is open, without end if unlocking was interrupted: after
    `_ATTEMPTS` looks in one action none is found.

    Args:
        level: an environment of KeyRoom.
    """

    def __init__(self, level: Any):
        self._level, self._looks = level, 0

    def __call__(self, name: str, observation: Sequence[np.ndarray] | None = None) -> int | None:
        """Key of the direction of the first closed door around the hero; None if there is none.

        Args:
            name: what MiniHack looks for, which is always "closed door".
            observation: of the game; default the last one, where an action begins.
        """
        self._looks = 0 if observation is None else self._looks + 1
        seen = self._level.last_observation if observation is None else observation
        if self._looks > _ATTEMPTS:
            return None
        keys = self._level._observation_keys
        glyphs, line = seen[keys.index("glyphs")], seen[keys.index("blstats")]
        x, y = int(line[X]), int(line[Y])
        rows, columns = range(y - 1, y + 2), range(x - 1, x + 2)
        cells = [(row, column) for row in rows for column in columns]
        for key, (row, column) in zip(_DIRECTIONS, cells, strict=True):
            inside = 0 <= row < glyphs.shape[0] and 0 <= column < glyphs.shape[1]
            if inside and is_closed_door(glyphs[row, column]):
                return key
        return None


def _answer_prompts(
    level: Any, observation: Any, done: bool, exceptions: bool = True
) -> tuple[Any, bool]:
    """Answer prompts as NLE does, but stop when the game is over."""
    state, internal, message = (
        observation[level._observation_keys.index(name)]
        for name in ("program_state", "internal", "message")
    )
    for _ in range(MAX_KEYS):
        if done or state[OVER]:
            return observation, True
        if internal[WAITS]:
            observation, done = level.nethack.step(SPACE)
        elif internal[LINE]:
            observation, done = level.nethack.step(ESCAPE)
        elif internal[QUESTION]:
            words = message.tobytes()
            agent_answers = level._allow_all_yn_questions or any(
                w in words for w in AGENT_QUESTIONS
            )
            if exceptions and agent_answers:
                break
            observation, done = level.nethack.step(ESCAPE)
        else:
            break
    return observation, done


def _penalty(level: Any, penalty: Callable[[Any, Any], float], before: Any, after: Any) -> float:
    """MiniHack's penalty for a step that takes no time, and none for the step of a death."""
    over = after[level._observation_keys.index("program_state")][OVER]
    return 0.0 if over else penalty(before, after)


def _do_not_quit(observation: Any, done: bool) -> None:
    """Leave the game open; the next reset ends it."""
