"""Run a table of trainings or a search: ``firstlight-sweep TABLE jobs=2``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from firstlight.scripts.benchmarks.options import (
    Parser,
    nonempty,
    parse_options,
    positive_integer,
    seconds,
)
from firstlight.scripts.errors import CONF, FAILED, BadInputError, report_errors, suggestion

USAGE = """firstlight-sweep runs the cells of a table, or a search for hyperparameters.

  firstlight-sweep TABLE [jobs=1] [budget=2h] [only=PART_OF_A_NAME] [dir=runs/sweeps/TABLE]

TABLE is a YAML of your own, or the name of one of ours: {names}.

  jobs    trainings at a time
  budget  no further training is started after this time; the default is no limit
  only    of a table: run the cells whose names contain this
  dir     of the run directories, logs and results

The same command continues: finished cells are skipped, and one that was interrupted is resumed
from its newest checkpoint. Ctrl-C saves every training and ends. docs/sweeps.md has the keys.
"""

OPTIONS: dict[str, Parser] = {
    "jobs": positive_integer,
    "budget": seconds,
    "only": nonempty,
    "dir": nonempty,
}
DEFAULTS: dict[str, Any] = {"jobs": 1, "budget": math.inf, "only": "", "dir": ""}


def our_tables() -> dict[str, Path]:
    """Tables in ``conf/sweep`` and ``conf/bench`` by their names."""
    folders = (CONF / "bench", CONF / "sweep")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def find_table(table: str) -> Path:
    """Find a table by its path, or by the name of one of ours.

    Raises:
        BadInputError: if there is none.
    """
    if Path(table).is_file():
        return Path(table)
    ours = our_tables()
    if table in ours:
        return ours[table]
    raise BadInputError(f"there is no file and no table {table!r}{suggestion(table, ours)}")


def sweep(table: Path, jobs: int, budget: float, only: str, dir: str) -> int:
    """Run what is missing of a table or a search, and print a summary.

    Args:
        table: its YAML.
        jobs: trainings at a time.
        budget: seconds after which no further training is started.
        only: part of the names of the cells to run.
        dir: of everything that is written; empty for ``runs/sweeps/NAME``.

    Returns:
        The number of trainings that failed.
    """
    from firstlight.scripts.report import sweep_summary
    from firstlight.scripts.sweeps.cell_work import CellWork
    from firstlight.scripts.sweeps.runner import run
    from firstlight.scripts.sweeps.search import SearchWork
    from firstlight.scripts.sweeps.table import read_table

    spec = read_table(table)
    folder = Path(dir) if dir else Path("runs/sweeps") / table.stem
    work: CellWork | SearchWork
    if "search" in spec:
        if only:
            raise BadInputError(f"only={only}: a search has no cells to choose from")
        work = SearchWork(spec, folder, folder / "results.jsonl")
    else:
        work = CellWork(spec, folder, folder / "results.jsonl", only, str(table))
    complete = run(work, jobs, budget)
    sweep_summary.show(work)
    if not complete:
        print("the budget is spent; run the command again to continue")
    return len(work.failed)


@report_errors
def main() -> None:
    """Run one table, or print the usage."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE.format(names=", ".join(sorted(our_tables()))))
        return
    words = [word for word in arguments if "=" not in word]
    options = parse_options(arguments, "firstlight-sweep", OPTIONS, DEFAULTS)
    if len(words) != 1:
        raise BadInputError(f"firstlight-sweep takes one table, and got {words or 'none'}")
    if sweep(find_table(words[0]), **options):
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
