"""MiniHack's levels as Gymnasium environments that keep to their seeds and their time limit."""

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
from gymnasium import spaces

from firstlight.envs.nethack.channels import Progress, check_views
from firstlight.envs.nethack.draw import draw_terminal
from firstlight.envs.nethack.game import (
    ESCAPE,
    LEFT_TO_THE_AGENT,
    LINE,
    OVER,
    PATIENCE,
    QUESTION,
    SCREEN,
    SPACE,
    WAITS,
)
from firstlight.envs.seeding import derive

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that pkg_resources, which minihack imports, is deprecated
    import minihack  # noqa: F401  (registers the ids)
    from minihack import MiniHack
    from minihack.envs.keyroom import MiniHackKeyDoor

logging.getLogger("nle.env.base").setLevel(logging.WARNING)  # it tells of each game
_ENDLESS = 2**62
_ALWAYS = ("glyphs", "blstats", "message", "program_state", "internal")


@contextlib.contextmanager
def shared_generators(seed: int) -> Iterator[None]:
    """Python's and numpy's shared generators seeded inside, and afterwards as they were before."""
    python, shared = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(shared)  # noqa: NPY002


class MiniHackLevel(gymnasium.Env):
    """A registered MiniHack task.

    MiniHack itself draws its levels from entropy whatever seed a reset is given. Here an episode
    follows from the seed of its reset and the actions alone: NetHack's generators, those of the
    level's design and of a MiniGrid inside are seeded at every reset. The time limit truncates, and
    reaching the goal in the last step counts; the last observation is the game's last moment.
    `info` has the channels of `channel_spaces`, and `success` (0 or 1).

    Args:
        task: id, such as "MiniHack-Room-5x5-v0".
        keys: MiniHack's observations to show.
        max_episode_steps: time limit; default the task's.
        text: carry the top line as the side channel `message`.
        savedir: folder for recordings (ttyrec); None for none.
        **options: further keywords of the environment.

    Raises:
        ValueError: for a task that is not registered, or that MiniHack cannot make.

    >>> env = MiniHackLevel("MiniHack-Room-5x5-v0")
    >>> obs, info = env.reset(seed=0)
    >>> sorted(obs), info["success"]
    (['blstats', 'glyphs', 'message'], 0)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

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
        self.level, self.keys, self.text = level, tuple(keys), text
        limit = level._max_episode_steps if max_episode_steps is None else max_episode_steps
        if limit < 1:
            raise ValueError(f"max_episode_steps is {limit}, expected at least 1")
        self.limit, level._max_episode_steps = limit, _ENDLESS
        # both would overwrite the last observation with the questions after the end
        level._quit_game = _stay
        level._perform_known_steps = functools.partial(_settled, level)
        level._get_time_penalty = functools.partial(_penalty, level, level._get_time_penalty)
        self.observation_space: spaces.Dict = level.observation_space
        self.action_space = level.action_space
        self._leave_out_what_nobody_reads()
        self._views: dict[str, np.ndarray] = {}
        self._steps, self._success, self._ended = 0, False, True

    def set_buffers(self, views: Mapping[str, np.ndarray]) -> None:
        """Copy every observation into `views` from now on; see `nethack_env.NetHack`.

        Args:
            views: by name of the observation, arrays of its shape and dtype.

        Raises:
            ValueError: for a name, shape or dtype that does not fit.
        """
        check_views(views, self.observation_space)
        self._views |= views

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode. Without a seed it follows from the last seed given."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        core, disp, levels, design = (
            derive(seed, f"nethack.{name}") for name in ("core", "disp", "levels", "design")
        )
        level = self.level
        with shared_generators(design):
            if hasattr(level, "minigrid_env"):
                level.minigrid_env.reset(seed=design)
            level.nethack.set_initial_seeds(core, disp, False, levels)
            obs, _ = level.reset(sample_seed=False)
        self._steps, self._success, self._ended = 0, False, False
        self._progress = Progress()
        return self._shown(obs), self._info()

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Step."""
        if self._ended:
            raise RuntimeError("the episode is over: reset the environment")
        obs, reward, terminated, _, info = self.level.step(action)
        self._steps += 1
        self._success = info["end_status"] == self.level.StepStatus.TASK_SUCCESSFUL
        truncated = self._steps >= self.limit and not terminated
        self._ended = terminated or truncated
        return self._shown(obs), float(reward), bool(terminated), truncated, self._info()

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Picture of the terminal, [264, 480, 3] uint8."""
        chars, colors, cursor = (self._buffer(name) for name in SCREEN)
        row, column = cursor.tolist()
        return draw_terminal(chars, colors, (row, column))

    def close(self) -> None:
        """Free the game; may be called twice."""
        self.level.close()

    def _buffer(self, name: str) -> np.ndarray:
        return self.level.nethack._obs_buffers[name]

    def _leave_out_what_nobody_reads(self) -> None:
        """NetHack need not write 133 kB of descriptions each step where no rule asks for them."""
        level = self.level
        if isinstance(level, MiniHackKeyDoor) or level.reward_manager is not None:
            return
        shown = {key.removesuffix("_crop") for key in self.keys}
        if any(key.startswith("pixel") for key in shown):
            return
        game = level.nethack
        wanted = {name: game._obs_buffers[name] for name in {*_ALWAYS, *SCREEN, *shown}}
        game._pynethack.set_buffers(**wanted)
        empty = np.zeros(0, np.uint8)
        game._obs = tuple(wanted.get(name, empty) for name in level._observation_keys)

    def _shown(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = {}
        for key in self.keys:
            if key in self._views:
                self._views[key][...] = obs[key]
            out[key] = self._views[key] if key in self._views else np.array(obs[key])
        return out

    def _info(self) -> dict[str, Any]:
        blstats, message = self._buffer("blstats"), self._buffer("message")
        self._progress.note(self._buffer("glyphs"), blstats, [message.tobytes()])
        info = self._progress.channels(blstats, message if self.text else None)
        return info | {"success": int(self._success)}


def _settled(level: Any, observation: Any, done: bool, exceptions: bool = True) -> tuple[Any, bool]:
    """Answer prompts as NLE does, but stop where the game is over."""
    state, internal, message = (
        observation[level._observation_keys.index(name)]
        for name in ("program_state", "internal", "message")
    )
    for _ in range(PATIENCE):
        if done or state[OVER]:
            return observation, True
        if internal[WAITS]:
            observation, done = level.nethack.step(SPACE)
        elif internal[LINE]:
            observation, done = level.nethack.step(ESCAPE)
        elif internal[QUESTION]:
            words = message.tobytes()
            asked = level._allow_all_yn_questions or any(w in words for w in LEFT_TO_THE_AGENT)
            if exceptions and asked:
                break
            observation, done = level.nethack.step(ESCAPE)
        else:
            break
    return observation, done


def _penalty(level: Any, penalty: Callable[[Any, Any], float], before: Any, after: Any) -> float:
    """MiniHack's for a clock that stands still, and none for dying."""
    over = after[level._observation_keys.index("program_state")][OVER]
    return 0.0 if over else penalty(before, after)


def _stay(observation: Any, done: bool) -> None:
    """Do not quit the game: the next reset ends it."""
