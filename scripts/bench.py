"""Measure: ``firstlight-bench throughput``, ``stages``, ``views``, ``modules``, and so on."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from firstlight.scripts.benchmarks.peer_process import ScriptError
from firstlight.scripts.errors import FAILED, BadInputError, nearest, reports_bad_input

USAGE = """firstlight-bench measures, and writes what it measured into docs/results.

  firstlight-bench throughput [rounds=3] [steps=250000] [peers=.venv-peers]
      training steps per second against Stable-Baselines3, alternating
  firstlight-bench stages [rounds=3] [steps=250000]
      where training time goes: environments, collect, rate, learn, adapt
  firstlight-bench views [rounds=3] [steps=250000]
      what our adapter costs EnvPool, and what MiniGrid's views cost training
  firstlight-bench modules [rounds=3] [peers=.venv-peers] [only=PART_OF_A_NAME]
      microseconds per environment step of each reward module, against RLeXplore,
      alternating; peers=none measures ours alone
  firstlight-bench pools [rounds=3]
      environment steps of NetHack against Gymnasium's AsyncVectorEnv
  firstlight-bench learning TABLE [budget=90m] [only=PART_OF_A_NAME]
      run the cells of a learning table that are still missing, one line each
  firstlight-bench report
      draw tables and curves from docs/results into docs/benchmarks.md

The peers are installed into an environment of their own, the folder `peers`.
"""


def whole(text: str) -> int:
    """A whole number, at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def seconds(budget: str) -> float:
    """Seconds, a number above 0, in "90m", "2h", "30s" or a plain number of seconds.

    >>> seconds("90m"), seconds("2h"), seconds("45")
    (5400.0, 7200.0, 45.0)
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(budget[-1:])
    number = float(budget[:-1]) * unit if unit else float(budget)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def name(text: str) -> str:
    """Any text but none."""
    if not text:
        raise ValueError
    return text


Reader = Callable[[str], Any]
EXPECTED: dict[Reader, str] = {
    whole: "a whole number, at least 1",
    seconds: "a time, such as 90m, 2h, 30s or 45",
    name: "a name",
}
OPTIONS: dict[str, dict[str, Reader]] = {
    "throughput": {"rounds": whole, "steps": whole, "peers": name},
    "stages": {"rounds": whole, "steps": whole},
    "views": {"rounds": whole, "steps": whole},
    "modules": {"rounds": whole, "peers": name, "only": name},
    "pools": {"rounds": whole},
    "learning": {"budget": seconds, "only": name},
    "report": {},
}
DEFAULTS: dict[str, Any] = {
    "rounds": 3,
    "steps": 250_000,
    "peers": ".venv-peers",
    "budget": 5400.0,
    "only": "",
}


def read(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words and the options of a command line.

    >>> read(["stages", "rounds=5"])
    (['stages'], {'rounds': 5, 'steps': 250000})

    Raises:
        BadInputError: for a command, an option or a value that there is not.
    """
    words = [word for word in arguments if "=" not in word]
    command = words[0] if words else ""
    if command not in OPTIONS:
        said = f"{command!r} is no command" if command else "give a command"
        raise BadInputError(f"{said} of firstlight-bench{nearest(command, OPTIONS)}")
    takes = OPTIONS[command]
    options = {key: DEFAULTS[key] for key in takes}
    for key, text in (word.split("=", 1) for word in arguments if "=" in word):
        if key not in takes:
            raise BadInputError(f"{command} takes no option {key!r}{nearest(key, takes)}")
        try:
            options[key] = takes[key](text)
        except ValueError as error:
            raise BadInputError(f"{key}={text}: it is {EXPECTED[takes[key]]}") from error
    return words, options


def run(words: Sequence[str], options: Mapping[str, Any]) -> None:
    """Carry a command out."""
    command, *rest = words
    if command == "learning":
        from firstlight.scripts.benchmarks.learning import run_table, tables

        if not rest:
            raise BadInputError(f"learning takes the name of a table{nearest('', tables())}")
        table, *rest = rest
    if rest:
        hint = nearest(rest[0], OPTIONS[command])
        raise BadInputError(f"{rest[0]!r} is one word too many for {command}{hint}")
    if command == "throughput":
        from firstlight.scripts.benchmarks.throughput import measure as measure_throughput

        measure_throughput(**options)
    elif command == "stages":
        from firstlight.scripts.benchmarks.stages import measure as measure_stages

        measure_stages(**options)
    elif command == "views":
        from firstlight.scripts.benchmarks.adapter_overhead import measure as measure_views

        measure_views(**options)
    elif command == "modules":
        from firstlight.scripts.benchmarks.modules import measure as measure_modules

        measure_modules(**options)
    elif command == "pools":
        from firstlight.scripts.benchmarks.pools import measure as measure_pools

        measure_pools(**options)
    elif command == "learning":
        run_table(table, **options)
    else:
        from firstlight.scripts.report.tables import write

        write()


@reports_bad_input
def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    try:
        run(*read(arguments))
    except ScriptError as error:
        print(f"firstlight: {error}", file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
