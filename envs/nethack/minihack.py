"""Make MiniHack environments, by the short names of tasks in papers or by their ids."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight.envs.nethack.nethack import Backend, make_vec, needs_extra
from firstlight.envs.vec import VecEnv

_ROOMS = ("random", "dark", "monster", "trap", "ultimate")
TASKS = {
    "keyroom_s5": "MiniHack-KeyRoom-S5-v0",
    "keyroom_s15": "MiniHack-KeyRoom-S15-v0",
    "keyroom_dark_s5": "MiniHack-KeyRoom-Dark-S5-v0",
    "keyroom_dark_s15": "MiniHack-KeyRoom-Dark-S15-v0",
    **{f"corridor_r{n}": f"MiniHack-Corridor-R{n}-v0" for n in (2, 3, 5)},
    **{f"multiroom_n{n}": f"MiniHack-MultiRoom-N{n}-v0" for n in (2, 4, 6)},
    **{f"room_{n}x{n}": f"MiniHack-Room-{n}x{n}-v0" for n in (5, 15)},
    **{
        f"room_{kind}_{n}x{n}": f"MiniHack-Room-{kind.capitalize()}-{n}x{n}-v0"
        for kind in _ROOMS
        for n in (5, 15)
    },
}


def make(
    task: str,
    *,
    num_envs: int = 16,
    keys: Sequence[str] = ("glyphs", "blstats", "message"),
    max_episode_steps: int | None = None,
    backend: Backend = "serial",
    num_workers: int | None = None,
    text: bool = False,
    savedir: str | Path | None = None,
    **options: Any,
) -> VecEnv:
    """Make `num_envs` MiniHack environments of one task.

    Policies see the observations `keys`; reward modules the side channels of
    `channels.channel_spaces`, in KeyRoom also the keys held and the closed doors. An episode is a
    success if it reached the goal, even if penalties for steps that take no time make its return
    negative.

    Args:
        task: such as "keyroom_s5", "room_ultimate_15x15" (see `TASKS`) or "MiniHack-River-v0".
        num_envs: `N`.
        keys: names of MiniHack's observations, such as also "chars" or "glyphs_crop".
        max_episode_steps: time limit; default the task's.
        backend: "serial" steps one game after the other, "pool" in processes that share memory.
        num_workers: processes of the pool; default one for each CPU.
        text: whether there is a side channel `text_id`, see `text.Messages`.
        savedir: folder for recordings (ttyrec).
        **options: further keywords of the environment, such as `penalty_step`.

    Raises:
        ValueError: for an unknown task or choice.
        ImportError: if the extra `nethack` is not installed.
    """
    with needs_extra():
        from firstlight.envs.nethack.channels import channel_spaces
        from firstlight.envs.nethack.minihack_env import MiniHackLevel

    name = TASKS.get(task, task)
    check_id(name)
    aside, has_keys = text and "message" not in keys, "-KeyRoom-" in name
    factory = functools.partial(
        MiniHackLevel,
        name,
        keys=tuple(keys),
        max_episode_steps=max_episode_steps,
        text=aside,
        savedir=savedir,
        **options,
    )
    return make_vec(
        factory,
        num_envs,
        channel_spaces(aside, has_keys),
        backend=backend,
        num_workers=num_workers,
        text=text,
        success_threshold=0.0,
    )


def check_id(name: str) -> None:
    """Raise ValueError, with the nearest names, if MiniHack has not registered `name`."""
    import difflib

    import gymnasium

    ids = [key for key in gymnasium.registry if key.startswith("MiniHack-")]
    if name not in ids:
        near = difflib.get_close_matches(name, [*TASKS, *ids], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; short are {', '.join(TASKS)}"
        raise ValueError(f"there is no MiniHack task {name!r}{hint}")
