"""NetHack tasks: ONI's, which pay 50 for something rare, and those of NLE."""

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
    """NetHack environments.

    ==========================  ====================================================================
    score                       the game's score, −0.01 in a step that takes no time
    staircase_2, _3, _4         50 for descending the stairs to that depth
    oracle, oracle_sober        50 for standing beside the Oracle; sober: not while hallucinating
    staircase_2_continual, …    the same 50, once, but only death ends the episode
    NetHackScore-v0, …          NLE's own tasks, with its 23 actions
    ==========================  ====================================================================

    The first four lines are Motif's and ONI's tasks (Klissarov et al. 2023; Zheng et al. 2024),
    with their 28 actions. Policies see `keys`; reward modules what
    `nethack_channels.channel_spaces` lists. Success is to have reached the goal.

    What inventory and descriptions NLE writes takes part in NetHack's random numbers: the same
    seeds play other games under other `keys`, so compare under the same ones.

    Args:
        task: see above.
        num_envs: `N`.
        keys: NLE's observations to show; every further one costs time.
        max_episode_steps: time limit, by default 5000; it truncates.
        backend: "serial" steps one game after the other, "pool" in processes that share memory.
        num_workers: of the pool; default is one for each CPU.
        text: carry `text_id`, see `nethack_text.Messages`.
        actions: "task" (23), "extended" (28), "useful" (86) or "full" (121); default the task's.
        answers: whether prompts are answered as ONI does; default the task's.
        penalty: added in a step that takes no time; default the task's.
        character: role, race, gender and alignment; "@" draws them.
        savedir: folder for recordings (ttyrec), one file for each game.

    Raises:
        ValueError: for a task or a choice that does not exist, and for NetHackChallenge, which
            takes no seed.
        ImportError: without the extra `nethack`.
    """
    if task == _CHALLENGE:
        raise ValueError(
            f"{task} refuses to be seeded, and here every episode has a seed, so that runs can be "
            'repeated: take task="NetHackScore-v0" with actions="full" and character="@"'
        )
    with needs_extra():
        from firstlight.envs.nethack.channels import channel_spaces
        from firstlight.envs.nethack.nethack_env import NetHack

    factory = functools.partial(
        NetHack,
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
    return vectorised(
        factory, num_envs, channels, backend=backend, num_workers=num_workers, text=text
    )


def vectorised(
    factory: Callable[[], gymnasium.Env],
    num_envs: int,
    channels: spaces.Dict,
    *,
    backend: Backend,
    num_workers: int | None,
    text: bool,
    success_threshold: float | None = None,
) -> VecEnv:
    """`num_envs` environments that `factory` makes, with side channels, and text on request."""
    if backend not in get_args(Backend):
        known = " or ".join(map(repr, get_args(Backend)))
        raise ValueError(f"backend is {known}, not {backend!r}")
    numbers = [name for name, space in channels.spaces.items() if space.shape == ()]
    numbers.remove("dungeon")  # a number that only names
    said: dict[str, Any] = {
        "success_threshold": success_threshold,
        "info_space": channels,
        "reported": numbers,
    }
    vec: VecEnv
    if backend == "pool":
        from firstlight.envs.vector.pool import PoolVec

        vec = PoolVec(factory, num_envs=num_envs, num_workers=num_workers, **said)
    else:
        vec = GymVec([factory] * num_envs, **said)
    if not text:
        return vec
    from firstlight.envs.nethack.text import Messages

    return Messages(vec)


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Say how to install what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"NetHack and MiniHack need the package {error.name!r}: "
            "pip install 'firstlight[nethack]'"
        ) from error
