"""Draw the curves of the learning tables: median and range over seeds, a panel for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.scripts.benchmarks.results import RESULTS
from firstlight.scripts.report.seed_statistics import curve_band

Groups = dict[tuple[str, str, int], list[dict[str, Any]]]
"""Task, method and cap to the result lines of their seeds."""

COLUMNS = 4
"""Most panels in a row: more cannot be read at the width of a README."""

_DPI = 130
_GREY = "0.35"


def draw_learning_curves(
    table: str, groups: Groups, published: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> str:
    """Draw return against steps.

    Args:
        table: name of the picture.
        groups: result lines.
        published: task to results of others: ``name``, and ``value``, a return, drawn as a
            horizontal line, or ``steps`` to a result, drawn as a vertical one.

    Returns:
        The path beside the document.
    """
    figure, panels = _make_panels(groups)
    colours = _colours(groups)
    shown = set()
    for task, axis in panels.items():
        for method, runs in _most_seeds(groups, task).items():
            _draw_band(axis, runs, colours[method])
        end = axis.get_xlim()[1]
        threshold = next(runs[0]["threshold"] for key, runs in groups.items() if key[0] == task)
        if threshold is not None:
            axis.axhline(threshold, ls=":", c="gray", lw=1)
            shown.add("threshold")
            if 0 < threshold < 1:  # returns of the grid worlds
                axis.set_ylim(-0.02, 1)
        for result in (published or {}).get(task, []):
            if _draw_published(axis, result, end):
                shown.add("published")
        axis.set_xlim(right=end)
    figure.supylabel("mean return, training", fontsize=9)
    return _finish(figure, table, colours, shown)


def runs_by_method(groups: Groups, task: str) -> dict[str, list[dict[str, Any]]]:
    """Result lines of a task by method; of two caps, those of the later one."""
    return {method: runs for (name, method, _), runs in groups.items() if name == task}


def _most_seeds(groups: Groups, task: str) -> dict[str, list[dict[str, Any]]]:
    """Result lines of a task by method: of the cap with most seeds, and of several the largest."""
    found: dict[str, tuple[int, int, list[dict[str, Any]]]] = {}
    for (name, method, cap), runs in groups.items():
        size = (len(runs), cap)
        if name == task and (method not in found or size > found[method][:2]):
            found[method] = (*size, runs)
    return {method: runs for method, (_, _, runs) in found.items()}


def draw_value_curves(table: str, groups: Groups) -> str:
    """Draw the value F of episodes against steps.

    Curves are from training, dots from the frozen policies; for walks, the dashed line is the
    greedy walk, the dotted one the best walk or, where that is not known, its bound.

    Args:
        table: name of the picture.
        groups: result lines.

    Returns:
        The path beside the document.
    """
    figure, panels = _make_panels(groups)
    colours = _colours(groups)
    for task, axis in panels.items():
        mine = runs_by_method(groups, task)
        end = max(run["steps"] for runs in mine.values() for run in runs) / 1e6
        for i, (method, runs) in enumerate(mine.items()):
            _draw_band(axis, runs, colours[method])
            at = [end * (1.05 + 0.05 * i)] * len(runs)
            axis.scatter(at, [r["value"] for r in runs], s=9, color=colours[method])
        one = next(iter(mine.values()))[0]
        known = {"--": one.get("greedy_walk"), ":": one.get("optimum", one.get("bound"))}
        for style, value in known.items():
            if value is not None:
                axis.axhline(value, ls=style, c="gray", lw=1)
        axis.set_ylim(bottom=0)
    figure.supylabel("F minus that of the start", fontsize=9)
    return _finish(figure, table, colours, set())


def _colours(groups: Groups) -> dict[str, str]:
    """A colour for each method."""
    return {m: f"C{i}" for i, m in enumerate(dict.fromkeys(m for _, m, _ in groups))}


def _make_panels(groups: Groups) -> tuple[Any, dict[str, Any]]:
    """Make a figure with a panel for each task, at most `COLUMNS` in a row."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for task, _, _ in groups))
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    width = max(2.7 * columns, 4.6)  # the names of the methods need some room
    figure = Figure(figsize=(width, 2.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(tasks) :]:
        axis.set_axis_off()
    panels = dict(zip(tasks, axes.flat, strict=False))
    for task, axis in panels.items():
        axis.set_title(task, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _draw_band(axis: Any, runs: Sequence[Mapping[str, Any]], colour: str) -> None:
    """Draw the median of the seeds' curves, and their range as a band."""
    curves = [run["curve"] for run in runs if run["curve"]]
    if not curves:
        return
    steps, median, low, high = curve_band(curves)
    axis.plot(steps / 1e6, median, color=colour, lw=1.4)
    axis.fill_between(steps / 1e6, low, high, color=colour, alpha=0.2, lw=0)


def _draw_published(axis: Any, result: Mapping[str, Any], end: float) -> bool:
    """Draw a result of others; return whether it lies within the panel."""
    note = {"fontsize": 7, "color": _GREY, "ha": "right", "va": "top"}
    beside = {"textcoords": "offset points", "xytext": (-2, -2)}
    if "steps" in result:
        at = float(result["steps"]) / 1e6
        if at > end:
            return False
        axis.axvline(at, ls="--", c=_GREY, lw=1)
        where = {"xycoords": axis.get_xaxis_transform(), "rotation": 90}
        axis.annotate(result["name"], (at, 1.0), **where, **beside, **note)
        return True
    value = float(result["value"])
    axis.axhline(value, ls="--", c=_GREY, lw=1)
    where = {"xycoords": axis.get_yaxis_transform()}
    axis.annotate(result["name"], (1.0, value), **where, **beside, **note)
    return True


def _finish(figure: Any, table: str, colours: Mapping[str, str], shown: set[str]) -> str:
    """Add one legend for all panels, and save. Returns the path beside the document."""
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour, label=m) for m, colour in colours.items()]
    styles = {"threshold": ("gray", ":"), "published": (_GREY, "--")}
    keys += [
        Line2D([], [], color=styles[name][0], ls=styles[name][1], label=name)
        for name in styles
        if name in shown
    ]
    width = int(figure.get_size_inches()[0] / 1.35)  # inches for a name
    figure.legend(
        handles=keys,
        loc="outside upper center",
        ncols=min(len(keys), width),
        frameon=False,
        fontsize=9,
    )
    figure.supxlabel("million environment steps", fontsize=9)
    path = RESULTS / f"{table}.png"
    figure.savefig(path, dpi=_DPI)
    return f"results/{path.name}"
