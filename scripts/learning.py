"""Learning tables: cells of (task, method, seed), worked off one by one, each a committed line."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from firstlight.scripts.errors import CONF, BadInputError, nearest
from firstlight.scripts.results import append, commit, hardware, read


@dataclass(frozen=True)
class Cell:
    """One training run of a table."""

    task: str
    method: str
    seed: int
    threshold: float
    cap: int
    stop: bool
    overrides: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes it this cell and no other."""
        return self.task, self.method, self.seed, self.cap

    @property
    def name(self) -> str:
        """As a directory."""
        return f"{self.task}-{self.method}-s{self.seed}-{self.cap // 1000}k"


def tables() -> list[str]:
    """Names of all learning tables."""
    return sorted(path.stem for path in (CONF / "bench").glob("*.yaml"))


def spec(table: str) -> Any:
    """What ``conf/bench/TABLE.yaml`` says."""
    if table not in tables():
        raise BadInputError(f"there is no learning table {table!r}{nearest(table, tables())}")
    return OmegaConf.load(CONF / "bench" / f"{table}.yaml")


def cells(table: str) -> Iterator[Cell]:
    """The cells of a table, in the order in which they are run."""
    said = spec(table)
    seen = set()
    for block in said.blocks:
        for seed, task, method in itertools.product(block.seeds, block.tasks, block.methods):
            overrides = [*said.common, *said.tasks[task].overrides, *said.methods[method].overrides]
            own = said.methods[method].get("tasks", {}).get(task, [])
            cell = Cell(
                task,
                method,
                seed,
                float(said.tasks[task].threshold),
                int(block.cap),
                bool(block.get("stop", True)),
                (*overrides, *own),
            )
            if cell.key not in seen:
                seen.add(cell.key)
                yield cell


def run_cell(table: str, cell: Cell) -> dict[str, object]:
    """Train until the threshold or the cap, evaluate, and return the line."""
    run_dir = Path("runs/bench") / table / cell.name
    arguments = [
        *cell.overrides,
        f"seed={cell.seed}",
        f"total_steps={cell.cap}",
        "eval_every=null",
        *([f"stop_at={cell.threshold}"] if cell.stop else []),
    ]
    command = [sys.executable, "-P", "-m", "firstlight.scripts.train", *arguments]
    if run_dir.exists():
        shutil.rmtree(run_dir)
    began = time.perf_counter()
    done = subprocess.run([*command, f"run_dir={run_dir}"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    curve = [
        [e["step"], round(e["rollout/return_mean"], 4)] for e in lines if "rollout/return_mean" in e
    ]
    last = lines[-1]
    full = (e for e in lines if e.get("rollout/episodes", 0) >= 100)
    reached = next((e for e in full if e["rollout/return_mean"] >= cell.threshold), None)
    return {
        "task": cell.task,
        "method": cell.method,
        "seed": cell.seed,
        "cap": cell.cap,
        "threshold": cell.threshold,
        "stop": cell.stop,
        "reached_at": reached["step"] if reached else None,
        "steps": last["step"],
        "seconds": round(last["time"], 1),
        "wall_seconds": round(time.perf_counter() - began, 1),
        "eval_return": last["eval/return_mean"],
        "eval_success": last.get("eval/success_rate"),
        "curve": curve[:: max(1, len(curve) // 40)] + curve[-1:],
        "command": f"firstlight-train {' '.join(arguments)}",
        "commit": commit(),
        "hardware": hardware(),
    }


def run_table(table: str, budget: float, only: str = "") -> None:
    """Run missing cells whose names hold `only`, until none is left or the budget is spent.

    Args:
        table: name of a file in ``conf/bench``.
        budget: seconds after which no further cell is begun.
        only: part of a cell's name.
    """
    deadline = time.monotonic() + budget
    wanted = [cell for cell in cells(table) if only in cell.name]
    if not wanted:
        parts = {*spec(table).tasks, *spec(table).methods}
        raise BadInputError(f"only={only}: no cell of {table} is named so{nearest(only, parts)}")
    done = {(r["task"], r["method"], r["seed"], r["cap"]) for r in read(table)}
    for cell in wanted:
        if cell.key in done:
            continue
        if time.monotonic() > deadline:
            print("the budget is spent; run it again to go on")
            return
        line = run_cell(table, cell)
        append(table, line)
        reached = f"reached at {line['reached_at']:,}" if line["reached_at"] else "not reached"
        print(
            f"{cell.name:45s} {reached}, {line['seconds']} s, eval {line['eval_return']:.3f}",
            flush=True,
        )
    print(f"{table} {only}: all {len(wanted)} cells are there")
