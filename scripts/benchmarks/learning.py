"""Learning tables: cells of (task, method, seed), each a training run and a committed line.

A table may name a `measure`, the import path of a function that is called with a cell's run
directory and returns entries to add to the line. Then a block may have `trials`, overrides that
each make a cell; a block with ``best: true`` takes the trial whose `value` was highest.
"""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from firstlight.scripts.benchmarks.results import append, commit, hardware, read
from firstlight.scripts.build import locate
from firstlight.scripts.errors import CONF, BadInputError, suggestion

TRAIN = (sys.executable, "-P", "-m", "firstlight.scripts.train")
"""``firstlight-train`` as a command of this Python."""

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
        return tuple(getattr(self, name) for name in KEY)

    @property
    def name(self) -> str:
        """Name of its run directory."""
        key, _, value = self.trial.partition("=")
        tried = f"-{key.rpartition('.')[2]}{value}" if self.trial else ""
        return f"{self.task}-{self.method}{tried}-s{self.seed}-{self.cap // 1000}k"


def key_of(line: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The `KEY` of the cell that a result line belongs to."""
    return tuple(line.get(name, "") for name in KEY)


def table_names() -> list[str]:
    """Names of all learning tables."""
    return sorted(path.stem for path in (CONF / "bench").glob("*.yaml"))


def spec(table: str) -> Any:
    """Load ``conf/bench/TABLE.yaml``."""
    if table not in table_names():
        raise BadInputError(
            f"there is no learning table {table!r}{suggestion(table, table_names())}"
        )
    return OmegaConf.load(CONF / "bench" / f"{table}.yaml")


def cells(table: str) -> Iterator[Cell]:
    """Yield the cells of a table in the order in which they are run."""
    table_spec = spec(table)
    seen = set()
    for block in table_spec.blocks:
        axes = block.seeds, block.tasks, block.methods, block.get("trials", [""])
        for seed, task, method, trial in itertools.product(*axes):
            overrides = [
                *table_spec.get("common", []),
                *table_spec.tasks[task].overrides,
                *table_spec.methods[method].overrides,
            ]
            own = table_spec.methods[method].get("tasks", {}).get(task, [])
            threshold = table_spec.tasks[task].get("threshold")
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


def best_trial(table: str, cell: Cell) -> str:
    """Find the trial with the highest value for a cell's task, method and cap.

    Raises:
        BadInputError: while some of the trials have not been run.
    """

    def like(task: str, method: str, cap: int) -> bool:
        return (task, method, cap) == (cell.task, cell.method, cell.cap)

    wanted = {c.key for c in cells(table) if c.trial and like(c.task, c.method, c.cap)}
    tried = [line for line in read(table) if key_of(line) in wanted]
    if not wanted or len(tried) < len(wanted):
        raise BadInputError(
            f"{cell.name} needs {len(wanted)} trials, of which {len(tried)} have been run"
        )
    return str(max(tried, key=lambda line: line["value"])["trial"])


def run_cell(table: str, cell: Cell) -> dict[str, object]:
    """Train until the threshold or the cap, evaluate, measure, and return the result line."""
    run_dir = Path("runs/bench") / table / cell.name
    chosen = best_trial(table, cell) if cell.best else cell.trial
    arguments = [
        *cell.overrides,
        *([chosen] if chosen else []),
        f"seed={cell.seed}",
        f"total_steps={cell.cap}",
        "eval_every=null",
        *([f"stop_at={cell.threshold}"] if cell.stop else []),
    ]
    if run_dir.exists():
        shutil.rmtree(run_dir)
    began = time.perf_counter()
    run_training([*arguments, f"run_dir={run_dir}"])
    wall = round(time.perf_counter() - began, 1)
    measure = spec(table).get("measure")
    return {
        "task": cell.task,
        "method": cell.method,
        "seed": cell.seed,
        "cap": cell.cap,
        **({"trial": cell.trial} if cell.trial else {}),
        **({"best": chosen} if cell.best else {}),
        **outcome(run_dir, cell),
        "wall_seconds": wall,
        **(locate(measure)(run_dir) if measure else {}),
        "command": shlex.join(["firstlight-train", *arguments]),
        "commit": commit(),
        "hardware": hardware(),
    }


def run_training(arguments: Sequence[str]) -> None:
    """Run ``firstlight-train`` in a process of its own.

    Raises:
        RuntimeError: if it fails, with the end of its output.
    """
    command = [*TRAIN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        output = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise RuntimeError(f"{shlex.join(command)} failed:\n{output}")


def outcome(run_dir: Path, cell: Cell) -> dict[str, object]:
    """Entries of a result line that follow from the run's metrics."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    counted = "rollout/episodes_counted"
    full = (e for e in lines if e.get(counted, 0) >= 100 and cell.threshold is not None)
    reached = next((e for e in full if e["rollout/return_mean"] >= cell.threshold), None)
    return {
        "threshold": cell.threshold,
        "stop": cell.stop,
        "reached_at": reached["step"] if reached else None,
        "steps": last["step"],
        "seconds": round(last["time"], 1),
        "eval_return": last["eval/return_mean"],
        "eval_success": last.get("eval/success_rate"),
        "eval_reported": reported_statistics(last),
        "curve": curve_of(lines, "rollout/return_mean"),
    }


def reported_statistics(last: Mapping[str, Any]) -> dict[str, float]:
    """Statistics that environments reported of evaluated episodes, such as depth."""
    ends = {"return", "length"}
    tags = ((tag.removeprefix("eval/").removesuffix("_mean"), tag) for tag in last)
    return {
        name: round(last[tag], 3)
        for name, tag in tags
        if tag == f"eval/{name}_mean" and name not in ends
    }


def curve_of(
    lines: Iterable[Mapping[str, Any]], tag: str, factor: float = 1.0
) -> list[list[float]]:
    """Steps and values of a metric, thinned to about 40 points.

    Args:
        lines: of ``metrics.jsonl``.
        tag: of the metric.
        factor: its values are multiplied by.
    """
    curve = [[e["step"], round(factor * e[tag], 4)] for e in lines if tag in e]
    return curve[:: max(1, len(curve) // 40)] + curve[-1:]


def run_table(table: str, budget: float, only: str = "") -> None:
    """Run the missing cells whose names contain `only`, until the budget is spent.

    Args:
        table: name of a file in ``conf/bench``.
        budget: seconds after which no further cell is started.
        only: part of a cell's name.
    """
    deadline = time.monotonic() + budget
    wanted = [cell for cell in cells(table) if only in cell.name]
    if not wanted:
        parts = {*spec(table).tasks, *spec(table).methods}
        raise BadInputError(f"only={only}: no cell of {table} contains it{suggestion(only, parts)}")
    done = {key_of(line): line for line in read(table)}
    for cell in wanted:
        if cell.key in done:
            if cell.best and done[cell.key]["best"] != best_trial(table, cell):
                raise BadInputError(
                    f"{cell.name} was run with {done[cell.key]['best']}, but another trial is now "
                    f"the best: remove its line from docs/results/{table}.jsonl"
                )
            continue
        if time.monotonic() > deadline:
            print("the budget is spent; run the command again to continue")
            return
        line = run_cell(table, cell)
        append(table, line)
        reached = f"reached at {line['reached_at']:,}" if line["reached_at"] else "not reached"
        result = f"{reached}, eval {line['eval_return']:.3f}"
        result = f"value {line['value']:.3f}" if "value" in line else result
        print(f"{cell.name:45s} {result}, {line['seconds']} s", flush=True)
    print(f"{table} {only}: all {len(wanted)} cells are measured")
