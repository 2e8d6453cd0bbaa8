"""Checks of single steps of a vector environment, and comparison of two steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.faults import EnvironmentFaultError
from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import lawful

_FLAGS = ("terminated", "truncated", "valid", "is_first")

Record = dict[str, np.ndarray]
"""Everything that one call returned, under names such as "obs['image']"."""


class Rules:
    """Rules that every row of `vec` must follow, in either mode of autoreset.

    Args:
        vec: the environments.
    """

    def __init__(self, vec: Any):
        self.vec = vec
        self.modes: set[str] = set()

    def require(self, holds: Any, sentence: str) -> None:
        """Raise AssertionError with `sentence` unless `holds` is true."""
        if not bool(holds):
            raise AssertionError(f"{type(self.vec).__name__}: {sentence}")

    def check_fields(self, group: str, fields: Obs, space: spaces.Dict, rows: int) -> None:
        """Check names, shapes, dtypes and Discrete ranges of fields with `rows` rows."""
        same = set(fields) == set(space.spaces)
        self.require(same, f"{group} has the fields {sorted(fields)}, expected {sorted(space)}")
        for name, field in fields.items():
            one, where = space[name], f"{group}[{name!r}]"
            shape = (rows, *(one.shape or ()))
            fits = isinstance(field, Tensor) and tuple(field.shape) == shape
            self.require(fits, f"{where} is {_kind(field)}, expected a tensor of shape {shape}")
            expected, dtype = _dtypes(one), str(field.dtype).removeprefix("torch.")
            self.require(dtype in expected, f"{where} is {dtype}, expected {' or '.join(expected)}")
            if rows and not isinstance(one, spaces.Box):
                low, high = _range(one)
                within = ((low <= field.numpy()) & (field.numpy() <= high)).all()
                self.require(within, f"{where} is outside {low}..{high}")

    def check_row(self, step: Step, over: np.ndarray) -> np.ndarray:
        """Check shapes, dtypes and flags of one step.

        Args:
            step: what `vec` returned.
            over: [N] bool, environments whose episode has ended and that are not reset yet.

        Returns:
            [N] bool, the same after this step.
        """
        N = self.vec.num_envs
        for name, dtype in (("reward", torch.float32), *((flag, torch.bool) for flag in _FLAGS)):
            field = getattr(step, name)
            fits = tuple(field.shape) == (N,) and field.dtype == dtype
            self.require(fits, f"{name} is {_kind(field)}, expected {dtype} of shape ({N},)")
        D = len(step.final_ids)
        fits = step.final_ids.dtype == torch.int64 and step.final_ids.shape == (D,)
        self.require(fits, f"final_ids is {_kind(step.final_ids)}, expected int64 [D]")
        self.check_fields("obs", step.obs, self.vec.obs_space, N)
        self.check_fields("info", step.info, self.vec.info_space, N)
        self.check_fields("final_obs", step.final_obs, self.vec.obs_space, D)
        self.check_fields("final_info", step.final_info, self.vec.info_space, D)
        return self.check_flags(step, over)

    def check_flags(self, step: Step, over: np.ndarray) -> np.ndarray:
        """Check the flags of one step against each other. Arguments as for `check_row`."""
        terminated, truncated, valid, opens = (getattr(step, name).numpy() for name in _FLAGS)
        ended, ids = terminated | truncated, step.final_ids.numpy()
        shown = np.zeros(len(ended), bool)
        self.require(
            len({*ids} - {*range(len(ended))}) == 0,
            "final_ids names an environment that does not exist",
        )
        self.require(len({*ids}) == len(ids), "final_ids names an environment twice")
        shown[ids] = True
        crashed = np.isin(np.arange(len(ended)), step.crashed_ids.numpy())
        idle, rewarded = ~valid, step.reward.numpy() != 0

        def never(where: np.ndarray, sentence: str) -> None:
            self.require(not where.any(), f"environment {where.argmax()} {sentence}")

        never(
            terminated & truncated, "is both terminated and truncated: termination takes precedence"
        )
        never(
            valid & over,
            "has a valid row after its end, before the first observation of a new episode",
        )
        never(idle & ~over & ~crashed, "has a row that is not valid in the middle of its episode")
        never(idle & ended, "ends in a row that is not valid")
        never(idle & rewarded, "has a reward in a row that is not valid")
        never(idle & ~opens, "has a row that is not valid and opens no episode (is_first)")
        never(shown & ~ended, "is among final_ids though its episode did not end")
        never(valid & opens & ~ended, "opens an episode (is_first) though none ended")
        never(opens & ended & ~shown, "hides its last observation: is_first, not among final_ids")
        never(shown & ~opens, "is among final_ids, but is_first is not set")
        self.modes |= {"same-step"} if shown.any() else set()
        self.modes |= {"next-step"} if (ended & ~shown).any() else set()
        self.require(
            len(self.modes) < 2, "autoreset is same-step at some ends and next-step at others"
        )
        return ended & ~shown


def check_first_row(vec: Any, result: Step | tuple[Obs, Obs]) -> None:
    """Check the result of the first reset of `vec`, or of the step after it.

    Raises:
        EnvironmentFaultError: names the field, what it is, and what was expected.
    """
    rules, rows = Rules(vec), vec.num_envs
    try:
        if isinstance(result, Step):
            rules.check_row(result, np.zeros(rows, bool))
        else:
            for group, fields, space in (
                ("obs", result[0], vec.obs_space),
                ("info", result[1], vec.info_space),
            ):
                rules.check_fields(group, fields, space, rows)
    except AssertionError as broken:
        sentence = f"{broken}; firstlight.envs.check_vec finds more"
        raise EnvironmentFaultError(sentence) from None


def record_of(result: Step | tuple[Obs, Obs]) -> Record:
    """Copy all that a step or a reset returned; for a step, also where an episode "ended"."""
    record: Record = {}
    if isinstance(result, tuple):
        groups = {"obs": result[0], "info": result[1]}
    else:
        nested, flat = ("obs", "info", "final_obs", "final_info"), ("reward", *_FLAGS, "final_ids")
        groups = {name: getattr(result, name) for name in nested}
        record = {name: getattr(result, name).numpy().copy() for name in flat}
        record["ended"] = record["terminated"] | record["truncated"]
    for group, fields in groups.items():
        record |= {f"{group}[{k!r}]": field.numpy().copy() for k, field in fields.items()}
    return record


def shown(group: str, record: Record, n: int) -> bytes:
    """Row n of a group of fields, such as "obs", as one string of bytes."""
    names = sorted(name for name in record if name.startswith(f"{group}["))
    return b"".join(record[name][n].tobytes() for name in names)


def difference(one: Record, other: Record, rows: np.ndarray | None = None) -> str | None:
    """Name of the first common field that differs, in `rows` [N] bool or all; None if none does."""
    for name in (name for name in one if name in other):
        a, b = one[name], other[name]
        if rows is not None:
            if name.startswith("final_"):
                continue
            a, b = a[rows], b[rows]
        if a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            return name
    return None


def first_difference(first: list[Record], other: list[Record]) -> str | None:
    """First difference of two trajectories, in words; None if they are equal."""
    for t, (one, two) in enumerate(zip(first, other, strict=True)):
        if (name := difference(one, two)) is not None:
            return f"{name} of step {t}"
    return None


def _range(space: Any) -> tuple[Any, Any]:
    """Smallest and largest value of a discrete space."""
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _dtypes(space: spaces.Space) -> list[str]:
    """Dtypes that a tensor of values of `space` may have."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return ["int64"]
    return [lawful(np.dtype(space.dtype)).name] + ["bool"] * isinstance(space, spaces.MultiBinary)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
