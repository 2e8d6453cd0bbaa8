"""One HTML page of a run, or of several: curves, shares, maps, an episode, options, commands.

Everything is inside the file, which opens without a server and loads nothing.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import numpy as np

from firstlight.scripts.report.run_data import Group, RunData, differing
from firstlight.scripts.report.seed_statistics import (
    bootstrap_interval,
    curve_band,
    interquartile_mean,
)
from firstlight.scripts.report.svg_chart import Series, line_chart, number, share_chart, thinned

TEMPLATE = Path(__file__).with_name("run_page.html")
MAIN = (
    *("rollout/return_mean", "eval/return_mean", "rollout/success_rate", "eval/success_rate"),
    *("search/coverage", "search/uniformity", "rollout/length_mean"),
)
"""Metrics with a chart at the top, as far as a run has them."""
LEARNING = ("train/entropy", "train/approx_kl", "perf/steps_per_second")
"""Metrics with a chart below; the explained variance of each stream is added."""
MAPS = 3  # pictures of a source: of the first, a middle and the last step
MEDIA = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}


def run_page(groups: Sequence[Group]) -> str:
    """Write the page of runs.

    Args:
        groups: at least one; each is a line of the charts, with a band over its seeds.
    """
    runs = [run for group in groups for run in group.runs]
    names = [group.label for group in groups]
    title = names[0] if len(names) == 1 else f"{len(names)} methods: {', '.join(names)}"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        _overview(groups),
        _curves("Curves", groups, MAIN),
        _shares(groups),
        _maps(groups),
        _episodes(groups),
        _curves("Learning", groups, _learning_tags(runs)),
        _commands(runs),
        _options(groups),
        _all_metrics(runs),
    ]
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=html.escape(f"{title} - firstlight"), body="\n".join(body))


def group_series(group: Group, tag: str) -> Series | None:
    """Return a group's curve of a metric, median and range over its seeds; None without one."""
    curves = [curve for run in group.runs if (curve := run.curve(tag))]
    if not curves:
        return None
    if len(curves) == 1:
        return Series(group.label, thinned(curves[0]))
    steps, middle, low, high = (part.tolist() for part in curve_band(curves))
    name = f"{group.label} ({len(curves)} runs)"
    return Series(
        name, list(zip(steps, middle, strict=True)), list(zip(steps, low, high, strict=True))
    )


def share_series(run: RunData) -> list[Series]:
    """Return the share of each source of a run, at the steps at which all were logged."""
    sources = run.sources()
    curves = [dict(run.curve(f"reward/{name}/share")) for name in sources]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not steps:
        return []
    return [
        Series(name, thinned([(step, curve[step]) for step in steps]))
        for name, curve in zip(sources, curves, strict=True)
    ]


def _overview(groups: Sequence[Group]) -> str:
    """Write a row for each run, and one for each group of several: what came out."""
    rows = []
    for group in groups:
        for run in group.runs:
            seconds = float(run.lines[-1]["time"])
            state = str(run.status.get("status", "unknown"))
            if run.status.get("error"):
                state += f": {run.status['error']}"
            cells = [run.path.name, state, f"{run.lines[-1]['step']:,}", _duration(seconds)]
            for tag in ("rollout/return_mean", "eval/return_mean", "eval/success_rate"):
                cells.append(_shown(run.last(tag), percent=tag.endswith("_rate")))
            best = max((value for _, value in run.curve("eval/return_mean")), default=None)
            rows.append([*cells, _shown(best)])
        if len(group.runs) > 1:
            rows.append([f"{group.label}: interquartile mean", "", "", "", *_statistics(group), ""])
    head = (
        *("run", "status", "steps", "time", "return in training"),
        *("in evaluation", "success", "best evaluation"),
    )
    table = _table(head, rows)
    return (
        f'<p>Values are those of the last line that has them.</p><div class="scroll">{table}</div>'
    )


def _statistics(group: Group) -> list[str]:
    """Interquartile means over the seeds of a group, with 95 % intervals."""
    cells = []
    for tag in ("rollout/return_mean", "eval/return_mean", "eval/success_rate"):
        values = np.array([v for run in group.runs if (v := run.last(tag)) is not None])
        if len(values) < 2:
            cells.append("")
            continue
        low, high = bootstrap_interval(values)
        percent = tag.endswith("_rate")
        ends = f"{_shown(low, percent=percent)} to {_shown(high, percent=percent)}"
        cells.append(f"{_shown(interquartile_mean(values), percent=percent)} ({ends})")
    return cells


def _curves(title: str, groups: Sequence[Group], tags: Iterable[str]) -> str:
    charts = []
    for tag in tags:
        series = [one for group in groups if (one := group_series(group, tag)) is not None]
        if series:
            charts.append(line_chart(tag, series))
    if not charts:
        return ""
    several = any(len(group.runs) > 1 for group in groups)
    note = "Over environment steps."
    note += " Lines are medians over the runs of a method, bands their range." if several else ""
    return f'<h2>{title}</h2><p>{note}</p><div class="charts">{"".join(charts)}</div>'


def _shares(groups: Sequence[Group]) -> str:
    """Draw what each source contributes, of the first run of each group."""
    charts = []
    for group in groups:
        run = group.runs[0]
        if series := share_series(run):
            charts.append(share_chart(run.path.name, series))
    if not charts:
        return ""
    note = "Of all absolute weighted rewards of an iteration (reward/SOURCE/share)."
    return f'<h2>Share of each reward</h2><p>{note}</p><div class="charts">{"".join(charts)}</div>'


def _maps(groups: Sequence[Group]) -> str:
    """Show where each source gave rewards: heat maps of the first, a middle and the last step."""
    parts = []
    for group in groups:
        run = group.runs[0]
        if run.pictures:
            parts.append(f"<h3>{html.escape(run.path.name)}</h3>")
        for name, by_step in run.pictures.items():
            steps = list(by_step)
            chosen = {steps[round(i * (len(steps) - 1) / (MAPS - 1))] for i in range(MAPS)}
            figures = [_media(by_step[step], f"{name}, step {step:,}") for step in sorted(chosen)]
            parts.append(f'<div class="pictures">{"".join(figures)}</div>')
    if not parts:
        return ""
    note = "Mean raw reward by position, of runs with heat_maps=true."
    return f"<h2>Where each reward occurred</h2><p>{note}</p>{''.join(parts)}"


def _episodes(groups: Sequence[Group]) -> str:
    videos = [
        _media(run.episode, f"{run.path.name}: {run.episode.name}")
        for group in groups
        if (run := next((one for one in group.runs if one.episode), None)) and run.episode
    ]
    if not videos:
        return ""
    note = (
        "With the reward of each source below the picture, where it was recorded with rewards=true."
    )
    return f'<h2>An episode</h2><p>{note}</p><div class="pictures">{"".join(videos)}</div>'


def _learning_tags(runs: Sequence[RunData]) -> list[str]:
    logged = {tag for run in runs for tag in run.tags}
    explained = sorted(tag for tag in logged if tag.endswith("/explained_variance"))
    return [*explained, *(tag for tag in LEARNING if tag in logged)]


def _commands(runs: Sequence[RunData]) -> str:
    parts = []
    for run in runs:
        unknown = "not recorded: a run from Python, or of an older version"
        parts.append(f"<pre>{html.escape(run.command or f'{run.path.name}: {unknown}')}</pre>")
    return f"<h2>Commands</h2>{''.join(parts)}"


def _options(groups: Sequence[Group]) -> str:
    """Show in what the groups differ, and the config of the first run of each."""
    parts = []
    if len(groups) > 1 and (rows := differing(groups)):
        head = ("option", *(group.label for group in groups))
        table = _table(head, [[key, *values] for key, values in rows.items()], words=True)
        parts.append(f'<p>What differs, beside the seed:</p><div class="scroll">{table}</div>')
    for group in groups:
        run = group.runs[0]
        if run.config_text:
            name = html.escape(f"{run.path.name}/config.yaml")
            text = html.escape(run.config_text)
            parts.append(f"<details><summary>{name}</summary><pre>{text}</pre></details>")
    return f"<h2>Configuration</h2>{''.join(parts)}" if parts else ""


def _all_metrics(runs: Sequence[RunData]) -> str:
    """List the last value of each metric."""
    tags = sorted({tag for run in runs for tag in run.tags})
    rows = [[tag, *(_shown(run.last(tag)) for run in runs)] for tag in tags]
    table = _table(("metric", *(run.path.name for run in runs)), rows)
    return (
        f"<h2>All metrics</h2><details><summary>{len(tags)} metrics, last values</summary>"
        f'<div class="scroll">{table}</div></details>'
    )


def _media(path: Path, caption: str) -> str:
    """Put a picture or a video into the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    source, name = f"data:{MEDIA[path.suffix]};base64,{data}", html.escape(caption)
    if path.suffix == ".mp4":
        shown = f'<video src="{source}" controls loop muted playsinline></video>'
    else:
        shown = f'<img src="{source}" alt="{name}">'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(c)}</{kind}>" for c in cells) + "</tr>"

    kind = ' class="words"' if words else ""
    return f"<table{kind}>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _shown(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if percent else number(value)


def _duration(seconds: float) -> str:
    """Format a time.

    >>> _duration(45.4), _duration(600), _duration(5_400)
    ('45 s', '10.0 min', '1.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3_600 else f"{seconds / 3_600:.1f} h"
