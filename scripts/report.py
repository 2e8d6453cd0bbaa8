"""Draws ``docs/benchmarks.md`` and the curves from the lines in ``docs/results``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from firstlight.scripts.learning import cells, spec
from firstlight.scripts.results import RESULTS, read

PAGE = Path("docs/benchmarks.md")
HEAD = """# Benchmarks

Written by `firstlight-bench report` from the lines in `docs/results`; not edited by hand.
Every line there names its command, its commit and the hardware.
"""


def write() -> None:
    """Write the page and its pictures."""
    parts = [HEAD, throughput(read("throughput"))]
    for table in sorted(p.stem for p in RESULTS.glob("*.jsonl") if p.stem != "throughput"):
        parts.append(learning(table, read(table)))
    PAGE.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    print(f"wrote {PAGE}")


def throughput(lines: list[dict[str, Any]]) -> str:
    """The table of steps per second, of the latest measurement of each row."""
    latest = {line["row"]: line for line in lines}
    if not latest:
        return ""
    rates = {name: statistics.median(line["steps_per_second"]) for name, line in latest.items()}
    lean = [n for n in rates if n.startswith("Stable") and "Monitor" not in n]
    best = max(lean, key=rates.__getitem__)
    base = latest[best]["steps_per_second"]
    rows = []
    for name, line in latest.items():
        ratio = sorted(a / b for a, b in zip(line["steps_per_second"], base, strict=True))
        spread = f"{statistics.median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f})"
        rows.append([name, f"{rates[name]:,.0f}", spread, f"`{line['command']}`"])
    first = next(iter(latest.values()))
    return "\n".join(
        [
            "## Training throughput",
            "",
            "PPO with separate tanh networks of 64-64 on the flattened view of EnvPool's "
            "DoorKey-8x8, 64 environments × 128 steps, 4 epochs, minibatch 2048, after three "
            f"rollouts to warm up; rows alternated, medians of {len(base)} rounds; the ratio is to "
            f"*{best}*, round by round. {first['hardware']}, commit {first['commit']}. "
            "Command: `firstlight-bench throughput`. GPU: not measured.",
            "",
            *markdown(["row", "steps/s", "ratio", "timed script"], rows),
            "",
        ]
    )


def learning(table: str, lines: list[dict[str, Any]]) -> str:
    """One learning table: what was reached when, per task and method."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["task"], line["method"], line["cap"]), []).append(line)
    rows = []
    for (task, method, cap), runs in groups.items():
        hits = [run for run in runs if run["reached_at"]]
        steps = span([run["reached_at"] / 1e6 for run in hits], "{:.2f}") if hits else "not reached"
        clock = span([run["seconds"] for run in runs], "{:.0f}")
        returns = span([run["eval_return"] for run in runs], "{:.3f}")
        success = [run["eval_success"] for run in runs if run["eval_success"] is not None]
        rows.append(
            [
                task,
                method,
                f"{runs[0]['threshold']:.2f}",
                f"{len(hits)} of {len(runs)}",
                steps,
                f"{cap / 1e6:g}",
                clock,
                returns,
                span(success, "{:.0%}") if success else "",
            ]
        )
    wanted = {cell.key for cell in cells(table)}
    missing = wanted - {(r["task"], r["method"], r["seed"], r["cap"]) for r in lines}
    picture = curves(table, groups)
    head = ["task", "method", "threshold", "seeds that reached it", "M steps to it", "cap (M)"]
    head += ["seconds", "return in evaluation", "solved in evaluation"]
    lacks = f"Missing cells: {len(missing)}." if missing else "No cell is missing."
    hard = sorted({line["hardware"] for line in lines})
    note = spec(table).get("note", "")
    return "\n".join(
        [
            f"## Learning: {table}",
            "",
            f"Median (range) over seeds. `firstlight-bench learning {table}`; each cell's own "
            f"command is in `docs/results/{table}.jsonl`. Training stops once the mean return of "
            "the last 100 training episodes reaches the threshold; then the frozen policy is "
            f"evaluated on unseen levels with sampled actions (100, MultiRoom 500). {lacks} "
            f"{', '.join(hard)}. {note}",
            "",
            *markdown(head, rows),
            "",
            f"![learning curves]({picture})",
            "",
            *published(table),
        ]
    )


def published(table: str) -> list[str]:
    """What others report on these tasks, with the source."""
    lines = [f"- {note}" for note in spec(table).get("published", [])]
    return ["Published, for comparison:", "", *lines, ""] if lines else []


def span(values: list[float], form: str) -> str:
    """Median and range, or the value if there is but one."""
    if len(values) == 1:
        return form.format(values[0])
    low, high = min(values), max(values)
    return f"{form.format(statistics.median(values))} ({form.format(low)} to {form.format(high)})"


def markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A table's lines."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def curves(table: str, groups: dict[tuple[str, str, int], list[dict[str, Any]]]) -> str:
    """Draw return against steps, a panel for each task. Returns the path beside the page."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(task for task, _, _ in groups))
    colours = {m: f"C{i}" for i, m in enumerate(dict.fromkeys(m for _, m, _ in groups))}
    figure, axes = plt.subplots(1, len(tasks), figsize=(3.4 * len(tasks), 2.8), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for (name, method, _), runs in groups.items():
            for i, run in enumerate(runs if name == task else []):
                steps, returns = zip(*run["curve"], strict=True)
                label = method if i == 0 else None
                millions = [step / 1e6 for step in steps]
                axis.plot(millions, returns, color=colours[method], label=label, lw=1.2, alpha=0.8)
        axis.axhline(
            next(r[0]["threshold"] for k, r in groups.items() if k[0] == task), ls=":", c="gray"
        )
        axis.set(title=task, xlabel="million environment steps", ylim=(-0.02, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("mean return, training")
    handles = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    chosen = [method for method in colours if method in handles]
    axes[0][-1].legend([handles[m] for m in chosen], chosen, frameon=False, fontsize=8)
    figure.tight_layout()
    path = RESULTS / f"{table}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return f"results/{path.name}"
