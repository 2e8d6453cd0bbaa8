"""Learning tables: ``conf/bench/TABLE.yaml``, and a committed line for each cell."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from firstlight.scripts.benchmarks import results
from firstlight.scripts.errors import CONF, BadInputError, suggestion
from firstlight.scripts.sweeps import runner
from firstlight.scripts.sweeps.cell_work import CellWork, TrainingFailedError
from firstlight.scripts.sweeps.table import Cell, cells_of, read_table


def table_names() -> list[str]:
    """Names of all learning tables."""
    return sorted(path.stem for path in (CONF / "bench").glob("*.yaml"))


def spec(table: str) -> DictConfig:
    """Load ``conf/bench/TABLE.yaml``."""
    if table not in table_names():
        raise BadInputError(
            f"there is no learning table {table!r}{suggestion(table, table_names())}"
        )
    return read_table(CONF / "bench" / f"{table}.yaml")


def cells(table: str) -> Iterator[Cell]:
    """Yield the cells of a table in the order in which they are run."""
    return cells_of(spec(table))


class LearningTable(CellWork):
    """Cells whose results are published: never resumed, and a failure ends the command.

    A finished cell stays, also if its table or the defaults have changed since.
    """

    def prepare(self, run_dir: Path, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Remove what an interrupted command left, and return the words of a new run."""
        if run_dir.exists():
            shutil.rmtree(run_dir)
        return (*arguments, f"run_dir={run_dir}")

    def fail(self, cell: Cell, error: Exception) -> None:
        """Raise the error of a cell.

        Raises:
            RuntimeError: with the end of its output, if the training failed.
        """
        if isinstance(error, TrainingFailedError):
            raise RuntimeError(f"{cell.name} failed:\n{error.output}") from error
        raise error

    def check_done(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Raise `BadInputError` if a cell was run with a trial that is not the best now."""
        self.check_best(cell, line)


def run_table(table: str, budget: float = math.inf, only: str = "") -> None:
    """Run the missing cells whose names contain `only`, until the budget is spent.

    Args:
        table: name of a file in ``conf/bench``.
        budget: seconds after which no further cell is started.
        only: part of a cell's name.
    """
    path = results.RESULTS / f"{table}.jsonl"
    work = LearningTable(spec(table), Path("runs/bench") / table, path, only, table)
    if runner.run(work, jobs=1, budget=budget):
        print(f"{table} {only}: all {len(work.cells)} cells are measured")
    else:
        print("the budget is spent; run the command again to continue")
