"""Describe an environment as typed Python classes, for Text2Reward's prompts."""

from __future__ import annotations

from collections.abc import Mapping

from gymnasium import spaces

from firstlight.intrinsic.design.designers.base import DesignTask
from firstlight.intrinsic.design.designers.prompt_texts import describe_space


def describe_as_classes(task: DesignTask, docstrings: Mapping[str, str] | None = None) -> str:
    """Write the fields of a task as typed dictionaries, with a docstring for each.

    Args:
        task: gives spaces and recorded values.
        docstrings: what a person says, by name of a field, a side channel, or "action".

    Raises:
        ValueError: for docstrings of names that do not exist.
    """
    given = dict(docstrings or {})
    known = {*task.obs_space.spaces, *task.info_space.spaces, "action"}
    if unknown := sorted(given.keys() - known):
        raise ValueError(
            f"docstrings names {unknown[0]!r}, but the fields are {', '.join(sorted(known))}"
        )
    lines = ["from typing import TypedDict", "", "import numpy as np", ""]
    for title, group, fields in (
        ("Observation", "obs", task.obs_space),
        ("SideChannels", "info", task.info_space),
    ):
        lines += ["", f"class {title}(TypedDict):"]
        for name, space in fields.spaces.items():
            samples = task.samples.get(f"{group}/{name}")
            lines += _field(name, describe_space(space, samples), given.get(name))
        if not isinstance(fields, spaces.Dict) or not fields.spaces:
            lines.append("    pass")
        lines.append("")
    action = describe_space(task.act_space, task.samples.get("action"))
    lines += [
        "",
        *(line.removeprefix("    ") for line in _field("action", action, given.get("action"))),
    ]
    return "\n".join(lines)


def _field(name: str, form: str, docstring: str | None) -> list[str]:
    lines = [f"    {name}: np.ndarray  # {form}"]
    if docstring:
        text = " ".join(docstring.split()).replace('"""', "'''")
        lines.append(f'    """{text}"""')
    return lines
