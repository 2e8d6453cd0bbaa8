"""Measure speed and learning: ``firstlight-bench throughput``, ``learning``, ``report``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.scripts.benchmarks.options import OPTIONS, read_options
from firstlight.scripts.benchmarks.peer_process import ScriptError
from firstlight.scripts.errors import (
    FAILED,
    BadInputError,
    print_line,
    report_errors,
    suggestion,
)

USAGE = """firstlight-bench measures, and appends what it measured to docs/results.

  firstlight-bench throughput [rounds=3] [steps=250000] [peers=.venv-peers]
      training steps per second against Stable-Baselines3, alternating
  firstlight-bench stages [rounds=3] [steps=250000]
      training time by stage: environments, collect, intrinsic, learn, module_update
  firstlight-bench sizes [rounds=3] [steps=250000]
      training steps per second by number of environments and width of the encoder
  firstlight-bench views [rounds=3] [steps=250000]
      overhead of our adapter on EnvPool, and of MiniGrid's views on training
  firstlight-bench modules [rounds=3] [peers=.venv-peers] [only=PART_OF_A_NAME]
      microseconds per environment step of each reward module, against RLeXplore,
      alternating; peers=none measures ours alone
  firstlight-bench bonuses [rounds=3] [steps=250000] [only=PART_OF_A_NAME]
      training steps per second with each bonus, relative to plain PPO, alternating
  firstlight-bench pools [rounds=3]
      environment steps of NetHack against Gymnasium's AsyncVectorEnv
  firstlight-bench worlds [rounds=3]
      environment steps of the worlds of our own
  firstlight-bench search [rounds=3]
      evaluations of genomes in the hard maze against ribs around Gymnasium, alternating
  firstlight-bench schedules [rounds=3] [steps=250000]
      training steps per second of PPO and of APPO under several schedules, alternating
  firstlight-bench asynchronous [rounds=3] [steps=250000] [peers=.venv-peers] [only=TASK]
      training steps per second of APPO against Sample Factory's, alternating, which is
      installed beside the other peers
  firstlight-bench annotation [rounds=3] [steps=250000] [only=PART_OF_A_NAME]
      training steps per second while a language model labels texts, against the same
      training that asks nobody, alternating
  firstlight-bench gpu [rounds=3] [steps=250000]
      training by stage on a GPU, and how busy it is
  firstlight-bench learning TABLE [budget=90m] [only=PART_OF_A_NAME]
      run the cells of a learning table that are still missing, one line each
  firstlight-bench report
      write tables and curves from docs/results into docs/benchmarks.md

The peers are installed into an environment of their own, the folder `peers`.
"""

MEASUREMENTS = {
    "throughput": "throughput",
    "stages": "stages",
    "sizes": "sizes",
    "views": "adapter_overhead",
    "modules": "modules",
    "bonuses": "bonus_speed",
    "pools": "pools",
    "worlds": "world_speed",
    "search": "search_speed",
    "schedules": "schedules",
    "asynchronous": "asynchronous_peers",
    "annotation": "annotation",
    "gpu": "gpu",
}
"""Command to the module in ``scripts/benchmarks`` with its `measure`."""


def run(words: Sequence[str], options: Mapping[str, Any]) -> None:
    """Run a command.

    Args:
        words: the command, and for "learning" the name of a table.
        options: of that command, by name.

    Raises:
        BadInputError: if a word is missing or too many.
    """
    command, *rest = words
    if command == "learning":
        from firstlight.scripts.benchmarks.learning import run_table, table_names

        if not rest:
            raise BadInputError(f"learning needs a table{suggestion('', table_names())}")
        table, *rest = rest
    if rest:
        hint = suggestion(rest[0], OPTIONS[command])
        raise BadInputError(f"{rest[0]!r} is one word too many for {command}{hint}")
    if command == "learning":
        run_table(table, **options)
    elif command == "report":
        from firstlight.scripts.report.benchmarks_document import write

        write()
    else:
        module = f"firstlight.scripts.benchmarks.{MEASUREMENTS[command]}"
        importlib.import_module(module).measure(**options)


@report_errors
def main() -> None:
    """Run one command, or print the usage."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    try:
        run(*read_options(arguments))
    except ScriptError as error:
        print_line(f"firstlight: {error}")
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
