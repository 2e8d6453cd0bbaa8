"""`RewardProgram`, the source of a reward and what is known about it."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.intrinsic.design.lint import ProgramError, lint

ENTRY = "reward"
"""Name of the function that a program defines."""
RANGES = "RANGES"
"""Name of the constant that declares the components."""


@dataclass(frozen=True)
class RewardProgram:
    """Source code that computes a reward, and where it comes from.

    The source defines ``RANGES = {"component": (lowest, highest), ...}`` and a function
    ``reward(obs, action, next_obs, info, memory)`` that returns an array [N] for each component.

    - `obs` and `next_obs`: observation fields [N, ...] before and after a step, of the true
      successor where the episode ended.
    - `action`: [N, *action].
    - `info`: side channels [N, ...] after the step.
    - `memory`: a dictionary of arrays [N, ...] that the function may fill; it comes back at the
      next step. Rows of environments that begin an episode are set to 0.

    It may import `numpy` and `math`, and nothing else.

    Args:
        source: code.
        ranges: component to its lowest and highest value; values outside are clipped to them.
        parent: hash of the program that it was made from.
        model: name of the language model that wrote it.
        prompt_hash: of the prompt.
        verdicts: what checks found, in time order.
    """

    source: str
    ranges: Mapping[str, tuple[float, float]]
    parent: str | None = None
    model: str | None = None
    prompt_hash: str | None = None
    verdicts: tuple[str, ...] = field(default=())

    @property
    def hash(self) -> str:
        """Hash of the source, see `source_hash`."""
        return source_hash(self.source)

    def with_verdict(self, verdict: str) -> RewardProgram:
        """Return the program with one more verdict."""
        return dataclasses.replace(self, verdicts=(*self.verdicts, verdict))

    @classmethod
    def parse(cls, source: str, **origin: str | None) -> RewardProgram:
        """Check a source without running it, and read what it declares.

        Args:
            source: code.
            origin: `parent`, `model` and `prompt_hash`.

        Raises:
            ProgramError: if it is no reward program; the message names the line.
        """
        tree = lint(source)
        _check_entry(tree)
        return cls(source, _declared_ranges(tree), **origin)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: str | Path) -> RewardProgram:
        """Read a program from a file, see `parse`.

        Raises:
            ProgramError: if it cannot be read, or as `parse`.
        """
        try:
            source = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ProgramError(f"{path} cannot be read: {error}") from error
        try:
            return cls.parse(source)
        except ProgramError as error:
            raise ProgramError(f"{path}: {error}") from error


def source_hash(source: str) -> str:
    """Hash a source, whether it is a program or not: 16 hexadecimal digits."""
    return hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:16]


def _check_entry(tree: ast.Module) -> None:
    wanted = ["obs", "action", "next_obs", "info", "memory"]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == ENTRY:
            names = [argument.arg for argument in node.args.args]
            if names != wanted:
                raise ProgramError(
                    f"line {node.lineno}: {ENTRY} takes ({', '.join(names)}), expected "
                    f"({', '.join(wanted)})"
                )
            return
    raise ProgramError(f"no function {ENTRY}({', '.join(wanted)}) is defined")


def _declared_ranges(tree: ast.Module) -> dict[str, tuple[float, float]]:
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        if node.targets[0].id != RANGES:
            continue
        form = f'{RANGES} = {{"component": (lowest, highest), ...}} of plain numbers'
        try:
            value = ast.literal_eval(node.value)
        except ValueError as error:
            raise ProgramError(f"line {node.lineno}: expected {form}") from error
        if not isinstance(value, dict) or not value:
            raise ProgramError(f"line {node.lineno}: {RANGES} is {value!r}, expected {form}")
        ranges = {}
        for name, pair in value.items():
            numbers = pair if isinstance(pair, (tuple, list)) else ()
            good = len(numbers) == 2 and all(
                isinstance(number, (int, float)) and math.isfinite(number) for number in numbers
            )
            if not isinstance(name, str) or not good or numbers[0] > numbers[1]:
                raise ProgramError(
                    f"line {node.lineno}: {RANGES} has {name!r}: {pair!r}, expected {form}"
                )
            ranges[name] = (float(numbers[0]), float(numbers[1]))
        return ranges
    raise ProgramError(f'no {RANGES} = {{"component": (lowest, highest), ...}} is defined')
