"""Options that `ONI` and `ELLM` share: what is refused, and what "auto" means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from gymnasium import spaces
from torch import Tensor

from firstlight.envs.text import TextTable
from firstlight.intrinsic.language.local_server import check_installed, threads_of

STORE = "labels.sqlite"
"""Name of the label store in a run directory."""


def need_text(info_space: spaces.Dict, text_table: TextTable | None) -> TextTable:
    """Return the environments' table of texts; ValueError if they have none."""
    if text_table is None or "text_id" not in info_space.spaces:
        raise ValueError(
            "this environment has no text to judge: expected MiniGrid, NetHack, MiniHack, or a "
            "VecEnv with text_table and the side channel text_id"
        )
    return text_table


def need_package(package: str, extra: str) -> None:
    """Raise ImportError if a package is not installed."""
    if find_spec(package) is None:
        raise ImportError(
            f"this choice needs the package {package!r}: pip install 'firstlight[{extra}]'"
        )


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError for a value that is none of the choices."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices)}"
        raise ValueError(f"{name} is {value!r}: {hint}")


def check_endpoint(url: str | None, llm: str | None, cpu_share: float) -> None:
    """Raise ValueError or ImportError if no language model can be asked with these options."""
    if llm is None and url is not None:
        raise ValueError(f"url is {url}, but llm, the name of a model there, is missing")
    threads_of(cpu_share)
    if llm is None:
        check_installed()
    need_package("openai", "llm")


def family_of(family: str, info_space: spaces.Dict) -> str:
    """Choose the family of prompts for "auto", by the info channels of MiniGrid and NetHack."""
    if family != "auto":
        return family
    channels = info_space.spaces
    return (
        "minigrid"
        if "mission_id" in channels
        else "nethack"
        if "dungeon" in channels
        else "generic"
    )


def counts_of(ids: Tensor) -> dict[int, int]:
    """Count how often each number occurs in `ids` [*] int64."""
    values, counts = ids.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
