"""Find defects between policy and environment: ranges of actions, unused fields, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.agents.diagnostics.doctor import Finding
from firstlight.agents.policy import Policy
from firstlight.agents.session.summary import UNUSED, unused_fields
from firstlight.envs.fields import is_bytes, is_symbolic, picture_axes
from firstlight.envs.types import Obs, Rollout
from firstlight.envs.vec import NOT_CHOSEN, TEXT, VecEnv
from firstlight.networks.encoders.mlp import UNSCALED

CLIPPED = 0.9
"""Share of a dimension's actions at its bounds above which they count as out of range."""
NARROW = 0.01
"""Standard deviation of actions, as a share of the range, below which they count as narrow."""

_MIN_ROWS = 64  # on which a verdict is based


class InterfaceRecorder:
    """Callback that records the range of actions and which observation fields vary.

    Args:
        policy: that acts.
        vec: the environments.
    """

    def __init__(self, policy: Policy, vec: VecEnv):
        self.policy, self.vec = policy, vec
        self._rows = 0
        self._moments: list[np.ndarray] = []  # [3, A] per rollout: clipped, sum, sum of squares
        self._first: dict[str, Tensor] = {}
        self._varies: set[str] = set()

    def __call__(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Record the current iteration."""
        if run.data is not None:
            self.add(run.data.rollout)

    def add(self, rollout: Rollout) -> None:
        """Record a rollout."""
        valid = rollout.valid.cpu()
        if not valid.any():
            return
        self._rows += int(valid.sum())
        if isinstance(space := self.vec.act_space, spaces.Box):
            actions = rollout.action.cpu()[valid].double().flatten(1).numpy()  # [R, A]
            low, high = space.low.ravel(), space.high.ravel()
            clipped = ((actions <= low) | (actions >= high)).sum(0)
            self._moments.append(np.stack([clipped, actions.sum(0), np.square(actions).sum(0)]))
        for name, field in rollout.obs.items():
            rows = field[:-1].cpu()[valid]
            first = self._first.setdefault(name, rows[0])
            if name not in self._varies and bool((rows != first).any()):
                self._varies.add(name)

    def findings(self) -> list[Finding]:
        """Return the defects of actions and of observation fields."""
        return [*self._of_actions(), *self._of_fields()]

    def _of_actions(self) -> list[Finding]:
        space = self.vec.act_space
        if not isinstance(space, spaces.Box) or self._rows < _MIN_ROWS:
            return []
        clipped, mean, square = np.sum(self._moments, 0) / self._rows
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.where(np.isfinite(high - low), deviation / (high - low), np.inf)
        found = []
        fix = "set policy.scale_actions=true, or scale them in the environment"
        usable = high > low  # equal bounds leave no choice
        outside, narrow = usable & (clipped > CLIPPED), usable & (spread < NARROW)
        if outside.any():
            a = int(np.argmax(np.where(outside, clipped, -1)))
            found.append(
                Finding(
                    "the action",
                    "out of range",
                    f"{clipped[a]:.0%} of its values in dimension {a} are clipped to the bounds "
                    f"{low[a]:g} and {high[a]:g}: {fix}",
                )
            )
        elif narrow.any():
            a = int(np.argmin(np.where(narrow, spread, np.inf)))
            found.append(
                Finding(
                    "the action",
                    "narrow",
                    f"in dimension {a} it has a standard deviation of {deviation[a]:.2g}, "
                    f"between bounds of {low[a]:g} and {high[a]:g}: {fix}",
                )
            )
        return found

    def _of_fields(self) -> list[Finding]:
        told, left_out = self.policy.describe_fields(), self.vec.left_out
        out = {name: why for name, why in left_out.items() if why not in (TEXT, NOT_CHOSEN)}
        out |= dict.fromkeys(unused_fields(self.policy), UNUSED)
        found = [Finding(_field(name), "unused", reason) for name, reason in out.items()]
        for name, space in self.policy.obs_space.spaces.items():
            symbolic = is_symbolic(self.policy.obs_space, name)
            if is_bytes(space) and not symbolic and UNSCALED in told.get(name, ""):
                sentence = "its numbers from 0 to 255 reach a network that expects about -1 to 1"
                found.append(Finding(_field(name), "unscaled", f"{sentence}: scale_bytes=true"))
            known = _is_float(space) or (picture_axes(space) is not None and not symbolic)
            constant = name in self._first and name not in self._varies
            if known and constant and self._rows >= _MIN_ROWS:
                sentence = f"it has the same value in all of {self._rows:,} steps"
                found.append(Finding(_field(name), "constant", sentence))
        return found


def check_seed(vec: VecEnv, seed: int = 0) -> list[Finding]:
    """Reset twice with one seed; find an environment whose first observations differ.

    Args:
        vec: about to be reset; its open episodes are lost.
        seed: of both resets.
    """
    first, second = (
        {name: field.clone() for name, field in vec.reset(seed)[0].items()} for _ in range(2)
    )
    different = [name for name in first if not _same(first, second, name)]
    if not different:
        return []
    sentence = (
        f"two resets with seed {seed} gave different first observations ({different[0]!r}): draw "
        "random numbers from self.np_random, which reset(seed=...) seeds"
    )
    return [Finding("the environment", "unseeded", sentence)]


def _same(first: Obs, second: Obs, name: str) -> bool:
    return bool(torch.equal(first[name].nan_to_num(), second[name].nan_to_num()))


def _field(name: str) -> str:
    return f"the observation {name!r}"


def _is_float(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"
