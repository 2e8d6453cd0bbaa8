"""Options of ``firstlight-bench``, as ``key=value`` on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from firstlight.scripts.errors import BadInputError, suggestion


def positive_integer(text: str) -> int:
    """Parse a whole number, at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def seconds(text: str) -> float:
    """Parse a time: "90m", "2h", "30s" or a plain number of seconds, above 0.

    >>> seconds("90m"), seconds("2h"), seconds("45")
    (5400.0, 7200.0, 45.0)
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    number = float(text[:-1]) * unit if unit else float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def whole_number(text: str) -> int:
    """Parse a whole number, at least 0."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def positive_number(text: str) -> float:
    """Parse a number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def switch(text: str) -> bool:
    """Parse true or false."""
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def nonempty(text: str) -> str:
    """Parse any text but the empty one."""
    if not text:
        raise ValueError
    return text


Parser = Callable[[str], Any]
EXPECTED: dict[Parser, str] = {
    positive_integer: "a whole number, at least 1",
    whole_number: "a whole number, at least 0",
    positive_number: "a number above 0",
    switch: "true or false",
    seconds: "a time, such as 90m, 2h, 30s or 45",
    nonempty: "a name",
}
OPTIONS: dict[str, dict[str, Parser]] = {
    "throughput": {"rounds": positive_integer, "steps": positive_integer, "peers": nonempty},
    "stages": {"rounds": positive_integer, "steps": positive_integer},
    "sizes": {"rounds": positive_integer, "steps": positive_integer},
    "gpu": {"rounds": positive_integer, "steps": positive_integer},
    "views": {"rounds": positive_integer, "steps": positive_integer},
    "modules": {"rounds": positive_integer, "peers": nonempty, "only": nonempty},
    "bonuses": {"rounds": positive_integer, "steps": positive_integer, "only": nonempty},
    "pools": {"rounds": positive_integer},
    "worlds": {"rounds": positive_integer},
    "search": {"rounds": positive_integer},
    "schedules": {"rounds": positive_integer, "steps": positive_integer},
    "asynchronous": {
        "rounds": positive_integer,
        "steps": positive_integer,
        "peers": nonempty,
        "only": nonempty,
    },
    "annotation": {"rounds": positive_integer, "steps": positive_integer, "only": nonempty},
    "learning": {"budget": seconds, "only": nonempty},
    "report": {},
}
DEFAULTS: dict[str, Any] = {
    "rounds": 3,
    "steps": 250_000,
    "peers": ".venv-peers",
    "budget": 5400.0,
    "only": "",
}


def read_options(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split a command line into its words and its options, parsed, defaults included.

    >>> read_options(["stages", "rounds=5"])
    (['stages'], {'rounds': 5, 'steps': 250000})

    Raises:
        BadInputError: for an unknown command or option, or an invalid value.
    """
    words = [word for word in arguments if "=" not in word]
    command = words[0] if words else ""
    if command not in OPTIONS:
        what = f"{command!r} is no command" if command else "give a command"
        raise BadInputError(f"{what} of firstlight-bench{suggestion(command, OPTIONS)}")
    return words, parse_options(arguments, command, OPTIONS[command], DEFAULTS)


def parse_options(
    arguments: Sequence[str],
    command: str,
    parsers: Mapping[str, Parser],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """Parse the ``key=value`` words of a command line.

    Args:
        arguments: of the command line; words without = are left out.
        command: name in messages.
        parsers: of the options that it takes.
        defaults: of these options, at least.

    Raises:
        BadInputError: for an unknown option, or an invalid value.
    """
    options = {key: defaults[key] for key in parsers}
    for key, text in (word.split("=", 1) for word in arguments if "=" in word):
        if key not in parsers:
            raise BadInputError(f"{command} takes no option {key!r}{suggestion(key, parsers)}")
        try:
            options[key] = parsers[key](text)
        except ValueError as error:
            raise BadInputError(f"{key}={text}: expected {EXPECTED[parsers[key]]}") from error
    return options
