"""Scores from the log-probabilities of label tokens, and their calibration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

from firstlight.intrinsic.language.judges.logistic import fit_logistic

_EDGE = 1e-6  # scores of 0 and 1 have no logit


def label_scores(
    tokens: Sequence[tuple[str, Mapping[str, float]]],
    labels: Mapping[str, float | None],
    ids: Sequence[str],
) -> dict[str, float]:
    """Compute the mean score of each id's label from the probabilities of its first token.

    The answer is a JSON object from ids to labels. In the place where a label begins, each of the
    likeliest tokens counts for the labels that it begins; a label that no token begins has the
    probability of the least likely of them. Labels for doubt are left out of the mean.

    Args:
        tokens: of the answer, with the log-probabilities of the likeliest in each place.
        labels: label to score; None is to abstain.
        ids: keys of the object.

    Returns:
        Score in [0, 1] by id; an id that is not found exactly once is left out.

    >>> tokens = [('{"a": "', {}), ("DA", {"DA": math.log(0.6), "WU": math.log(0.2)}), ('X"}', {})]
    >>> round(label_scores(tokens, {"DAX": 1.0, "WUG": 0.0, "UNSURE": None}, ["a"])["a"], 3)
    0.75
    """
    text = "".join(token for token, _ in tokens)
    starts = [0, *accumulate(len(token) for token, _ in tokens)]
    scores = {}
    for i in ids:
        places = [*re.finditer(rf'"{re.escape(i)}"\s*:\s*"', text)]
        if len(places) != 1 or places[0].end() == len(text):
            continue
        at = places[0].end()
        row = max(k for k, start in enumerate(starts[:-1]) if start <= at)
        token, alternatives = tokens[row]
        before = token[: at - starts[row]]
        drawn = next((label for label in labels if text.startswith(label, at)), None)
        mass = _masses(alternatives, before, [*labels], drawn)
        rated = {label: x for label, x in labels.items() if x is not None}
        if mass:
            least = math.exp(min(alternatives.values()))
            weights = {label: mass.get(label, least) for label in rated}
            total = sum(weights.values())
            scores[i] = sum(weights[label] * x for label, x in rated.items()) / total
    return scores


def _masses(
    alternatives: Mapping[str, float], before: str, labels: Sequence[str], drawn: str | None
) -> dict[str, float]:
    """Probability of each label that one of the tokens begins, after the text `before` in it."""
    mass: dict[str, float] = {}
    for token, logprob in alternatives.items():
        rest = token.removeprefix(before) if token.startswith(before) else ""
        fits = [x for x in labels if rest and (x.startswith(rest) or rest.startswith(x))]
        if drawn in fits:  # "S" begins SECOND and SAME: the tokens after it have decided
            fits = [drawn]
        for label in fits:
            mass[label] = mass.get(label, 0.0) + math.exp(logprob) / len(fits)
    return mass


class Calibration(NamedTuple):
    """A logistic function of the logit of a score (Platt 1999).

    Args:
        slope: at least 0; 0 gives every score the same value.
        intercept: added to the scaled logit.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, score: float) -> float:
        """Calibrate a score in [0, 1]."""
        if self.slope == 1.0 and self.intercept == 0.0:
            return score
        return 0.5 + 0.5 * math.tanh((self.slope * _logit(score) + self.intercept) / 2)

    @classmethod
    def fit(cls, scores: Sequence[float | None], labels: Sequence[float]) -> Calibration:
        """Fit to scores and labels, 1 or 0, both classes with the same weight in all.

        Scores that say less than two different things, or labels of one class, change nothing. If
        higher scores do not go with label 1, every score becomes 0.5: there is nothing to learn.
        """
        pairs = [(x, y) for x, y in zip(scores, labels, strict=True) if x is not None]
        if len({x for x, _ in pairs}) < 2 or len({y for _, y in pairs}) < 2:
            return cls()
        logits = torch.tensor([[_logit(x)] for x, _ in pairs], dtype=torch.float64)
        targets = torch.tensor([y for _, y in pairs])
        slope, intercept = fit_logistic(logits, targets, strength=100.0).tolist()
        return cls(slope, intercept) if slope > 0 else cls(0.0, 0.0)


def _logit(score: float) -> float:
    score = min(max(score, _EDGE), 1 - _EDGE)
    return math.log(score / (1 - score))
