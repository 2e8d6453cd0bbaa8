"""What is wrong with reward sources, judged by what they gave in a short run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

TASK = "reward"
"""The source that is the environment's own."""

GROWTH = 100.0
"""A bonus that becomes so many times what it was at the beginning explodes."""
HUGE = 1e3
"""So does one of which a step, scaled, is worth this: no value head learns such returns."""
FAINT = 1e-3
"""A module that never has a larger share than this of what all sources pay is drowned."""
DROWNED = 1e-2
"""The task is drowned if it mostly has a smaller share than this."""
FALLS = -0.03
"""Rank correlation of visits and bonus up to which a bonus is said to fall with visits."""

_FLAT = 1e-6  # relative spread of a constant
_BEGIN = 3  # iterations that a bonus may take to find its size

Kind = Literal["dead", "constant", "exploding", "drowned", "not novel"]


@dataclass(frozen=True)
class Finding:
    """One defect.

    Args:
        source: name of the module, "reward", or "update" where nobody knows.
        kind: which.
        sentence: what was seen, for people.
    """

    source: str
    kind: Kind
    sentence: str


@dataclass(frozen=True)
class Sizes:
    """What a source gave in one iteration, over valid rows.

    Args:
        low: least raw value.
        high: greatest raw value.
        raw: mean absolute raw value of the rows that were paid anything.
        scaled: mean absolute value after transform, clip and budget.
        weighted: mean absolute value of what it contributes, see `Rewards`: the same times the
            weight; of sources that are joined an equal part of their bonus.
        paid: the same of the rows that were paid anything.
    """

    low: float
    high: float
    raw: float
    scaled: float
    weighted: float
    paid: float


@dataclass(frozen=True)
class Evidence:
    """What was seen of one source.

    Args:
        weight: the largest that it has during training.
        sizes: of each iteration, None where its weight was 0.
        novelty: whether it says of itself that it falls with visits.
        rank: rank correlation of the visits to a state, in the run or in the episode, and the
            bonus there, whichever is less; None if there is no telling.
        horizon: steps that its return looks ahead, or the length of an episode if that is less; 1
            where its advantages are normalised, and only its weight counts.
        without: hash of the parameters after the first update, made without this source.
        error: what was not finite.
    """

    weight: float
    sizes: Sequence[Sizes | None] = ()
    novelty: bool = False
    rank: float | None = None
    horizon: float = 1.0
    without: str | None = None
    error: str | None = None

    @property
    def counted(self) -> list[Sizes]:
        """Of the iterations in which it counted."""
        return [sizes for sizes in self.sizes if sizes is not None]


def diagnose(evidence: Mapping[str, Evidence], first: str | None = None) -> list[Finding]:
    """Name what is wrong with reward sources.

    Args:
        evidence: by source; ``"reward"`` is the task's own.
        first: hash of the parameters after the first update with every source.

    Returns:
        Findings, those of a module in the order dead, constant, exploding, drowned, not novel; a
        source that is dead has no other.

    >>> paid = Sizes(low=0.5, high=0.5, raw=0.5, scaled=0.5, weighted=0.5, paid=0.5)
    >>> [f.kind for f in diagnose({"flat": Evidence(1.0, [paid, paid])})]
    ['constant']
    """
    findings: list[Finding] = []
    for name, seen in evidence.items():
        if name == TASK:
            if seen.error is not None:
                findings.append(Finding(TASK, "exploding", seen.error))
            continue
        if sentence := _dead(seen, first):
            findings.append(Finding(name, "dead", sentence))
            continue
        checks: list[tuple[Kind, str | None]] = [
            ("constant", constant := _constant(seen)),
            ("exploding", _exploding(seen)),
            ("drowned", _faint(name, evidence)),
            ("not novel", None if constant else _not_novel(seen)),
        ]
        findings += [Finding(name, kind, sentence) for kind, sentence in checks if sentence]
    if sentence := _task_drowned(evidence):
        findings.append(Finding(TASK, "drowned", sentence))
    return findings


def _dead(seen: Evidence, first: str | None) -> str | None:
    if seen.error is not None:
        return None
    if seen.weight == 0:
        return "its weight is 0, so that it is never computed"
    if not seen.counted:
        return None  # its weight is 0 so far, and will not always be
    if all(sizes.low == sizes.high == 0 for sizes in seen.counted):
        return "it pays 0 in every step"
    if all(sizes.scaled == 0 for sizes in seen.counted):
        return "what it pays becomes 0 by its transform, clip or budget"
    start = seen.sizes[0]
    if first is not None and first == seen.without and start is not None and start.weighted > 0:
        return "it pays, but the first update is the same without it"
    return None


def _constant(seen: Evidence) -> str | None:
    paid = [sizes for sizes in seen.counted if sizes.raw > 0]
    if not paid or any(
        sizes.high - sizes.low > _FLAT * max(abs(sizes.low), abs(sizes.high)) for sizes in paid
    ):
        return None
    return f"every step of a rollout is paid the same, in the last {paid[-1].high:.3g}"


def _exploding(seen: Evidence) -> str | None:
    if seen.error is not None:
        return seen.error
    raw = [sizes.raw for sizes in seen.counted if sizes.raw > 0]
    if not raw:
        return None
    begin, most = max(raw[:_BEGIN]), max(raw[_BEGIN:], default=0.0)
    if most > GROWTH * begin:
        return f"a step that is paid was worth {begin:.3g} at first and {most:.3g} later"
    scaled = max(sizes.scaled for sizes in seen.counted)
    if scaled > HUGE:
        return f"a step is worth {scaled:.3g} after scaling: no value head learns such returns"
    return None


def _faint(name: str, evidence: Mapping[str, Evidence]) -> str | None:
    shares = [share[name] for share in shares_of(evidence) if name in share]
    if not shares or max(shares) == 0 or max(shares) >= FAINT:
        return None
    return f"its share of what all sources pay is never more than {max(shares):.2g}"


def _task_drowned(evidence: Mapping[str, Evidence]) -> str | None:
    shares = [share for share in shares_of(evidence) if TASK in share and len(share) > 1]
    if not shares or (mine := float(np.median([share[TASK] for share in shares]))) >= DROWNED:
        return None
    task = evidence[TASK]
    unpaid = all(sizes.paid == 0 for sizes in task.counted)
    known = f", if it pays {abs(task.weight):.3g} once, which it has not yet" if unpaid else ""
    others = {name for share in shares for name in share} - {TASK}
    mean = {name: np.mean([share.get(name, 0.0) for share in shares]) for name in sorted(others)}
    loudest = max(mean, key=lambda name: float(mean[name]))
    return f"its share of what all sources pay is {mine:.2g}{known}; {loudest!r} drowns it"


def _not_novel(seen: Evidence) -> str | None:
    if not seen.novelty or seen.rank is None or seen.rank <= FALLS:
        return None
    return f"it does not fall with visits: their rank correlation is {seen.rank:+.2f}"


def shares_of(evidence: Mapping[str, Evidence]) -> Iterator[dict[str, float]]:
    """Share of each source in what they pay as far as they look ahead, iteration by iteration.

    A reward that comes once in an episode counts whole, and one that has not come yet as if it came
    once and were its weight: a task is not drowned for being rare.
    """
    task = evidence.get(TASK, Evidence(0.0))
    paid = [sizes.paid for sizes in task.counted if sizes.paid > 0]
    once = float(np.mean(paid)) if paid else abs(task.weight)
    for i in range(max((len(seen.sizes) for seen in evidence.values()), default=0)):
        reach = {}
        for name, seen in evidence.items():
            sizes = seen.sizes[i] if i < len(seen.sizes) else None
            if sizes is not None:
                reach[name] = seen.horizon * sizes.weighted
        if task.weight != 0:
            reach[TASK] = max(once, reach.get(TASK, 0.0))
        total = sum(reach.values())
        if total > 0 and math.isfinite(total):
            yield {name: value / total for name, value in reach.items()}
