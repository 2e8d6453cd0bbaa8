"""Line charts and stacked shares as SVG, drawn without any package."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 250
"""Size and margins of a chart, in units of its view box."""
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 30
COLOURS = 8
"""Number of CSS classes c0, c1, ... for lines and areas."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Args:
        label: of the line.
        points: x and y, ascending in x.
        band: x, lowest and highest y around the line; empty for none.
    """

    label: str
    points: Points
    band: Sequence[tuple[float, float, float]] = ()


def line_chart(title: str, series: Sequence[Series]) -> str:
    """Draw lines over environment steps, each with its band, and their last values."""
    points = [point for one in series for point in one.points]
    edges = [y for one in series for _, *ys in one.band for y in ys]
    scale = _Scale([x for x, _ in points], [*(y for _, y in points), *edges, *_anchor(title)])
    drawn = [scale.axes()]
    for i, one in enumerate(series):
        colour = f"c{i % COLOURS}"
        if one.band:
            upper = [(x, high) for x, _, high in one.band]
            lower = [(x, low) for x, low, _ in reversed(one.band)]
            drawn.append(f'<polygon class="band {colour}" points="{scale.path(upper + lower)}"/>')
        if len(one.points) == 1:
            x, y = scale.place(*one.points[0])
            drawn.append(f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        drawn.append(f'<polyline class="line {colour}" points="{scale.path(one.points)}"/>')
    legend = [(one.label, f"{number(one.points[-1][1])}") for one in series]
    return _figure(title, drawn, legend)


def share_chart(title: str, series: Sequence[Series]) -> str:
    """Draw areas above each other; all have the same x, and their values add up to at most 1."""
    steps = [x for x, _ in series[0].points]
    scale = _Scale(steps, [0.0, 1.0])
    drawn, below = [], [0.0] * len(steps)
    for i, one in enumerate(series):
        above = [low + y for low, (_, y) in zip(below, one.points, strict=True)]
        ring = list(zip(steps, above, strict=True)) + list(zip(steps, below, strict=True))[::-1]
        drawn.append(f'<polygon class="area c{i % COLOURS}" points="{scale.path(ring)}"/>')
        below = above
    legend = [(one.label, f"{one.points[-1][1]:.0%}") for one in series]
    return _figure(title, [*drawn, scale.axes(percent=True)], legend)


def thinned(points: Points, most: int = 300) -> list[tuple[float, float]]:
    """Reduce a curve to at most about `most` points by means of neighbours; both ends stay.

    >>> thinned([(0, 0.0), (1, 1.0), (2, 3.0), (3, 9.0)], 3)
    [(0.0, 0.0), (1.5, 2.0), (3.0, 9.0)]
    """
    size = math.ceil(max(len(points) - 2, 0) / max(most - 2, 1))
    if size <= 1:
        return [(float(x), float(y)) for x, y in points]
    inner = points[1:-1]
    parts = [inner[i : i + size] for i in range(0, len(inner), size)]
    means = [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]
    ends = [(float(x), float(y)) for x, y in (points[0], points[-1])]
    return [ends[0], *means, ends[1]]


def number(value: float) -> str:
    """Format a number in few characters.

    >>> number(0.97251), number(1_250_000), number(-3.0), number(0.0)
    ('0.973', '1.25M', '-3', '0')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.3g}"


def _anchor(title: str) -> list[float]:
    """Values that the axis of a metric always shows: 0 and 1 for a rate."""
    return [0.0, 1.0] if title.endswith(("_rate", "coverage")) else []


class _Scale:
    """Places data in the view box.

    Args:
        xs: all x.
        ys: all y that are shown.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float]):
        self.x0, self.x1 = _range(xs)
        self.y0, self.y1 = _range(ys)
        self.y_ticks = _ticks(self.y0, self.y1, 4)
        self.y0, self.y1 = min(self.y0, self.y_ticks[0]), max(self.y1, self.y_ticks[-1])

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return column and row of a point."""
        across = LEFT + (x - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (self.y1 - y) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Points) -> str:
        """Write points for an SVG attribute."""
        return " ".join("{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in points)

    def axes(self, *, percent: bool = False) -> str:
        """Draw grid lines with their values, and steps below."""
        parts, right = [], WIDTH - RIGHT
        for y in self.y_ticks:
            _, row = self.place(self.x0, y)
            text = f"{y:.0%}" if percent else _label(y, self.y_ticks[1] - self.y_ticks[0])
            ends = f'x1="{LEFT}" x2="{right}" y1="{row:.1f}" y2="{row:.1f}"'
            parts.append(f'<line class="grid" {ends}/>')
            parts.append(_tick(LEFT - 7, row + 4, "end", text))
        for x in _ticks(self.x0, self.x1, 5):
            if self.x0 <= x <= self.x1:
                column, _ = self.place(x, self.y0)
                parts.append(_tick(column, HEIGHT - 10, "middle", number(x)))
        return "".join(parts)


def _label(value: float, step: float) -> str:
    """Format a tick with as many digits as tell it from its neighbours.

    >>> _label(635.5, 0.5), _label(0.25, 0.25), _label(20_000.0, 20_000.0)
    ('635.5', '0.25', '20k')
    """
    if abs(value) >= 1e4:
        return number(value)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 6) % 1 != 0  # 0.25 has two
    return f"{value:.{digits}f}" if digits < 6 else number(value)


def _tick(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return lowest and highest value, apart from each other by more than rounding.

    >>> _range([0.5, 0.5000000000000001])
    (0.0, 1.0)
    """
    low, high = min(values), max(values)
    apart = high - low > 1e-9 * max(abs(low), abs(high))
    margin = 0.0 if apart else max(abs(low) * 0.1, 0.5)
    return low - margin, high + margin


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Choose about `count` round numbers from at most `low` to at least `high`.

    >>> _ticks(0.03, 0.97, 4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 3 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, last + 1)]


def _figure(title: str, drawn: Sequence[str], legend: Sequence[tuple[str, str]]) -> str:
    """Wrap a drawing with its title and legend."""
    entries = "".join(
        f'<li><span class="key c{i % COLOURS}"></span>{html.escape(label)} '
        f"<b>{html.escape(value)}</b></li>"
        for i, (label, value) in enumerate(legend)
    )
    name = html.escape(title)
    return (
        f'<figure class="chart"><figcaption>{name}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">{"".join(drawn)}</svg>'
        f'<ul class="legend">{entries}</ul></figure>'
    )
