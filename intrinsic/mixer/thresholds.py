"""Search for a Lagrangian's thresholds during training (Constrained RLHF, arXiv 2310.04373)."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from firstlight.intrinsic.state import GrowingBuffers

Point = list[float]


class ThresholdSearch(GrowingBuffers):
    """Searches the thresholds of a `Lagrangian` by Nelder-Mead, within one training run.

    Beyond its *proxy point* more of a source makes the objective worse, and that point depends on
    the other sources. So the thresholds are searched: each proposal is used for `every` iterations,
    fewer if all sources come within `near` of it, and scored with the objective reached. After
    `evaluations` proposals the best one is kept. From the paper's code: reflection 1, expansion 2,
    contraction and shrinking 1/2, tolerance 0.01, 10 evaluations of a tenth of the run each, 5 % as
    near, and no second trial of proposals within 0.005 of an old one. The first simplex is our
    choice.

    Args:
        every: maximum iterations per proposal; a tenth of the run, as published.
        evaluations: number of proposals.
        step: size of the first simplex, as a fraction of the first thresholds.
        near: relative distance at which a threshold counts as reached.
        tolerance: size of the simplex at which the search ends.

    Attributes:
        scores: [P] float64, the objective of each proposal tried.
        elapsed: [] int64, iterations spent on the current proposal.
        total: [] float64, sum of the objectives measured in the second half of them.
        count: [] float64, number of these objectives.
    """

    scores: Tensor
    elapsed: Tensor
    total: Tensor
    count: Tensor

    def __init__(
        self,
        *,
        every: int,
        evaluations: int = 10,
        step: float = 0.25,
        near: float = 0.05,
        tolerance: float = 0.01,
    ):
        super().__init__()
        self.every, self.evaluations = every, evaluations
        self.step, self.near, self.tolerance = step, near, tolerance
        self.register_buffer("scores", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("elapsed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def proposal(self, start: Sequence[float]) -> Point:
        """Return the current thresholds, given the first ones; the best ones after the search.

        The search is replayed from its start with the recorded scores, which are its only state.
        """
        search = nelder_mead(start, step=self.step, tolerance=self.tolerance)
        tried: list[tuple[Point, float]] = []
        scores = self.scores.tolist()
        point = next(search)
        while True:
            old = next((s for p, s in tried if _alike(p, point)), None)
            if old is None:
                if len(tried) == min(len(scores), self.evaluations):
                    break
                old = scores[len(tried)]
                tried.append((point, old))
            try:
                point = search.send(-old)
            except StopIteration:
                return max(tried, key=lambda each: each[1])[0]
        return point if len(tried) < self.evaluations else max(tried, key=lambda each: each[1])[0]

    def update(self, start: Sequence[float], reached: Sequence[float], objective: float) -> None:
        """Record the result of an iteration.

        Args:
            start: the first thresholds.
            reached: measured value of each source; NaN if it was not measured.
            objective: measured value to maximise; NaN if it was not measured.
        """
        if len(self.scores) >= self.evaluations:
            return
        targets = self.proposal(start)
        near = all(
            abs(value - target) <= self.near * abs(target)
            for value, target in zip(reached, targets, strict=True)
        )
        self.elapsed = self.elapsed + 1
        measured = objective == objective
        if measured and (2 * int(self.elapsed) >= self.every or near):
            self.total, self.count = self.total + objective, self.count + 1
        if float(self.count) and (near or int(self.elapsed) >= self.every):
            self.scores = torch.cat([self.scores, (self.total / self.count)[None]])
            self.elapsed, self.total, self.count = (
                torch.zeros_like(x) for x in (self.elapsed, self.total, self.count)
            )


def nelder_mead(
    start: Sequence[float], *, step: float, tolerance: float
) -> Generator[Point, float, Point]:
    """Minimise by Nelder & Mead's simplex search: yields points, is sent their costs, returns best.

    Args:
        start: first point.
        step: size of the first simplex, as a fraction of each coordinate; absolute where that is 0.
        tolerance: largest distance between corners, in any coordinate, at which it ends.

    >>> search = nelder_mead([3.0], step=0.5, tolerance=1e-4)
    >>> point = next(search)
    >>> for _ in range(20):
    ...     point = search.send((point[0] - 1) ** 2)
    >>> round(point[0], 1)
    1.0
    """
    first = list(start)
    corners: list[tuple[float, Point]] = [((yield first), first)]
    for i, x in enumerate(first):
        corner = [*first[:i], x + step * (abs(x) or 1.0), *first[i + 1 :]]
        corners.append(((yield corner), corner))
    while True:
        corners.sort(key=lambda corner: corner[0])
        (best, centre), (worst, far) = corners[0], corners[-1]
        if all(abs(x - y) <= tolerance for _, p in corners for x, y in zip(p, centre, strict=True)):
            return centre
        middle = [sum(xs) / len(xs) for xs in zip(*(p for _, p in corners[:-1]), strict=True)]
        point = _beyond(middle, far, 1.0)
        cost = yield point
        if cost < best:
            farther = _beyond(middle, far, 2.0)
            cost, point = min((cost, point), ((yield farther), farther))
        elif cost >= corners[-2][0]:
            nearer = _beyond(middle, far, 0.5 if cost < worst else -0.5)
            limit, (cost, point) = min(cost, worst), ((yield nearer), nearer)
            if cost >= limit:
                kept = corners[:1]
                for _, p in corners[1:]:
                    shrunk = [(x + y) / 2 for x, y in zip(p, centre, strict=True)]
                    kept.append(((yield shrunk), shrunk))
                corners = kept
                continue
        corners[-1] = (cost, point)


def _beyond(middle: Point, far: Point, factor: float) -> Point:
    """Continue the line from `far` through `middle` by `factor` of their distance."""
    return [m + factor * (m - x) for m, x in zip(middle, far, strict=True)]


def _alike(a: Point, b: Point) -> bool:
    return all(abs(x - y) <= 5e-3 for x, y in zip(a, b, strict=True))
