"""Diagnose defects of reward sources from the records of a short run; the form of findings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

TASK = "reward"
"""Name of the source that is the environment's own reward."""

GROWTH = 100.0
"""A bonus that grows by this factor counts as exploding."""
HUGE = 1e3
"""So does a bonus with this mean absolute scaled value: value heads cannot learn such returns."""
FAINT = 1e-3
"""A module whose share of the total reward never exceeds this counts as drowned."""
DROWNED = 1e-2
"""The task counts as drowned if its median share is below this."""
FALLS = -0.03
"""Largest rank correlation of visits and bonus at which a bonus counts as falling with visits."""

_FLAT = 1e-6  # relative spread of a constant
_BEGIN = 3  # iterations that define the initial size of a bonus

Kind = Literal[
    "dead",
    "constant",
    "exploding",
    "drowned",
    "not novel",
    "out of range",
    "narrow",
    "unused",
    "unscaled",
    "unseeded",
]


@dataclass(frozen=True)
class Finding:
    """A defect of a reward source, or between policy and environment.

    Args:
        source: name of the module, "reward", or "update" if the source is unknown; or "the action",
            "the observation 'NAME'", "the environment".
        kind: of the defect.
        sentence: description for people.
    """

    source: str
    kind: Kind
    sentence: str


@dataclass(frozen=True)
class Sizes:
    """Magnitudes of a source in one iteration, over valid rows.

    Args:
        low: minimum raw value.
        high: maximum raw value.
        raw: mean absolute raw value over rows where it is not 0.
        scaled: mean absolute value after transform, clip and budget.
        weighted: mean absolute contribution, see `Rewards`: the same times the weight; for joined
            sources an equal part of their bonus.
        nonzero: the same over rows where it is not 0.
    """

    low: float
    high: float
    raw: float
    scaled: float
    weighted: float
    nonzero: float


@dataclass(frozen=True)
class Evidence:
    """Records of one source.

    Args:
        weight: its largest weight during training.
        sizes: of each iteration, None where its weight was 0.
        novelty: whether the module declares that its bonus falls with visits.
        rank: rank correlation of the visits to a state and the bonus there, the smaller one of
            visits in the run and in the episode; None if it is not defined.
        horizon: effective horizon of its discount in steps, at most the length of an episode; 1
            where its advantages are normalised, so that only its weight counts.
        without: hash of the parameters after the first update, made without this source.
        error: message about a value that was not finite.
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
        """The sizes of iterations with a weight other than 0."""
        return [sizes for sizes in self.sizes if sizes is not None]


def diagnose(evidence: Mapping[str, Evidence], first: str | None = None) -> list[Finding]:
    """Find defects of reward sources.

    Args:
        evidence: by source; ``"reward"`` is the environment's.
        first: hash of the parameters after the first update with every source.

    Returns:
        Findings, those of a module in the order dead, constant, exploding, drowned, not novel; a
        dead source has no other.

    >>> half = Sizes(low=0.5, high=0.5, raw=0.5, scaled=0.5, weighted=0.5, nonzero=0.5)
    >>> [f.kind for f in diagnose({"flat": Evidence(1.0, [half, half])})]
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
        return "its weight is 0, so it is never computed"
    if not seen.counted:
        return None  # its weight is 0 so far, but not for the whole of training
    if all(sizes.low == sizes.high == 0 for sizes in seen.counted):
        return "it is 0 in every step"
    if all(sizes.scaled == 0 for sizes in seen.counted):
        return "its transform, clip or budget makes it 0 in every step"
    start = seen.sizes[0]
    if first is not None and first == seen.without and start is not None and start.weighted > 0:
        return "it is not 0, but the first update is the same without it"
    return None


def _constant(seen: Evidence) -> str | None:
    nonzero = [sizes for sizes in seen.counted if sizes.raw > 0]
    if not nonzero or any(
        sizes.high - sizes.low > _FLAT * max(abs(sizes.low), abs(sizes.high)) for sizes in nonzero
    ):
        return None
    return f"every step of a rollout has the same value, {nonzero[-1].high:.3g} in the last one"


def _exploding(seen: Evidence) -> str | None:
    if seen.error is not None:
        return seen.error
    raw = [sizes.raw for sizes in seen.counted if sizes.raw > 0]
    if not raw:
        return None
    begin, most = max(raw[:_BEGIN]), max(raw[_BEGIN:], default=0.0)
    if most > GROWTH * begin:
        return f"its mean absolute value grew from {begin:.3g} to {most:.3g}"
    scaled = max(sizes.scaled for sizes in seen.counted)
    if scaled > HUGE:
        return f"its mean is {scaled:.3g} after scaling: value heads cannot learn such returns"
    return None


def _faint(name: str, evidence: Mapping[str, Evidence]) -> str | None:
    shares = [share[name] for share in shares_of(evidence) if name in share]
    if not shares or max(shares) == 0 or max(shares) >= FAINT:
        return None
    return f"its share of the total reward is never more than {max(shares):.2g}"


def _task_drowned(evidence: Mapping[str, Evidence]) -> str | None:
    shares = [share for share in shares_of(evidence) if TASK in share and len(share) > 1]
    if not shares or (mine := float(np.median([share[TASK] for share in shares]))) >= DROWNED:
        return None
    task = evidence[TASK]
    unseen = all(sizes.nonzero == 0 for sizes in task.counted)
    known = (
        f", assuming one reward of {abs(task.weight):.3g}: there has been none yet"
        if unseen
        else ""
    )
    others = {name for share in shares for name in share} - {TASK}
    mean = {name: np.mean([share.get(name, 0.0) for share in shares]) for name in sorted(others)}
    loudest = max(mean, key=lambda name: float(mean[name]))
    return f"its share of the total reward is {mine:.2g}{known}; {loudest!r} drowns it"


def _not_novel(seen: Evidence) -> str | None:
    if not seen.novelty or seen.rank is None or seen.rank <= FALLS:
        return None
    return f"it does not fall with visits: their rank correlation is {seen.rank:+.2f}"


def shares_of(evidence: Mapping[str, Evidence]) -> Iterator[dict[str, float]]:
    """Yield the share of each source in the total reward within its horizon, per iteration.

    A reward that occurs once in an episode counts in full, and one that has not occurred yet counts
    once, with its weight: a task is not drowned because it is rare.
    """
    task = evidence.get(TASK, Evidence(0.0))
    nonzero = [sizes.nonzero for sizes in task.counted if sizes.nonzero > 0]
    once = float(np.mean(nonzero)) if nonzero else abs(task.weight)
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
