"""Draw the curves of the learning tables."""

from __future__ import annotations

from typing import Any

from firstlight.scripts.benchmarks.results import RESULTS

Groups = dict[tuple[str, str, int], list[dict[str, Any]]]
"""Task, method and cap to the result lines of their seeds."""


def draw_learning_curves(table: str, groups: Groups) -> str:
    """Draw return against steps, a panel for each task. Returns the path beside the document."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for task, _, _ in groups))
    colours = {m: f"C{i}" for i, m in enumerate(dict.fromkeys(m for _, m, _ in groups))}
    figure = Figure(figsize=(3.4 * len(tasks), 2.8))
    axes = figure.subplots(1, len(tasks), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for (name, method, _), runs in groups.items():
            for i, run in enumerate(runs if name == task else []):
                steps, returns = zip(*run["curve"], strict=True)
                label = method if i == 0 else None
                millions = [step / 1e6 for step in steps]
                axis.plot(millions, returns, color=colours[method], label=label, lw=1.2, alpha=0.8)
        threshold = next(runs[0]["threshold"] for key, runs in groups.items() if key[0] == task)
        if threshold is not None:
            axis.axhline(threshold, ls=":", c="gray")
            axis.set_ylim(-0.02, 1)
        axis.set(title=task, xlabel="million environment steps")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("mean return, training")
    handles = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    chosen = [method for method in colours if method in handles]
    axes[0][-1].legend([handles[m] for m in chosen], chosen, frameon=False, fontsize=8)
    figure.tight_layout()
    path = RESULTS / f"{table}.png"
    figure.savefig(path, dpi=130)
    return f"results/{path.name}"


def runs_by_method(groups: Groups, task: str) -> dict[str, list[dict[str, Any]]]:
    """Result lines of a task by method; of two caps, those of the later one."""
    return {method: runs for (name, method, _), runs in groups.items() if name == task}


def draw_value_curves(table: str, groups: Groups, columns: int = 4) -> str:
    """Draw the value F of episodes against steps, a panel for each task.

    Curves are from training, dots from the frozen policies; for walks, the dashed line is the
    greedy walk, the dotted one the best walk or, where that is not known, its bound.

    Args:
        table: name of the picture.
        groups: result lines.
        columns: panels in a row, at most.

    Returns:
        The path beside the document.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    tasks = list(dict.fromkeys(task for task, _, _ in groups))
    colours = {m: f"C{i}" for i, m in enumerate(dict.fromkeys(m for _, m, _ in groups))}
    columns = max(min(columns, len(tasks)), 2)  # the names of the methods need some room
    rows = -(-len(tasks) // columns)
    size = (2.7 * columns, 2.3 * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(tasks) :]:
        axis.set_axis_off()
    for axis, task in zip(axes.flat, tasks, strict=False):
        mine = runs_by_method(groups, task)
        end = max(run["steps"] for runs in mine.values() for run in runs) / 1e6
        for i, (method, runs) in enumerate(mine.items()):
            for run in runs:
                if run["curve"]:
                    steps, values = zip(*run["curve"], strict=True)
                    axis.plot([s / 1e6 for s in steps], values, c=colours[method], lw=1, alpha=0.7)
            at = [end * (1.05 + 0.05 * i)] * len(runs)
            axis.scatter(at, [r["value"] for r in runs], s=9, color=colours[method])
        one = next(iter(mine.values()))[0]
        known = {"--": one.get("greedy_walk"), ":": one.get("optimum", one.get("bound"))}
        for style, value in known.items():
            if value is not None:
                axis.axhline(value, ls=style, c="gray", lw=1)
        axis.set_title(task, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("million environment steps", fontsize=9)
    figure.supylabel("F minus that of the start", fontsize=9)
    keys = [Line2D([], [], color=colour, label=m) for m, colour in colours.items()]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False)
    path = RESULTS / f"{table}.png"
    figure.savefig(path, dpi=130)
    return f"results/{path.name}"
