"""Heat maps of rewards by position, drawn with numpy and Pillow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from firstlight.agents.session.iteration_data import IterationData
from firstlight.envs.positions import position_channel
from firstlight.envs.types import Rollout
from firstlight.envs.vec import VecEnv

VISITS = "visits"

_COLOURS = np.array(  # from the lowest value to the highest, even in lightness
    [(38, 22, 82), (46, 78, 140), (36, 134, 140), (88, 186, 96), (250, 226, 70)], np.float64
)
_UNVISITED = (228, 228, 228)
_SIDE = 256  # approximate pixels of the longer side of a map
_MIN_WIDTH = 220  # pixels, so that the text fits
_LINE = 16  # pixels of a line of text


class HeatMaps:
    """Callback that draws the mean of each reward source by position, and the number of visits.

    A reward is counted at the position its step led to. Means are of raw values, over all
    environments and all rollouts since the previous pictures; visits are coloured on a logarithmic
    scale. The first pictures are drawn after the first rollout that has rewards, further ones at
    wall clock intervals, because drawing takes training time, and the last ones at the end.

    In a run directory they are written as ``pictures/step_N_SOURCE.png`` and to TensorBoard.

    Args:
        vec: the training environments.
        channel: name of an info channel with the position, a number or two (column and row);
            default the first of `POSITION_CHANNELS` that exists.
        cell: width of a cell of the map in units of the position.
        every_seconds: wall clock time between pictures.

    Attributes:
        maps: the latest maps by source: [H, W] float64, NaN where no agent has been.
        origin: position (column, row) of the first cell of each map.

    Raises:
        ValueError: if there is no such channel, or its shape is not that of a position.
    """

    def __init__(
        self,
        vec: VecEnv,
        *,
        channel: str | None = None,
        cell: float = 1.0,
        every_seconds: float = 60.0,
    ):
        self.channel = position_channel(vec.info_space, channel)
        self.cell, self.every_seconds = cell, every_seconds
        self.maps: dict[str, np.ndarray] = {}
        self.origin: dict[str, tuple[int, int]] = {}
        self._sums: dict[str, _Sums] = {}
        self._due = -float("inf")

    def __call__(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Count the current rollout, and draw if pictures are due."""
        if run.data is not None:
            self._count(run.data)
        over = run.stopping or run.steps >= run.total_steps
        if self._sums and (over or time.monotonic() >= self._due):
            self._draw(run)
            self._due = time.monotonic() + self.every_seconds

    def _count(self, last: IterationData) -> None:
        rows = last.rollout.valid.cpu()
        cells = positions(last.rollout, self.channel, self.cell)[rows].numpy()  # [R, 2]
        if not len(cells):
            return
        for name, part in last.rewards.components.items():
            self._sums.setdefault(name, _Sums()).add(cells, part.raw.cpu()[rows].numpy())
        self._sums.setdefault(VISITS, _Sums()).add(cells, np.ones(len(cells)))

    def _draw(self, run: Any) -> None:
        visits = self._sums.pop(VISITS)
        with np.errstate(invalid="ignore"):
            self.maps = {name: sums.total / sums.count for name, sums in self._sums.items()}
        self.maps[VISITS] = np.where(visits.count > 0, visits.count, np.nan)
        self.origin = {name: sums.low for name, sums in self._sums.items()} | {VISITS: visits.low}
        self._sums = {}
        for name, values in self.maps.items() if run.directory is not None else ():
            what = VISITS if name == VISITS else f"mean of {name}"
            title = f"{what} by {self.channel}, step {run.steps:,}"
            run.directory.picture(run.steps, name, draw_map(values, title, log=name == VISITS))


def positions(rollout: Rollout, channel: str, cell: float = 1.0) -> Tensor:
    """Compute column and row [T, N, 2] int64, on the CPU, of each step's true successor.

    Args:
        rollout: with the channel in its info.
        channel: [T+1, N] (a column) or [T+1, N, 2].
        cell: width of a cell.
    """
    reduced = dataclasses.replace(  # other channels may be large
        rollout,
        info={channel: rollout.info[channel]},
        final_info={channel: rollout.final_info[channel]},
    )
    at = reduced.next_info()[channel].cpu()
    if cell != 1.0 or at.is_floating_point():
        at = torch.floor(at / cell)
    at = at.long()
    return torch.stack([at, torch.zeros_like(at)], -1) if at.dim() == 2 else at


class _Sums:
    """Sum and number of values per cell, in the smallest rectangle that contains all cells."""

    def __init__(self) -> None:
        self.low, self.total, self.count = (0, 0), np.zeros((0, 0)), np.zeros((0, 0))

    def add(self, cells: np.ndarray, values: np.ndarray) -> None:
        """Add values [R] at `cells` [R, 2] int64, column and row; at least one."""
        low, high = cells.min(0), cells.max(0) + 1
        if self.count.size:
            rows, columns = self.count.shape
            low = np.minimum(low, self.low)
            high = np.maximum(high, np.add(self.low, (columns, rows)))
        columns, rows = (high - low).tolist()
        if (rows, columns) != self.count.shape:
            left, top = np.subtract(self.low, low) if self.count.size else (0, 0)
            self.total, self.count = (
                _padded(old, int(top), int(left), (rows, columns))
                for old in (self.total, self.count)
            )
        self.low = (int(low[0]), int(low[1]))
        flat = (cells[:, 1] - low[1]) * columns + cells[:, 0] - low[0]
        self.total += np.bincount(flat, values, rows * columns).reshape(rows, columns)
        self.count += np.bincount(flat, minlength=rows * columns).reshape(rows, columns)


def _padded(old: np.ndarray, top: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    """Copy `old` into zeros of `shape`."""
    new = np.zeros(shape)
    new[top : top + old.shape[0], left : left + old.shape[1]] = old
    return new


def draw_map(values: np.ndarray, title: str, *, log: bool = False) -> np.ndarray:
    """Draw a map: cells from dark (lowest) to yellow (highest), with a scale below.

    Args:
        values: [H, W], NaN for unvisited cells, drawn in grey.
        title: text above the map.
        log: colour by the logarithm; for positive values only.

    Returns:
        [h, w, 3] uint8.
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    side = max(2, _SIDE // max(values.shape))
    cells = np.kron(_coloured(values, low, high, log), np.ones((side, side, 1), np.uint8))
    height, width = cells.shape[:2]
    canvas = np.full((height + 3 * _LINE + 8, max(width, _MIN_WIDTH) + 16, 3), 255, np.uint8)
    left = (canvas.shape[1] - width) // 2
    canvas[_LINE + 8 : _LINE + 8 + height, left : left + width] = cells
    below, ramp = height + _LINE + 14, np.linspace(0, 1, max(width, _MIN_WIDTH))
    canvas[below : below + 8, 8:-8] = _coloured(ramp[None], 0.0, 1.0, log=False)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    write(draw, (8, 4), title)
    write(draw, (8, below + 10), short(low))
    write(draw, (canvas.shape[1] - 8, below + 10), short(high), right=True)
    return np.asarray(image)


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    colour: tuple[int, int, int] = (0, 0, 0),
    *,
    right: bool = False,
) -> None:
    """Write `text` without antialiasing, which keeps GIFs small.

    Args:
        draw: of the image.
        at: column and row of the upper left corner, with `right` of the upper right one.
        text: characters that Pillow's default font lacks are left out.
        colour: RGB.
        right: align to the right.
    """
    draw.fontmode = "1"
    font = ImageFont.load_default(11)
    left = at[0] - (draw.textlength(text, font) if right else 0)
    draw.text((left, at[1]), text, fill=colour, font=font)


def short(value: float) -> str:
    """Format a number in few characters.

    >>> short(0.0123456), short(12345.678), short(3e9)
    ('0.0123', '12,346', '3e+09')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _coloured(values: np.ndarray, low: float, high: float, log: bool) -> np.ndarray:
    """Map values [H, W] to colours [H, W, 3] uint8."""
    if log and low > 0:
        values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
    share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), values, 0.0)
    stops = np.linspace(0, 1, len(_COLOURS))
    bands = [np.interp(np.nan_to_num(share), stops, band) for band in _COLOURS.T]
    colours = np.stack(bands, -1)
    colours[np.isnan(share)] = _UNVISITED
    return colours.round().astype(np.uint8)
