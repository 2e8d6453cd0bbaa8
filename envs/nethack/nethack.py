"""Make NetHack environments: the tasks of Motif and ONI, and those of NLE."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
from gymnasium import spaces

from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.gym import GymVec

Backend = Literal["serial", "pool"]
_CHALLENGE = "NetHackChallenge-v0"


def make(
    task: str,
    *,
    num_envs: int = 16,
    keys: Sequence[str] = ("glyphs", "blstats", "message"),
    max_episode_steps: int | None = None,
    backend: Backend = "serial",
    num_workers: int | None = None,
    text: bool = False,
    actions: str | None = None,
    answers: bool | None = None,
    penalty: float | None = None,
    character: str = "mon-hum-neu-mal",
    savedir: str | Path | None = None,
) -> VecEnv:
    """Make `num_envs` NetHack environments of one task.

    ==========================  ====================================================================
    score                       increase of the game's score; −0.01 in a step that takes no time
    staircase_2, _3, _4         50 for descending by stairs to that depth
    oracle, oracle_sober        50 for being beside the Oracle; sober: not while hallucinating
    staircase_2_continual, …    the same 50, once; only death and the limit end the episode
    NetHackScore-v0, …          NLE's own tasks, with its 23 actions
    ==========================  ====================================================================

    The first four lines are Motif's and ONI's tasks (Klissarov et al. 2023; Zheng et al. 2024),
    with their 28 actions. Policies see the observations `keys`; reward modules the side channels of
    `channels.channel_spaces`. An episode is a success if it reached the goal.

    NLE draws from NetHack's generators when it writes the inventory and descriptions. The same
    seeds so give other games with other `keys`: compare runs with the same ones.

    Args:
        task: see above.
        num_envs: `N`.
        keys: names of NLE's observations; every further one costs time.
        max_episode_steps: time limit, which truncates; default 5000.
        backend: "serial" steps one game after the other, "pool" in processes that share memory.
        num_workers: processes of the pool; default one for each CPU.
        text: whether there is a side channel `text_id`, see `text.Messages`.
        actions: "task" (23), "extended" (28), "useful" (86) or "full" (121); default the task's.
        answers: whether prompts are answered as ONI does, see `Game`; default the task's.
        penalty: added in a step that takes no time; default the task's.
        character: role, race, gender and alignment; "@" draws them at random.
        savedir: folder for recordings (ttyrec), one file for each game.

    Raises:
        ValueError: for an unknown task or choice, and for NetHackChallenge, which takes no seed.
        ImportError: if the extra `nethack` is not installed.
    """
    if task == _CHALLENGE:
        raise ValueError(
            f"{task} takes no seed, and here every episode has one, so that runs can be "
            'repeated: use task="NetHackScore-v0" with actions="full" and character="@"'
        )
    with needs_extra():
        from firstlight.envs.nethack.channels import channel_spaces
        from firstlight.envs.nethack.nethack_env import NetHackEnv

    factory = functools.partial(
        NetHackEnv,
        task,
        keys=tuple(keys),
        max_episode_steps=max_episode_steps,
        actions=actions,
        answers=answers,
        penalty=penalty,
        character=character,
        text=text and "message" not in keys,
        savedir=savedir,
    )
    channels = channel_spaces(text and "message" not in keys)
    return make_vec(
        factory, num_envs, channels, backend=backend, num_workers=num_workers, text=text
    )


def make_vec(
    factory: Callable[[], gymnasium.Env],
    num_envs: int,
    channels: spaces.Dict,
    *,
    backend: Backend,
    num_workers: int | None,
    text: bool,
    success_threshold: float | None = None,
) -> VecEnv:
    """Make `num_envs` environments with side channels, and with `text` the channel `text_id`."""
    if backend not in get_args(Backend):
        known = " or ".join(map(repr, get_args(Backend)))
        raise ValueError(f"backend is {known}, not {backend!r}")
    numbers = [name for name, space in channels.spaces.items() if space.shape == ()]
    numbers.remove("dungeon")  # an identifier, which has no meaningful mean
    options: dict[str, Any] = {
        "success_threshold": success_threshold,
        "info_space": channels,
        "reported": numbers,
    }
    vec: VecEnv
    if backend == "pool":
        from firstlight.envs.vector.pool import PoolVec

        vec = PoolVec(factory, num_envs=num_envs, num_workers=num_workers, **options)
    else:
        vec = GymVec([factory] * num_envs, **options)
    if not text:
        return vec
    from firstlight.envs.nethack.text import Messages

    return Messages(vec)


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Turn the error about a missing package into one that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"NetHack and MiniHack need the package {error.name!r}: "
            "pip install 'firstlight[nethack]'"
        ) from error
