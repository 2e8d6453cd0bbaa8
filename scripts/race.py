"""Find a bonus for an environment: ``firstlight-race env=minigrid/doorkey_8x8 budget=30m``."""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.scripts.benchmarks.options import (
    Parser,
    nonempty,
    parse_options,
    positive_integer,
    seconds,
)
from firstlight.scripts.errors import FAILED, BadInputError, report_errors, suggestion

if TYPE_CHECKING:
    from firstlight.scripts.sweeps.cell_work import CellWork
    from firstlight.scripts.sweeps.race_table import Standing

USAGE = """firstlight-race trains plain PPO and six bonuses on your environment, and ranks them.

  firstlight-race env=... [budget=30m] [seeds=2] [jobs=1] [steps=N] [only=rnd,count] [dir=DIR]
                  [any other option of firstlight-train]

  budget  for everything; no further training is started after this time
  seeds   trainings of each method
  jobs    trainings at a time
  steps   environment steps of a training; the default is what fits into the budget, by the speed
          of a short trial
  only    some of {methods}
  dir     default runs/race/ENVIRONMENT

The same command continues: finished trainings are skipped, and an interrupted training continues.
A race is short and its means are noisy: train the winner with more steps and seeds.
"""

OPTIONS: dict[str, Parser] = {
    "budget": seconds,
    "seeds": positive_integer,
    "jobs": positive_integer,
    "steps": positive_integer,
    "only": nonempty,
    "dir": nonempty,
}
DEFAULTS: dict[str, Any] = {
    **{"budget": 1_800.0, "seeds": 2, "jobs": 1},
    **{"steps": None, "only": "", "dir": ""},
}
TAKEN = ("seed", "total_steps", "intrinsic", "run_dir", "resume", "stop_at")
"""Options of ``firstlight-train`` that a race sets itself."""
IN_NAME = ("env", "env._target_", "env.id", "env.task")


def read_words(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split a command line into overrides of every training, and options of the race.

    >>> read_words(["env=chain", "jobs=2", "env.length=8"])[0]
    ['env=chain', 'env.length=8']

    Raises:
        BadInputError: for an invalid value, or an option that a race sets itself.
    """
    own = [word for word in words if word.partition("=")[0] in OPTIONS]
    options = parse_options(own, "firstlight-race", OPTIONS, DEFAULTS)
    overrides = [word for word in words if word not in own]
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key in TAKEN:
            raise BadInputError(f"{word}: a race sets {key} for each training; leave it out")
        if "=" not in word and not word.startswith("~"):
            raise BadInputError(f"firstlight-race takes KEY=VALUE, not {word!r}")
    return overrides, options


def chosen_methods(only: str) -> list[str]:
    """Return the methods of a race.

    Raises:
        BadInputError: for an unknown one.
    """
    from firstlight.scripts.sweeps.race_table import METHODS

    names = only.split(",") if only else list(METHODS)
    for name in names:
        if name not in METHODS:
            raise BadInputError(f"only={only}: there is no {name!r}{suggestion(name, METHODS)}")
    return names


def check_composes(overrides: Sequence[str]) -> None:
    """Compose the config of plain PPO; raises what ``firstlight-train`` would raise."""
    from hydra import compose, initialize_config_module

    from firstlight.scripts.run_options import check_options

    with initialize_config_module("firstlight.conf", version_base="1.3"):
        check_options(compose("train", [*overrides, "intrinsic=[]"]))


def race_folder(overrides: Sequence[str]) -> Path:
    """Name the folder of a race after its environment.

    >>> race_folder(["env=gym", "env.id=CartPole-v1", "learner.lr=0.1"]).as_posix()
    'runs/race/gym-CartPole-v1'
    """
    values = [v for k, _, v in (word.partition("=") for word in overrides) if k in IN_NAME]
    return Path("runs/race") / (re.sub(r"[^\w.]+", "-", "-".join(values)).strip("-") or "race")


def race(overrides: list[str], options: dict[str, Any]) -> int:
    """Run what is missing of a race, and print its ranking.

    Args:
        overrides: of every training.
        options: of the race.

    Returns:
        The number of trainings that failed.
    """
    from firstlight.scripts.sweeps.cell_work import CellWork
    from firstlight.scripts.sweeps.race_table import race_table, standings
    from firstlight.scripts.sweeps.runner import run

    began = time.monotonic()
    methods = chosen_methods(options["only"])
    check_composes(overrides)
    folder = Path(options["dir"]) if options["dir"] else race_folder(overrides)
    steps = steps_of(folder, overrides, methods, options)
    path = written(folder / "race.yaml", race_table(overrides, methods, options["seeds"], steps))
    work = CellWork(path, folder, folder / "results.jsonl", source=str(folder / "race.yaml"))
    left = options["budget"] - (time.monotonic() - began)
    complete = run(work, options["jobs"], max(left, 0.0))
    done = work.done()
    ranked = standings(done[cell.key] for cell in work.cells.values() if cell.key in done)
    show(ranked, work, overrides, steps)
    if not complete:
        print("the budget is spent; run the command again to continue")
    return len(work.failed)


def steps_of(
    folder: Path, overrides: Sequence[str], methods: Sequence[str], options: dict[str, Any]
) -> int:
    """Return the steps of each training: given, as the race began with, or what the budget allows.

    Raises:
        BadInputError: if the folder holds a race of other options.
    """
    from firstlight.scripts.sweeps.race_table import choose_steps

    path, known = folder / "race.json", {}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["overrides"] != list(overrides):
            raise BadInputError(
                f"{folder} holds a race of {' '.join(known['overrides'])}: give another dir"
            )
    steps = options["steps"] or known.get("steps")
    if steps is None:
        speed, overhead = measured_speed(folder, overrides)
        trainings = math.ceil(len(methods) * options["seeds"] / options["jobs"])
        steps = choose_steps(options["budget"], trainings, speed, overhead)
        print(f"plain PPO makes {speed:,.0f} steps per second: {steps:,} steps each", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"overrides": list(overrides), "steps": steps}), encoding="utf-8")
    return int(steps)


def measured_speed(folder: Path, overrides: Sequence[str]) -> tuple[float, float]:
    """Train plain PPO for a moment.

    Returns:
        Environment steps per second, and the seconds of a training that do not depend on its steps.

    Raises:
        BadInputError: if that training fails.
    """
    from firstlight.scripts.sweeps.cell_work import CellWork
    from firstlight.scripts.sweeps.outcome import read_metrics
    from firstlight.scripts.sweeps.race_table import PLAIN, TRIAL_STEPS, race_table
    from firstlight.scripts.sweeps.runner import run

    trial = folder / "speed"
    path = written(trial / "race.yaml", race_table(overrides, [PLAIN], 1, TRIAL_STEPS))
    work = CellWork(path, trial, trial / "results.jsonl", source="the trial of the speed")
    run(work)
    if work.failed:
        failed = next(iter(work.cells.values()))
        error = _last_error(trial / "results.jsonl")
        raise BadInputError(f"plain PPO fails on this environment: {error} ({failed.name})")
    (line,) = work.done().values()
    speeds = [
        entry["perf/steps_per_second"]
        for entry in read_metrics(trial / next(iter(work.cells)))
        if entry.get("perf/steps_per_second")
    ]
    speed = statistics.median(speeds)
    return speed, max(float(line.get("wall_seconds", line["seconds"])) - line["steps"] / speed, 0.0)


def _last_error(results: Path) -> str:
    from firstlight.scripts.benchmarks.results import read_lines

    return str(read_lines(results)[-1]["error"])


def written(path: Path, table: dict[str, Any]) -> Any:
    """Write a table, so that ``firstlight-sweep`` can run it too, and return it as it is read."""
    from omegaconf import OmegaConf

    from firstlight.scripts.sweeps.table import read_table

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(table)), encoding="utf-8")
    return read_table(path)


def show(ranked: Sequence[Standing], work: CellWork, overrides: Sequence[str], steps: int) -> None:
    """Print the ranking, and the winner's command."""
    from rich.console import Console
    from rich.table import Table

    from firstlight.scripts.sweeps.race_table import train_command, verdict

    console = Console(width=None if sys.stdout.isatty() else 120)
    columns = ("method", "trainings", "return in evaluation", "while training", "solved", "seconds")
    table = Table(*columns)
    for one in ranked:
        solved = "" if one.success is None else f"{one.success:.0%}"
        numbers = (f"{one.evaluation:.3f}", f"{one.area:.3f}", solved, f"{one.seconds:.0f}")
        table.add_row(one.method, str(one.seeds), *numbers)
    console.print(table)
    console.print(f"{steps:,} steps each; all results: {work.results}", soft_wrap=True)
    if ranked:
        console.print(verdict(ranked), soft_wrap=True, markup=False)
        command = train_command(overrides, ranked[0].method, steps)
        console.print(f"train it for longer: {command}", soft_wrap=True, markup=False)


@report_errors
def main() -> None:
    """Run a race, or print the usage."""
    from firstlight.scripts.sweeps.race_table import METHODS

    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(USAGE.format(methods=", ".join(METHODS)), end="")
        return
    if race(*read_words(words)):
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
