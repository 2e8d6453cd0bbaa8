"""The cells of a table as work: which are missing, and a result line for each that was run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig

from firstlight.scripts.benchmarks.results import append_line, commit, hardware, read_lines
from firstlight.scripts.errors import BadInputError, suggestion
from firstlight.scripts.sweeps.outcome import is_finished, outcome
from firstlight.scripts.sweeps.runner import Ended, Training, Work, lock
from firstlight.scripts.sweeps.table import Cell, best_trial, cells_of, key_of


class CellWork(Work):
    """Run the missing cells of a table, and resume those that were begun.

    Args:
        table: checked, see `read_table`.
        folder: of the run directories and logs.
        results: file of result lines.
        only: part of the names of the cells that are run; empty for all.
        source: name of the table in messages.

    Raises:
        BadInputError: if no cell is wanted, two have one name, or a finished one was run with
            other options.
    """

    def __init__(
        self, table: DictConfig, folder: Path, results: Path, only: str = "", source: str = "table"
    ):
        self.table, self.folder, self.results = table, folder, results
        cells = list(cells_of(table))
        self.cells = {cell.name: cell for cell in cells if only in cell.name}
        if len({cell.name for cell in cells}) < len(cells):
            raise BadInputError(f"{source}: two cells have the same name; rename a task or method")
        if not self.cells:
            parts = {*table.tasks, *table.methods}
            hint = suggestion(only, parts)
            raise BadInputError(f"only={only}: no cell of {source} contains it{hint}")
        done = self.done()
        for cell in self.cells.values():
            if cell.key in done:
                self.check_done(cell, done[cell.key])
        self.pending = [cell for cell in self.cells.values() if cell.key not in done]
        self.failed: set[str] = set()
        self._trials: dict[str, str] = {}  # of the cells that run: their `trial`, or the best one

    def done(self) -> dict[tuple[str | int, ...], dict[str, Any]]:
        """Result lines of finished cells by their keys."""
        lines = read_lines(self.results)
        return {key_of(line): line for line in lines if "error" not in line}

    def take(self) -> Training | None:
        """Return the next cell that is missing and not run by another process."""
        for cell in list(self.pending):
            if cell.best and self._trials_are_left():
                continue
            log = lock(self._log_path(cell))
            if log is None:
                continue
            self.pending.remove(cell)
            training = self._begin(cell, log)
            if training is not None:
                return training
            log.close()
        return None

    def _begin(self, cell: Cell, log: IO[bytes]) -> Training | None:
        """Return a cell's training; None if there is nothing to run, or it cannot be run."""
        if cell.key in self.done():  # another process was faster
            return None
        try:
            trial = self._best_trial(cell) if cell.best else cell.trial
        except BadInputError as error:
            self.fail(cell, error)
            return None
        self._trials[cell.name] = trial
        run_dir = self.folder / cell.name
        arguments = self.prepare(run_dir, cell.arguments(trial))
        training = Training(cell.name, arguments, log, self._log_path(cell))
        if is_finished(run_dir):  # but its line was not written
            self.record(training, None)
            return None
        return training

    def is_complete(self) -> bool:
        """Whether no cell is left to run."""
        return not self.pending

    def record(self, training: Training, ended: Ended | None) -> None:
        """Append the result line of a cell.

        Args:
            training: of the cell.
            ended: how it ended; None if a process before this one finished it.
        """
        cell = self.cells[training.name]
        trial = self._trials.pop(cell.name)
        try:
            if ended is not None and ended.error is not None:
                raise TrainingFailedError(ended.error, ended.output)
            line = self.result(cell, trial, ended)
        except Exception as error:  # also of the table's own `measure`
            self.fail(cell, error)
            return
        append_line(self.results, line)
        reached = f"reached at {line['reached_at']:,}" if line["reached_at"] else "not reached"
        result = f"eval {line['eval_return']:.3f}"
        result = result if cell.threshold is None else f"{reached}, {result}"
        result = f"value {line['value']:.3f}" if "value" in line else result
        print(f"{cell.name:45s} {result}, {line['seconds']} s", flush=True)

    def result(self, cell: Cell, trial: str, ended: Ended | None) -> dict[str, Any]:
        """Result line of a finished cell, which was run with `trial`."""
        run_dir = self.folder / cell.name
        measured = {}
        if "measure" in self.table:
            from firstlight.scripts.instantiate import locate  # imports torch

            measured = locate(self.table.measure)(run_dir)
        return {
            **self._identity(cell),
            **({"best": trial} if cell.best else {}),
            **outcome(run_dir, cell),
            **({} if ended is None else {"wall_seconds": ended.seconds}),
            **measured,
            "command": command(cell, trial),
            "commit": commit(),
            "hardware": hardware(),
        }

    def prepare(self, run_dir: Path, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the words of the command that starts or resumes a run.

        A directory without a checkpoint is removed: nothing is lost, and the options may be others.
        """
        if run_dir.exists() and not any((run_dir / "checkpoints").glob("step_*")):
            shutil.rmtree(run_dir)
        return (*arguments, f"run_dir={run_dir}", "resume=auto")

    def fail(self, cell: Cell, error: Exception) -> None:
        """Record a cell that failed; the others go on."""
        self.failed.add(cell.name)
        reason = str(error) if isinstance(error, TrainingFailedError) else repr(error)
        trial = "" if cell.best else cell.trial
        line = {**self._identity(cell), "error": reason, "command": command(cell, trial)}
        append_line(self.results, line)
        print(f"{cell.name:45s} failed: {reason} (see {self._log_path(cell)})", flush=True)

    def check_done(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Raise `BadInputError` if a finished cell was run with other options."""
        trial = str(line.get("best", cell.trial))
        if line["command"] != command(cell, trial):
            raise BadInputError(
                f"{cell.name} was run with other options: {line['command']}; give another dir, or "
                f"remove its line from {self.results} and its folder {self.folder / cell.name}"
            )
        self.check_best(cell, line)

    def check_best(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Raise `BadInputError` if a cell was run with a trial that is not the best now."""
        if cell.best and line["best"] != self._best_trial(cell):
            raise BadInputError(
                f"{cell.name} was run with {line['best']}, but another trial is now the best: "
                f"remove its line from {self.results}"
            )

    def _log_path(self, cell: Cell) -> Path:
        return self.folder / "logs" / f"{cell.name}.log"

    def _trials_are_left(self) -> bool:
        running = [self.cells[name] for name in self._trials]
        return any(cell.trial for cell in (*self.pending, *running))

    def _best_trial(self, cell: Cell) -> str:
        return best_trial(self.table, self.done().values(), cell)

    def _identity(self, cell: Cell) -> dict[str, Any]:
        fields = {"task": cell.task, "method": cell.method, "seed": cell.seed, "cap": cell.cap}
        return {**fields, **({"trial": cell.trial} if cell.trial else {})}


class TrainingFailedError(RuntimeError):
    """A training failed; `output` is the end of its log."""

    def __init__(self, message: str, output: str):
        super().__init__(message)
        self.output = output


def command(cell: Cell, trial: str) -> str:
    """Shell command of a cell, without its directory."""
    return shlex.join(["firstlight-train", *cell.arguments(trial)])
