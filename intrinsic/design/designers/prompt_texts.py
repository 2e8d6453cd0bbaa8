"""Texts of prompts: our versioned files, and descriptions of a task's fields."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from firstlight.envs.fields import is_symbolic
from firstlight.intrinsic.design.designers.base import DesignTask
from firstlight.intrinsic.design.designers.text_models import Messages
from firstlight.intrinsic.language.judges.judge import digest

PROMPTS = Path(__file__).parents[1] / "prompts"
COMMON = "common"
"""File of what all designers' prompts share."""


def read_prompt_file(name: str) -> dict[str, Any]:
    """Read ``prompts/NAME.toml``; the blank space around its texts is removed."""
    content = tomllib.loads((PROMPTS / f"{name}.toml").read_text(encoding="utf-8"))
    return {key: x.strip() if isinstance(x, str) else x for key, x in content.items()}


def hash_messages(messages: Messages) -> str:
    """Hash a conversation, as `Proposal.prompt_hash`."""
    return digest(json.dumps([dict(message) for message in messages]))


def fenced(source: str) -> str:
    """Format code as a Markdown code block."""
    return f"```python\n{source.strip()}\n```"


def describe_task(task: DesignTask) -> str:
    """Describe goal, fields, actions and notes of a task, for a prompt."""
    lines = [f"Task of the agent: {task.goal}", "", "Observation fields, in obs and next_obs:"]
    lines += _describe_fields(task, "obs", task.obs_space)
    lines += ["", "Side channels, in info:"]
    lines += _describe_fields(task, "info", task.info_space) or ["- none"]
    lines += ["", f"action: {describe_space(task.act_space, None)}"]
    if task.max_steps is not None:
        lines.append(f"An episode has at most {task.max_steps} steps.")
    lines += [part for note in (family_notes(task), task.notes) if note for part in ("", note)]
    return "\n".join(lines)


def family_notes(task: DesignTask) -> str:
    """Return what our prompts say about this family of environments; "" for an unknown one."""
    is_grid = any(is_symbolic(task.obs_space, name) for name in task.obs_space.spaces)
    return str(read_prompt_file(COMMON)["notes"]["minigrid"]).strip() if is_grid else ""


def _describe_fields(task: DesignTask, group: str, fields: spaces.Dict) -> list[str]:
    return [
        f"- {name}: {describe_space(space, task.samples.get(f'{group}/{name}'))}"
        for name, space in fields.spaces.items()
    ]


def describe_space(space: spaces.Space, samples: np.ndarray | None) -> str:
    """Describe shape, type and range of a field in one line; `samples` [M, ...] were recorded."""
    if isinstance(space, spaces.Discrete):
        text = f"[N] whole numbers from {space.start} to {space.start + space.n - 1}"
    else:
        shape = ", ".join(map(str, ("N", *(space.shape or ()))))
        text = f"[{shape}] {space.dtype}"
        if isinstance(space, spaces.Box):
            text += f", from {space.low.min():.4g} to {space.high.max():.4g}"
    if samples is not None and samples.size and samples.dtype.kind in "biuf":
        text += f"; seen in random play: {samples.min():.4g} to {samples.max():.4g}"
    return text
