"""The side channel with the agent's position."""

from __future__ import annotations

from gymnasium import spaces

POSITION_CHANNELS = ("agent_pos", "position")
"""Side channels with the position of the agent, in order of preference."""


def position_channel(info_space: spaces.Dict, name: str | None = None) -> str:
    """Choose the side channel with the position: `name`, or the first of `POSITION_CHANNELS`.

    Raises:
        ValueError: if there is none, or it has neither one number nor two.

    >>> position_channel(spaces.Dict({"position": spaces.Discrete(9)}))
    'position'
    """
    known = info_space.spaces
    found = next((channel for channel in POSITION_CHANNELS if channel in known), None)
    chosen = found if name is None else name
    if chosen is None or chosen not in known:
        missing = (
            f"no {name!r}" if name else f"neither {' nor '.join(map(repr, POSITION_CHANNELS))}"
        )
        has = f"it has {', '.join(map(repr, known))}" if known else "it is empty"
        raise ValueError(
            f"a map needs positions, but the info of the environment has {missing}: {has}; of a "
            "Gymnasium environment's info those fields are read that `GymVec(info_space=…)` names"
        )
    shape = known[chosen].shape
    if shape not in ((), (2,)):
        raise ValueError(f"info {chosen!r} has shape {shape}, expected one number () or two (2,)")
    return chosen
