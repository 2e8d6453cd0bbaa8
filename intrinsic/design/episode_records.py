"""Describe recorded episodes in words, for a language model that finds out why an agent fails."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from firstlight.envs.fields import is_symbolic
from firstlight.envs.minigrid.cells import DOOR, EMPTY, LAVA, VIEW, pack
from firstlight.intrinsic.design.recording import Recording
from firstlight.intrinsic.language.ellm.state_captions import describe_state

_SHOWN = 8
"""Numbers of a field that are written down, at most."""


def describe_failures(
    recording: Recording, obs_space: spaces.Dict, *, number: int = 5, steps: int = 8
) -> list[str]:
    """Describe the first recorded episodes that failed, by their last steps.

    A step is described by its action and the small fields after it; a view of MiniGrid by the
    objects in it.

    Args:
        recording: of a trained policy.
        obs_space: observation fields.
        number: of episodes, at most.
        steps: of each, the last ones.
    """
    returns = recording.episode_sums(recording.reward)
    before, _ = recording.state_keys()
    described = []
    for e in np.flatnonzero(recording.success == 0)[:number]:
        rows, columns = np.nonzero((recording.episode == e) & recording.valid)
        states = len(np.unique(before[rows, columns]))
        lines = [
            f"Episode of {len(rows)} steps in {states} different states, with a return of "
            f"{returns[e]:.3g}. Its last steps:"
        ]
        for i in range(max(0, len(rows) - steps), len(rows)):
            parts = _describe_step(recording, obs_space, int(rows[i]), int(columns[i]))
            lines.append(f"step {i + 1}: {'; '.join(parts)}")
        described.append("\n".join(lines))
    return described


def _describe_step(recording: Recording, obs_space: spaces.Dict, t: int, n: int) -> list[str]:
    parts = [f"action {_numbers(recording.fields['action'][t, n])}"]
    for name in obs_space.spaces:
        value = recording.fields[f"next_obs/{name}"][t, n]
        if is_symbolic(obs_space, name) and value.shape == (VIEW, VIEW, 3):
            parts.append(_describe_view(value))
        elif value.size <= _SHOWN:
            parts.append(f"{name} {_numbers(value)}")
    for name in recording.info:
        value = recording.fields[f"info/{name}"][t, n]
        if value.size <= _SHOWN:
            parts.append(f"{name} {_numbers(value)}")
    return parts


def _describe_view(view: np.ndarray) -> str:
    codes = pack(view)
    hand = int(codes[VIEW // 2, VIEW - 1])
    codes[VIEW // 2, VIEW - 1] = EMPTY
    kinds = codes & 15
    things = np.unique(codes[(kinds >= DOOR) & (kinds <= LAVA)])
    return describe_state(things, hand, "").partition(" Task")[0]


def _numbers(value: np.ndarray) -> str:
    return " ".join(f"{number:.4g}" for number in np.ravel(value).tolist())
