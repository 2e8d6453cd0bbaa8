"""Search for hyperparameters with Optuna: trials as work, stopped early by their curves.

The study is an SQLite file in the sweep's folder, which several processes may share. A trial
trains its seeds one after another; its value is their mean. The log of a trial is locked while it
runs, so that the trials of a process that was killed are recognised, and continued.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO, TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from firstlight.scripts.errors import BadInputError, suggestion
from firstlight.scripts.sweeps.outcome import is_finished, read_metrics
from firstlight.scripts.sweeps.runner import Ended, Training, Work, lock
from firstlight.scripts.sweeps.search_parts import make_pruner, make_sampler, num_trials, suggest

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import TrialState

REPORTS = 20
"""Points of a training's curve that a pruner sees, evenly spaced over its steps."""

STUDY = "study.db"
"""Name of the study's file in the sweep's folder."""


def import_optuna() -> None:
    """Import Optuna.

    Raises:
        BadInputError: if it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise BadInputError(
            "a search needs Optuna, which is not installed: pip install 'firstlight[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass
class RunningTrial:
    """A trial that this process runs.

    Args:
        trial: Optuna's.
        log: of its trainings; holds the trial's lock.
        overrides: its parameters, as words of ``firstlight-train``.
        values: of the seeds that are finished.
        reported: numbers of the reports that the study has.
        offset: bytes of the current ``metrics.jsonl`` that have been read.
        pruned: the pruner has stopped it.
    """

    trial: Trial
    log: IO[bytes]
    overrides: tuple[str, ...]
    values: list[float] = field(default_factory=list)
    reported: set[int] = field(default_factory=set)
    offset: int = 0
    pruned: bool = False


class SearchWork(Work):
    """Trials of a search; those that a killed process left are continued.

    Args:
        table: with a ``search``, checked, see `read_table`.
        folder: of the run directories, logs and the study.
        results: file to which all trials are written.

    Raises:
        BadInputError: if Optuna is missing, or `folder` holds another search.
    """

    def __init__(self, table: DictConfig, folder: Path, results: Path):
        import_optuna()
        import optuna

        search = OmegaConf.to_container(table.search)
        assert isinstance(search, dict)
        self.parameters = search["parameters"]
        self.objective = str(search.get("objective", "eval/return_mean"))
        self.maximise = search.get("direction", "maximize") == "maximize"
        self.seeds, self.cap = list(search.get("seeds", [0])), int(search["cap"])
        self.sampler, self.seed = search.get("sampler", "tpe"), int(search.get("seed", 0))
        self.limit = num_trials(search["trials"], self.sampler, self.parameters)
        self.common = tuple(str(word) for word in table.get("common", []))
        self.folder, self.results = folder, results
        self.failed: set[str] = set()
        self._running: dict[int, RunningTrial] = {}
        self._next: list[Training] = []
        pruner = make_pruner(search.get("pruner", "median"), REPORTS * len(self.seeds))
        make_sampler(self.sampler, self.seed)  # raises for an unknown one, before files are made
        folder.mkdir(parents=True, exist_ok=True)
        self._check_same_search()
        with self._lock_study():
            self.study: Study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{(folder / STUDY).absolute()}",
                    engine_kwargs={"connect_args": {"timeout": 60}},
                ),
                study_name="search",
                direction="maximize" if self.maximise else "minimize",
                pruner=pruner,
                load_if_exists=True,
            )
        self._write_results()

    def take(self) -> Training | None:
        """Return the next seed of a running trial, a trial that was left, or a new one."""
        if not self._next:
            with self._lock_study():
                running = self._find_left() or self._ask()
            if running is None:
                return None
            self._running[running.trial.number] = running
            self._continue(running)
        return self._next.pop() if self._next else self.take()

    def is_complete(self) -> bool:
        """Whether all trials have ended, also those of other processes."""
        trials = self.study.get_trials(deepcopy=False)
        return len(trials) >= self.limit and all(trial.state.is_finished() for trial in trials)

    def should_stop(self, training: Training) -> bool:
        """Report what the training's curve has gained, and ask the pruner."""
        running = self._running[_number(training.name)]
        if not running.pruned:
            self._report(running, training.name)
        return running.pruned

    def record(self, training: Training, ended: Ended) -> None:
        """Store the value of a seed; begin the next one, or end the trial."""
        running = self._running[_number(training.name)]
        if ended.error is None:
            self._end_seed(running, training.name)
        elif running.pruned:
            self._continue(running)
        else:
            self._fail(running, ended.error)

    def close(self) -> None:
        """Release the locks of trials that are not finished, see `Work.close`."""
        for running in self._running.values():
            running.log.close()

    def _find_left(self) -> RunningTrial | None:
        """Take a trial that runs according to the study, but that no process has locked."""
        import optuna

        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state.is_finished() or frozen.number in self._running:
                continue
            if (log := self._lock_trial(frozen.number)) is not None:
                trial = optuna.trial.Trial(self.study, frozen._trial_id)
                running = self._begin(trial, log)
                running.values = list(frozen.user_attrs.get("values", []))
                running.reported = set(frozen.intermediate_values)
                running.pruned = self._should_prune(running)
                return running
        return None

    def _ask(self) -> RunningTrial | None:
        """Make a new trial, if there are not enough yet.

        The sampler's random numbers follow from the number of the trial, so that a search that was
        interrupted goes on with the trials that it would have had.
        """
        count = len(self.study.get_trials(deepcopy=False))
        if count >= self.limit:
            return None
        self.study.sampler = make_sampler(self.sampler, self.seed + count)
        trial = self.study.ask()
        log = self._lock_trial(trial.number)
        assert log is not None, "the trial is new"
        return self._begin(trial, log)

    def _begin(self, trial: Trial, log: IO[bytes]) -> RunningTrial:
        """Draw the parameters of a trial; an interrupted trial keeps its own."""
        overrides = tuple(
            f"{name}={_word(suggest(trial, name, domain))}"
            for name, domain in self.parameters.items()
        )
        words = self._words(overrides, self.seeds[0])
        trial.set_user_attr("command", shlex.join(["firstlight-train", *words]))
        return RunningTrial(trial, log, overrides)

    def _words(self, overrides: Sequence[str], seed: int) -> list[str]:
        return [*self.common, *overrides, f"seed={seed}", f"total_steps={self.cap}"]

    def _continue(self, running: RunningTrial) -> None:
        """Queue the training of a trial's next seed, or end the trial if there is none."""
        from optuna.trial import TrialState

        if running.pruned:
            self._tell(running, "pruned", state=TrialState.PRUNED)
            return
        if len(running.values) == len(self.seeds):
            value = fmean(running.values)
            self._tell(running, f"value {value:.4g}", value=value)
            return
        seed, running.offset = self.seeds[len(running.values)], 0
        name = f"{_name(running.trial.number)}-s{seed}"
        if is_finished(self.folder / name):
            self._end_seed(running, name)
            return
        words = self._words(running.overrides, seed)
        words += [f"run_dir={self.folder / name}", "resume=auto"]
        log = open(os.dup(running.log.fileno()), "ab")  # noqa: SIM115, it is closed by the runner
        self._next.append(Training(name, tuple(words), log, Path(running.log.name)))

    def _end_seed(self, running: RunningTrial, name: str) -> None:
        """Add the value of a finished training to its trial, and continue the trial."""
        lines = read_metrics(self.folder / name)
        found = [line[self.objective] for line in lines if line.get(self.objective) is not None]
        if not found:
            hint = suggestion(self.objective, {tag for line in lines for tag in line})
            self._fail(running, f"the run has logged no number {self.objective!r}{hint}")
            return
        self._report(running, name)
        running.values.append(float(found[-1]))
        running.trial.set_user_attr("values", running.values)
        self._continue(running)

    def _fail(self, running: RunningTrial, error: str) -> None:
        """End a trial that failed."""
        from optuna.trial import TrialState

        self.failed.add(_name(running.trial.number))
        running.trial.set_user_attr("error", error)
        self._tell(running, f"failed: {error} (see {running.log.name})", state=TrialState.FAIL)

    def _report(self, running: RunningTrial, name: str) -> None:
        """Report the new lines of a training's curve, until the pruner wants to stop the trial.

        A pruner compares trials report by report, so that they must not depend on the steps at
        which a run logs: at each twentieth of the steps it is the value logged next.
        """
        before = len(running.values) * REPORTS
        for step, value in self._read_new_values(running, self.folder / name / "metrics.jsonl"):
            for point in range(1, min(REPORTS, step * REPORTS // self.cap) + 1):
                if before + point not in running.reported and not running.pruned:
                    running.trial.report(fmean([*running.values, value]), before + point)
                    running.reported.add(before + point)
                    running.pruned = self._should_prune(running)

    def _should_prune(self, running: RunningTrial) -> bool:
        """Ask the pruner; a trial with all its reports has nothing left to stop."""
        reports = max(running.reported, default=0)
        return 0 < reports < REPORTS * len(self.seeds) and running.trial.should_prune()

    def _read_new_values(self, running: RunningTrial, path: Path) -> Iterator[tuple[int, float]]:
        """Yield steps and values of the objective in complete lines not read before."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        if size < running.offset:
            running.offset = 0  # lines after the checkpoint were removed when it was resumed
        with path.open("rb") as file:
            file.seek(running.offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        running.offset += len(data)
        for line in data.splitlines():
            with contextlib.suppress(ValueError):  # a part of a line, if the file was replaced
                entry = json.loads(line)
                value = entry.get(self.objective)
                if value is not None and math.isfinite(value):
                    yield entry["step"], float(value)

    def _tell(
        self,
        running: RunningTrial,
        result: str,
        value: float | None = None,
        state: TrialState | None = None,
    ) -> None:
        """End a trial, print its result, and write all trials."""
        number = running.trial.number
        del self._running[number]
        with self._lock_study(), contextlib.suppress(RuntimeError):
            # `grid` calls `Study.stop` at its last point, an error here; the result is stored
            self.study.tell(number, value, state)
        running.log.close()
        print(f"{_name(number)} {' '.join(running.overrides)}: {result}", flush=True)
        self._write_results()

    def _write_results(self) -> None:
        """Write a line for each trial, from the study."""
        lines = [json.dumps(line) + "\n" for line in self.lines()]
        temporary = self.results.with_name(f".{self.results.name}.{os.getpid()}")
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(self.results)

    def lines(self) -> list[dict[str, Any]]:
        """Describe the trials that have ended, in their order."""
        return [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value,
                "parameters": trial.params,
                **trial.user_attrs,
            }
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.is_finished()
        ]

    def _check_same_search(self) -> None:
        """Compare with the search that the folder holds, and save this one if it holds none.

        Raises:
            BadInputError: if they differ in more than the number of trials and the pruner.
        """
        path = self.folder / "search.json"
        ours = {
            "parameters": self.parameters,
            "objective": self.objective,
            "maximise": self.maximise,
            "seeds": self.seeds,
            "cap": self.cap,
            "sampler": self.sampler,
            "seed": self.seed,
            "common": list(self.common),
        }
        if not path.exists():
            path.write_text(json.dumps(ours), encoding="utf-8")
            return
        theirs = json.loads(path.read_text(encoding="utf-8"))
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise BadInputError(
                    f"{self.folder} holds a search with {key}={theirs.get(key)}, now {value}: give "
                    "another dir"
                )

    @contextlib.contextmanager
    def _lock_study(self) -> Iterator[None]:
        """Let one process at a time make, take or end trials."""
        with (self.folder / "study.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _lock_trial(self, number: int) -> IO[bytes] | None:
        return lock(self.folder / "logs" / f"{_name(number)}.log")


def _name(number: int) -> str:
    return f"trial-{number:04d}"


def _number(name: str) -> int:
    """Number of the trial that a training belongs to."""
    return int(name.split("-")[1])


def _word(value: Any) -> str:
    """Format a value for Hydra's command line."""
    return "null" if value is None else str(value)
