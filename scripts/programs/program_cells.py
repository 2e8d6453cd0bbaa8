"""Train with reward programs, as cells of a sweep."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from firstlight.intrinsic.design.design_search import TrainedProgram
from firstlight.intrinsic.design.designers.base import LENGTH, RETURN
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.scripts.benchmarks.results import read_lines
from firstlight.scripts.sweeps.cell_work import CellWork, command
from firstlight.scripts.sweeps.outcome import read_metrics
from firstlight.scripts.sweeps.runner import run
from firstlight.scripts.sweeps.table import Cell, key_of

MOMENTS = 10
"""Number of values of a curve that designers see."""
WITHOUT = "without"
"""Name of trainings without a program."""
SEARCH = "search"
"""Name of the search's own trainings in result lines, of which designers see failed episodes."""


class ProgramCells:
    """Trains with programs in processes of their own; finished trainings are not repeated.

    Args:
        folder: of programs, run directories, logs and result lines.
        overrides: of ``firstlight-train``. Bonuses among them stay beside the program.
        jobs: trainings at a time.
        budget: seconds from now after which none is started.
        allow_unsandboxed: passed on.
        describe: gives `TrainedProgram.failures` for a run directory; None leaves them empty.
    """

    def __init__(
        self,
        folder: Path,
        overrides: Sequence[str],
        *,
        jobs: int,
        budget: float,
        allow_unsandboxed: bool,
        describe: Callable[[Path], Sequence[str]] | None = None,
    ):
        self.folder, self.results, self.jobs = folder, folder / "results.jsonl", jobs
        self._describe = describe
        self._deadline = time.monotonic() + budget
        modules = [word for word in overrides if word.startswith("intrinsic=")]
        self._common = [word for word in overrides if word not in modules]
        if not any(word.startswith("num_threads=") for word in overrides):
            self._common.append("num_threads=1")
        chosen = modules[-1].partition("=")[2].strip("[]") if modules else ""
        self._modules = [name for name in (part.strip() for part in chosen.split(",")) if name]
        self._program = ["intrinsic.program.allow_unsandboxed=true"] if allow_unsandboxed else []

    def path_of(self, program: str) -> Path:
        """File of the program with this hash."""
        return self.folder / "programs" / f"{program}.py"

    def train(
        self,
        programs: Mapping[str, RewardProgram | None],
        *,
        task: str,
        seeds: Sequence[int],
        steps: int,
    ) -> dict[tuple[str, int], TrainedProgram]:
        """Run the trainings of these programs that are missing.

        Args:
            programs: by hash; None is a training without one, by the name `WITHOUT`.
            task: name of the trainings in result lines.
            seeds: of each program.
            steps: environment steps.

        Returns:
            By name and seed what was found; what is missing was not trained, for lack of time.
        """
        for name, program in programs.items():
            if program is not None:
                path = self.path_of(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(program.source, encoding="utf-8")
        methods = {
            name: {"overrides": self._overrides(name, program is not None)}
            for name, program in programs.items()
        }
        table = {"common": self._common, "tasks": {task: {}}, "methods": methods}
        config = OmegaConf.create({**table, "seeds": [*seeds], "cap": steps})
        assert isinstance(config, DictConfig)
        work = _ProgramWork(config, self.folder, self.results, source="the search")
        run(work, self.jobs, max(0.0, self._deadline - time.monotonic()))
        lines = {key_of(line): line for line in read_lines(self.results)}
        return {
            (cell.method, cell.seed): self._read(lines[cell.key], self.folder / cell.name, task)
            for cell in work.cells.values()
            if cell.key in lines
        }

    def _overrides(self, name: str, with_program: bool) -> list[str]:
        if not with_program:
            return [f"intrinsic=[{','.join(self._modules)}]"]
        return [
            f"intrinsic=[{','.join([*self._modules, 'program'])}]",
            f"intrinsic.program.file={self.path_of(name)}",
            *self._program,
        ]

    def _read(self, line: Mapping[str, Any], run_dir: Path, task: str) -> TrainedProgram:
        if "error" in line:
            return TrainedProgram(error=str(line["error"]))
        metrics = read_metrics(run_dir)
        returns = [entry[_RETURN] for entry in metrics if _RETURN in entry]
        return TrainedProgram(
            score=line["eval_return"],
            training_return=float(np.mean(returns)) if returns else None,
            success_rate=line["eval_success"],
            steps=line["steps"],
            curves=curves_of(metrics),
            failures=tuple(self._describe(run_dir)) if self._describe and task == SEARCH else (),
        )


class _ProgramWork(CellWork):
    """Cells that stay finished when the search's folder moves, or its programs' rights change."""

    def check_done(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Raise `BadInputError` if a finished cell was run with other options, or program."""
        if _without_place(line["command"]) != _without_place(command(cell, cell.trial)):
            super().check_done(cell, line)


def _without_place(text: str) -> list[str]:
    """Words of a command with the name of the program alone, which is its hash."""
    kept = []
    for word in shlex.split(text):
        key, _, value = word.partition("=")
        if key == "intrinsic.program.file":
            kept.append(Path(value).name)
        elif key != "intrinsic.program.allow_unsandboxed":
            kept.append(word)
    return kept


_RETURN, _LENGTH, _COMPONENT = "rollout/return_mean", "rollout/length_mean", "program/"


def curves_of(metrics: Sequence[Mapping[str, float]], moments: int = MOMENTS) -> dict[str, Any]:
    """Curves of a training: return, length of episodes, and the mean of each component.

    Args:
        metrics: lines of ``metrics.jsonl``.
        moments: M, parts of the training.

    Returns:
        By name up to M values, means over equal parts of the training.

    >>> curves_of([{"program/a": 1.0}, {"program/a": 3.0}], moments=1)
    {'a': [2.0]}
    """
    tags = dict.fromkeys(tag for line in metrics for tag in line)
    names = {
        tag: tag.removeprefix(_COMPONENT)
        for tag in tags
        if tag.startswith(_COMPONENT) and tag != f"{_COMPONENT}failures"
    }
    curves = {}
    for tag, name in {_RETURN: RETURN, _LENGTH: LENGTH, **names}.items():
        values = [line[tag] for line in metrics if tag in line]
        if values:
            parts = np.array_split(values, min(moments, len(values)))
            curves[name] = [round(float(part.mean()), 6) for part in parts]
    return curves
