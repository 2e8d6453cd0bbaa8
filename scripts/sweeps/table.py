"""Tables of training runs: cells of (task, method, seed), described in YAML.

A table may name a `measure`, the import path of a function that is called with a cell's run
directory and returns entries to add to its result line. Then a block may have `trials`, overrides
that each make a cell; a block with ``best: true`` takes the trial whose `value` was highest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import BadInputError
from firstlight.scripts.sweeps.table_keys import check_table

KEY = ("task", "method", "seed", "cap", "trial")
"""Fields that identify a cell."""


@dataclass(frozen=True)
class Cell:
    """One training run of a table.

    Args:
        task: its name in the table.
        method: its name in the table.
        seed: of the run.
        threshold: mean return to reach; None for none.
        cap: environment steps.
        stop: whether to end the run at the threshold.
        overrides: of the command line.
        trial: one more override, which is compared with others; empty for none.
        best: whether to use the trial with the highest value.
    """

    task: str
    method: str
    seed: int
    threshold: float | None
    cap: int
    stop: bool
    overrides: tuple[str, ...]
    trial: str = ""
    best: bool = False

    @property
    def key(self) -> tuple[str | int, ...]:
        """The values of `KEY`."""
        return (self.task, self.method, self.seed, self.cap, self.trial)

    @property
    def name(self) -> str:
        """Name of its run directory."""
        key, _, value = self.trial.partition("=")
        tried = f"-{key.rpartition('.')[2]}{value}" if self.trial else ""
        steps = f"{self.cap // 1000}k" if self.cap % 1000 == 0 else str(self.cap)
        return f"{self.task}-{self.method}{tried}-s{self.seed}-{steps}"

    def arguments(self, trial: str = "") -> tuple[str, ...]:
        """Words of ``firstlight-train``, without the run directory.

        Args:
            trial: one more override; empty for none.
        """
        chosen = (*self.overrides, *([trial] if trial else []))
        evaluated = any(word.startswith("eval_every=") for word in chosen)
        return (
            *chosen,
            f"seed={self.seed}",
            f"total_steps={self.cap}",
            *([] if evaluated else ["eval_every=null"]),
            *([f"stop_at={self.threshold}"] if self.stop else []),
        )


def key_of(line: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The `KEY` of the cell that a result line belongs to."""
    return tuple(line.get(name, "") for name in KEY)


def read_table(path: Path) -> DictConfig:
    """Read and check a table.

    Raises:
        BadInputError: if the file cannot be read, is no YAML, or has an unknown key or an invalid
            value.
    """
    try:
        table = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise BadInputError(f"{path}{line}: {error.problem or error.context}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    check_table(OmegaConf.to_container(table), str(path))
    assert isinstance(table, DictConfig)
    return table


def cells_of(table: DictConfig) -> Iterator[Cell]:
    """Yield the cells of a table in the order in which they are run.

    Without `blocks`, these are all tasks and methods with the table's `seeds` and `cap`.
    """
    everything = {"tasks": list(table.tasks), "methods": list(table.methods)}
    blocks = table.get("blocks") or [
        OmegaConf.create({**everything, "seeds": table.seeds, "cap": table.cap})
    ]
    seen = set()
    for block in blocks:
        axes = block.seeds, block.tasks, block.methods, block.get("trials", [""])
        for seed, task, method, trial in itertools.product(*axes):
            of_task, of_method = table.tasks[task], table.methods[method]
            overrides = [
                *table.get("common", []),
                *of_task.get("overrides", []),
                *of_method.get("overrides", []),
            ]
            own = of_method.get("tasks", {}).get(task, [])
            threshold = of_task.get("threshold")
            cell = Cell(
                task,
                method,
                seed,
                None if threshold is None else float(threshold),
                int(block.cap),
                bool(block.get("stop", threshold is not None)),
                (*overrides, *own),
                trial,
                bool(block.get("best", False)),
            )
            if cell.key not in seen:
                seen.add(cell.key)
                yield cell


def best_trial(table: DictConfig, lines: Iterable[Mapping[str, Any]], cell: Cell) -> str:
    """Find the trial with the highest value for a cell's task, method and cap.

    Args:
        table: with the cell and its trials.
        lines: results so far.
        cell: that needs a trial.

    Raises:
        BadInputError: while some of the trials have not been run.
    """

    def like(other: Cell) -> bool:
        return (other.task, other.method, other.cap) == (cell.task, cell.method, cell.cap)

    wanted = {other.key for other in cells_of(table) if other.trial and like(other)}
    tried = [line for line in lines if key_of(line) in wanted]
    if not wanted or len(tried) < len(wanted):
        raise BadInputError(
            f"{cell.name} needs {len(wanted)} trials, of which {len(tried)} have been run"
        )
    return str(max(tried, key=lambda line: line["value"])["trial"])
