"""What a single answer of a vector environment must be like, and how two answers are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.envs.types import Obs, Step
from firstlight.envs.vec import lawful

_FLAGS = ("terminated", "truncated", "valid", "is_first")

Record = dict[str, np.ndarray]
"""Everything that one call answered, under names such as "obs['image']"."""


class Rules:
    """The rules that every row of `vec` must keep, whichever its mode of autoreset.

    Args:
        vec: the environments.
    """

    def __init__(self, vec: Any):
        self.vec = vec
        self.modes: set[str] = set()

    def require(self, holds: Any, sentence: str) -> None:
        """Raise AssertionError with `sentence` unless it `holds`."""
        if not bool(holds):
            raise AssertionError(f"{type(self.vec).__name__}: {sentence}")

    def check_fields(self, group: str, fields: Obs, space: spaces.Dict, rows: int) -> None:
        """Names, shapes, dtypes and, of Discrete, numbers: those of `space`, `rows` of them."""
        same = set(fields) == set(space.spaces)
        self.require(same, f"{group} has the fields {sorted(fields)}, its space {sorted(space)}")
        for name, field in fields.items():
            one, where = space[name], f"{group}[{name!r}]"
            shape = (rows, *(one.shape or ()))
            fits = isinstance(field, Tensor) and tuple(field.shape) == shape
            self.require(fits, f"{where} is {_kind(field)}, expected a tensor of shape {shape}")
            wanted, dtype = _dtypes(one), str(field.dtype).removeprefix("torch.")
            self.require(dtype in wanted, f"{where} is {dtype}, expected {' or '.join(wanted)}")
            if isinstance(one, spaces.Discrete) and rows:
                low, high = int(one.start), int(one.start + one.n - 1)
                within = low <= field.min() and field.max() <= high
                self.require(within, f"{where} leaves {low}..{high}")

    def check_row(self, step: Step, over: np.ndarray) -> np.ndarray:
        """Shapes, dtypes and flags of one step.

        Args:
            step: what `vec` answered.
            over: [N] bool, episodes that had ended before it and had not shown a new beginning.

        Returns:
            [N] bool, those after it.
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
        """How the flags of one step go together; as `check_row`."""
        terminated, truncated, valid, opens = (getattr(step, name).numpy() for name in _FLAGS)
        ended, ids = terminated | truncated, step.final_ids.numpy()
        shown = np.zeros(len(ended), bool)
        self.require(len({*ids} - {*range(len(ended))}) == 0, "final_ids names no environment")
        self.require(len({*ids}) == len(ids), "final_ids names an environment twice")
        shown[ids] = True
        crashed = np.isin(np.arange(len(ended)), step.crashed_ids.numpy())
        idle, paid = ~valid, step.reward.numpy() != 0

        def never(where: np.ndarray, sentence: str) -> None:
            self.require(not where.any(), f"environment {where.argmax()} {sentence}")

        never(terminated & truncated, "is both terminated and truncated: its own end outranks")
        never(valid & over, "has a valid row after its end, yet nothing showed a new beginning")
        never(idle & ~over & ~crashed, "has a row that is not valid in the middle of its episode")
        never(idle & ended, "ends in a row that is not valid")
        never(idle & paid, "has a reward in a row that is not valid")
        never(idle & ~opens, "has a row that is not valid and opens no episode (is_first)")
        never(shown & ~ended, "is among final_ids though its episode did not end")
        never(valid & opens & ~ended, "opens an episode (is_first) though none ended")
        never(opens & ended & ~shown, "hides its last observation: is_first, not among final_ids")
        never(shown & ~opens, "is among final_ids, but obs is not said to open an episode")
        self.modes |= {"same-step"} if shown.any() else set()
        self.modes |= {"next-step"} if (ended & ~shown).any() else set()
        self.require(len(self.modes) < 2, "autoreset is now same-step, now next-step")
        return ended & ~shown


def record_of(answer: Step | tuple[Obs, Obs]) -> Record:
    """A copy of all that a step or a reset answered; of a step, also where an episode "ended"."""
    record: Record = {}
    if isinstance(answer, tuple):
        groups = {"obs": answer[0], "info": answer[1]}
    else:
        nested, flat = ("obs", "info", "final_obs", "final_info"), ("reward", *_FLAGS, "final_ids")
        groups = {name: getattr(answer, name) for name in nested}
        record = {name: getattr(answer, name).numpy().copy() for name in flat}
        record["ended"] = record["terminated"] | record["truncated"]
    for group, fields in groups.items():
        record |= {f"{group}[{k!r}]": field.numpy().copy() for k, field in fields.items()}
    return record


def shown(group: str, record: Record, n: int) -> bytes:
    """Row n of a group of fields, such as "obs", as one string of bytes."""
    names = sorted(name for name in record if name.startswith(f"{group}["))
    return b"".join(record[name][n].tobytes() for name in names)


def difference(one: Record, other: Record, rows: np.ndarray | None = None) -> str | None:
    """Name of a part that both have and that differs, of some `rows` [N] bool only; or None."""
    for name in (name for name in one if name in other):
        a, b = one[name], other[name]
        if rows is not None:
            if name.startswith("final_"):
                continue
            a, b = a[rows], b[rows]
        if a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            return name
    return None


def parting(first: list[Record], other: list[Record]) -> str | None:
    """Where one trajectory leaves the other; None if nowhere."""
    for t, (one, two) in enumerate(zip(first, other, strict=True)):
        if (name := difference(one, two)) is not None:
            return f"{name} of answer {t}"
    return None


def _dtypes(space: spaces.Space) -> list[str]:
    """Of tensors that show `space`."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return ["int64"]
    return [lawful(np.dtype(space.dtype)).name] + ["bool"] * isinstance(space, spaces.MultiBinary)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
