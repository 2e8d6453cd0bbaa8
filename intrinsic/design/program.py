"""`RewardProgram`, the source of a reward and what is known about it."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.intrinsic.design.lint import ProgramError, lint
from firstlight.intrinsic.design.sandbox_worker import ARGUMENTS

ENTRY, FEATURES_ENTRY = "reward", "features"
"""Names of a program's functions: the required one and the optional one."""
RANGES, FEATURES = "RANGES", "FEATURES"
"""Names of the constants that declare what these return."""
LARGEST = 1e30
"""Largest bound of a range."""
MAX_WIDTH = 512
"""Most numbers of all features together."""
_RANGES_FORM = f'{RANGES} = {{"component": (lowest, highest), ...}} of plain numbers'
_FEATURES_FORM = (
    f'{FEATURES} = {{"name": (width, lowest, highest, fallback), ...}} of plain numbers, with the '
    "fallback within the range"
)


@dataclass(frozen=True)
class ProgramOutput:
    """A component of a reward, or a feature for the policy.

    Args:
        width: number of values for each environment; 1 for a component.
        low, high: their range; values outside are clipped to it.
        fallback: what the policy sees in their place where the program is not run.
    """

    width: int
    low: float
    high: float
    fallback: float = 0.0


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

    It may also show numbers of its own to the policy: ``FEATURES = {"name": (width, lowest,
    highest, fallback), ...}`` and ``features(obs, info, memory)``, which returns an array
    [N, width] for each name. It gets what the policy is about to act on, with a memory of its own.

    It may import `numpy` and `math`, and nothing else.

    Args:
        source: code.
        ranges: component to its lowest and highest value; values outside are clipped to them.
        parent: hash of the program that it was made from.
        model: name of the language model that wrote it.
        prompt_hash: of the prompt.
        verdicts: what checks found, in time order.
        features: name to width, range and fallback of what it shows to the policy.
    """

    source: str
    ranges: Mapping[str, tuple[float, float]]
    parent: str | None = None
    model: str | None = None
    prompt_hash: str | None = None
    verdicts: tuple[str, ...] = field(default=())
    features: Mapping[str, ProgramOutput] = field(default_factory=dict)

    def outputs(self, entry: str) -> Mapping[str, ProgramOutput]:
        """What a function of the program returns, "reward" or "features", in order."""
        if entry == FEATURES_ENTRY:
            return self.features
        return {name: ProgramOutput(1, low, high) for name, (low, high) in self.ranges.items()}

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
        functions = _check_functions(tree)
        features = _declared_features(tree)
        if ENTRY not in functions:
            raise ProgramError(f"no function {_signature(ENTRY)} is defined")
        if features and FEATURES_ENTRY not in functions:
            raise ProgramError(f"{FEATURES} is set, but no {_signature(FEATURES_ENTRY)} is defined")
        if FEATURES_ENTRY in functions and not features:
            raise ProgramError(f"{FEATURES_ENTRY} is defined, but not {_FEATURES_FORM}")
        return cls(source, _declared_ranges(tree), features=features, **origin)  # type: ignore[arg-type]

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


def _signature(entry: str) -> str:
    return f"{entry}({', '.join((*ARGUMENTS[entry], 'memory'))})"


def _check_functions(tree: ast.Module) -> set[str]:
    """Check the arguments of the functions that are called; return their names."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in ARGUMENTS:
            names = [argument.arg for argument in node.args.args]
            if names != [*ARGUMENTS[node.name], "memory"]:
                raise ProgramError(
                    f"line {node.lineno}: {node.name} takes ({', '.join(names)}), expected "
                    f"{_signature(node.name).removeprefix(node.name)}"
                )
            found.add(node.name)
    return found


def _declared_ranges(tree: ast.Module) -> dict[str, tuple[float, float]]:
    line, declared = _constant(tree, RANGES, 2, _RANGES_FORM)
    if not declared:
        raise ProgramError(f"no {_RANGES_FORM} is defined")
    for name, (low, high) in declared.items():
        if low > high:
            raise ProgramError(
                f"line {line}: {RANGES} has {name!r}: {(low, high)}, expected {_RANGES_FORM}"
            )
    return {name: (float(low), float(high)) for name, (low, high) in declared.items()}


def _declared_features(tree: ast.Module) -> dict[str, ProgramOutput]:
    line, declared = _constant(tree, FEATURES, 4, _FEATURES_FORM)
    features = {}
    for name, (width, low, high, fallback) in declared.items():
        whole = isinstance(width, int) and width >= 1
        if not whole or not low <= fallback <= high or not name.isidentifier():
            raise ProgramError(
                f"line {line}: {FEATURES} has {name!r}: {declared[name]}, expected {_FEATURES_FORM}"
            )
        features[name] = ProgramOutput(int(width), float(low), float(high), float(fallback))
    if (total := sum(feature.width for feature in features.values())) > MAX_WIDTH:
        raise ProgramError(f"{FEATURES} has {total:,} numbers, expected at most {MAX_WIDTH}")
    return features


def _constant(
    tree: ast.Module, constant: str, size: int, form: str
) -> tuple[int, dict[str, tuple[float, ...]]]:
    """Read a constant that maps names to `size` numbers: its line, and the last one of that name.

    Raises:
        ProgramError: if it is something else.
    """
    line, value = 0, None
    for node in tree.body:
        named = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if not named or node.targets[0].id != constant:  # type: ignore[attr-defined]
            continue
        line = node.lineno
        try:
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
        except (ValueError, TypeError, MemoryError, RecursionError) as error:
            raise ProgramError(f"line {line}: expected {form}") from error
        if not isinstance(value, dict) or not value:
            raise ProgramError(f"line {line}: {constant} is {value!r}, expected {form}")
    for name, numbers in (value or {}).items():
        listed = numbers if isinstance(numbers, (tuple, list)) else ()
        good = len(listed) == size and all(
            isinstance(number, (int, float)) and abs(number) <= LARGEST for number in listed
        )
        if not isinstance(name, str) or not good:
            raise ProgramError(
                f"line {line}: {constant} has {name!r}: {numbers!r}, expected {form}"
            )
    return line, {name: tuple(numbers) for name, numbers in (value or {}).items()}
