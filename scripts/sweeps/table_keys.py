"""Keys and values that a table of training runs may have, in YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from firstlight.scripts.errors import BadInputError, suggestion

Kind = tuple[str, Callable[[Any], bool]]
"""What is expected, in words, and whether a value is of that kind."""


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any, least: int) -> bool:
    """Whether `value` is a whole number, at least `least`."""
    return isinstance(value, int) and is_number(value) and value >= least


def is_list_of(value: Any, kind: type) -> bool:
    """Whether `value` is a list with nothing but `kind` in it."""
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


TEXT: Kind = ("text", lambda v: isinstance(v, str))
SWITCH: Kind = ("true or false", lambda v: isinstance(v, bool))
COUNT: Kind = ("a whole number, at least 1", lambda v: is_whole(v, 1))
SEED: Kind = ("a whole number, at least 0", lambda v: is_whole(v, 0))
THRESHOLD: Kind = ("a number or null", lambda v: v is None or is_number(v))
SEEDS: Kind = (
    "a list of different whole numbers, such as [0, 1, 2]",
    lambda v: bool(v) and is_list_of(v, int) and min(v) >= 0 and len({*v}) == len(v),
)
OVERRIDES: Kind = ("a list of overrides, such as [env=chain]", lambda v: is_list_of(v, str))
NAMES: Kind = ("a list of names", lambda v: bool(v) and is_list_of(v, str))
PART: Kind = ("keys with values", lambda v: isinstance(v, dict))
PARTS: Kind = ("a list of keys with values", lambda v: is_list_of(v, dict))
LIST: Kind = ("a list", lambda v: isinstance(v, list))
OBJECT: Kind = (
    "a name, or an import path as {_target_: ...}",
    lambda v: isinstance(v, str) or (isinstance(v, dict) and isinstance(v.get("_target_"), str)),
)
DIRECTIONS = ("maximize", "minimize")
DIRECTION: Kind = (" or ".join(DIRECTIONS), lambda v: v in DIRECTIONS)

TABLE = {
    **{"common": OVERRIDES, "tasks": PART, "methods": PART, "blocks": PARTS, "seeds": SEEDS},
    **{"cap": COUNT, "search": PART, "measure": TEXT},
    **{"note": TEXT, "show": NAMES, "published": LIST},
}
TASK = {"overrides": OVERRIDES, "threshold": THRESHOLD, "published": LIST}
METHOD = {"overrides": OVERRIDES, "tasks": PART}
BLOCK = {
    **{"tasks": NAMES, "methods": NAMES, "seeds": SEEDS, "cap": COUNT, "stop": SWITCH},
    **{"trials": OVERRIDES, "best": SWITCH},
}
SEARCH = {
    **{"parameters": PART, "objective": TEXT, "direction": DIRECTION, "trials": COUNT},
    **{"seeds": SEEDS, "cap": COUNT, "sampler": OBJECT, "pruner": OBJECT, "seed": SEED},
}
RANGE: dict[str, Kind] = {
    **{"low": ("a number", is_number), "high": ("a number", is_number), "log": SWITCH},
    "step": ("a number above 0", lambda v: is_number(v) and v > 0),
}


def check_table(table: Any, source: str) -> None:
    """Raise `BadInputError` for a table with an unknown key or an invalid value.

    Args:
        table: content of its YAML, in plain dicts and lists.
        source: its name in messages.
    """
    _check(table, f"{source}: ", TABLE)
    if "search" in table:
        _check_search(table, f"{source}: ")
        return
    needed = ("tasks", "methods") + (() if "blocks" in table else ("seeds", "cap"))
    _check(table, f"{source}: ", TABLE, needed)
    for part, keys in (("tasks", TASK), ("methods", METHOD)):
        if not table[part]:
            raise BadInputError(f"{source}: {part} is empty")
        for name, values in table[part].items():
            _check_name(name, f"{source}: {part}.")
            _check(values, f"{source}: {part}.{name}.", keys)
    for name, method in table["methods"].items():
        here = f"{source}: methods.{name}.tasks."
        own = method.get("tasks", {})
        _check(own, here, dict.fromkeys(table["tasks"], OVERRIDES))
    for number, block in enumerate(table.get("blocks", [])):
        here = f"{source}: blocks[{number}]."
        _check(block, here, BLOCK, ("tasks", "methods", "seeds", "cap"))
        for part in ("tasks", "methods"):
            for name in block[part]:
                if name not in table[part]:
                    hint = suggestion(name, table[part])
                    raise BadInputError(f"{here}{part}: there is no {name!r} in {part}{hint}")


def _check_search(table: Mapping[str, Any], here: str) -> None:
    for key in table:
        if key not in ("search", "common", "note"):
            raise BadInputError(f"{here}{key} and search: a table has either; use common")
    search = table["search"]
    _check(search, f"{here}search.", SEARCH, ("parameters", "trials", "cap"))
    if not search["parameters"]:
        raise BadInputError(f"{here}search.parameters is empty")
    for name, values in search["parameters"].items():
        place = f"{here}search.parameters.{name}"
        if isinstance(values, list):
            if not values:
                raise BadInputError(f"{place} is empty")
            if any(isinstance(value, list | dict) for value in values):
                raise BadInputError(f"{place}: expected text, numbers, true, false or null")
        elif not isinstance(values, dict):
            raise BadInputError(f"{place}={values}: expected a list, or low and high")
        else:
            _check(values, f"{place}.", RANGE, ("low", "high"))
            if values["low"] > values["high"]:
                raise BadInputError(f"{place}: low is above high")
            if values.get("log") and ("step" in values or values["low"] <= 0):
                raise BadInputError(f"{place}.log: needs low above 0, and no step")


def _check(values: Any, here: str, keys: Mapping[str, Kind], needed: Collection[str] = ()) -> None:
    """Check one level of a table.

    Args:
        values: to be checked.
        here: place in messages, in front of a key.
        keys: that it may have, with the kinds of their values.
        needed: keys that it must have.
    """
    if not isinstance(values, dict):
        raise BadInputError(f"{here.rstrip('.: ')} holds {values!r}: expected keys with values")
    for key, value in values.items():
        if key not in keys:
            raise BadInputError(f"{here}{key}: there is no such key{suggestion(str(key), keys)}")
        expected, holds = keys[key]
        if not holds(value):
            raise BadInputError(f"{here}{key}={value}: expected {expected}")
    for key in needed:
        if key not in values:
            raise BadInputError(f"{here}{key} is missing")


def _check_name(name: Any, here: str) -> None:
    if not re.fullmatch(r"[\w.+-]+", str(name)):
        raise BadInputError(f"{here}{name}: expected a name of letters, digits, _ . + and -")
