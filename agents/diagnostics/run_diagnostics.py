"""A short run in which every reward source is watched, for `diagnose` to judge."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from firstlight.agents.diagnostics.doctor import TASK, Evidence, Finding, Sizes, diagnose
from firstlight.agents.session.iteration import IterationData
from firstlight.agents.trainer import Trainer
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.seeding import global_rng_state, set_global_rng_state
from firstlight.envs.types import Rollout
from firstlight.intrinsic.memory import EpisodicVisits, StateKeys, VisitTable
from firstlight.intrinsic.mixer import Component

_ROWS = 1024  # of an iteration that enter the rank correlation
_LEAST = 4  # iterations that are watched, however little time there is


@dataclass(frozen=True)
class Examination:
    """What was seen, and what is wrong.

    Args:
        evidence: by source, "reward" first.
        first: hash of the parameters after the first update, with every source; None if there was
            no update.
        findings: what is wrong; empty if all is well.
        steps: environment steps that it took.
        seconds: that it took.
    """

    evidence: Mapping[str, Evidence]
    first: str | None
    findings: Sequence[Finding]
    steps: int
    seconds: float


def examine(
    run: Trainer, *, total_steps: int, seconds: float = 60.0, iterations: int | None = None
) -> Examination:
    """Train for a while, all modules together, and judge every reward source.

    Args:
        run: not begun, and best without a run directory; it is spent afterwards.
        total_steps: of the training that is meant, which schedules follow; at most so many are
            taken.
        seconds: after which to stop, warm-up included.
        iterations: after which to stop if that comes first.
    """
    began = time.perf_counter()
    watch = Watch(run, seconds=seconds, iterations=iterations)
    error: str | None = None
    try:
        run.run(total_steps, [watch])
    except NonFiniteError as raised:
        error = str(raised)
    evidence = watch.evidence(error)
    findings = diagnose(evidence, watch.first)
    if error is not None and not any(seen.error for seen in evidence.values()):
        findings.append(Finding("update", "exploding", error))
    return Examination(
        evidence, watch.first, findings, run.session.steps, time.perf_counter() - began
    )


class Watch:
    """A callback that remembers what each source gave, and stops the run when it has seen enough.

    Args:
        run: that is about to begin.
        seconds: from now on.
        iterations: that were rated.

    Attributes:
        first: hash of the parameters after the first update.
    """

    def __init__(self, run: Trainer, *, seconds: float, iterations: int | None = None):
        self.run, self.iterations = run, iterations
        self.first: str | None = None
        self._until = time.perf_counter() + seconds
        self._sizes: dict[str, list[Sizes | None]] = {name: [] for name in run.mixer.terms}
        self._visits = _Visits(run.vec.obs_space)
        self._without: dict[str, str] = {}
        self._before = copy.deepcopy(run.learner.state_dict()), copy.deepcopy(run.mixer)
        self._level = {stream.name for stream in run.mixer.streams if stream.normalize}
        self._seen, self._ends, self._rows = 0, 0, 0

    def __call__(self, run: Any, metrics: Mapping[str, float]) -> bool:
        """Look at the iteration at hand. True when it is enough."""
        last = run.data
        if last is not None:
            if self._seen == 0:
                self._compare_first_updates(last)
            self._look(last)
        late = time.perf_counter() >= self._until and self._seen >= _LEAST
        return late or self._seen == self.iterations

    def evidence(self, error: str | None = None) -> dict[str, Evidence]:
        """What was seen of each source, "reward" first.

        Args:
            error: that ended the run; it belongs to the source that it names.
        """
        length = self._rows / max(self._ends, 1)
        return {
            name: Evidence(
                weight=max((term.weight_at(p) for p in np.linspace(0, 1, 11)), key=abs),
                sizes=tuple(self._sizes[name]),
                novelty=name != TASK and self.run.modules[name].novelty,
                rank=self._visits.rank(name),
                horizon=1.0 if name in self._level else max(1.0, min(length, _reach(term.gamma))),
                without=self._without.get(name),
                error=error if error is not None and _names(error, name) else None,
            )
            for name, term in self.run.mixer.terms.items()
            if name == TASK or name in self.run.modules
        }

    def _look(self, last: IterationData) -> None:
        rollout = last.rollout
        for name, sizes in self._sizes.items():
            part = last.rewards.components.get(name)
            if part is None:
                sizes.append(None)
                continue
            given, level = last.rewards.contributed[name], name in self._level
            sizes.append(_sizes(part, given, rollout, level))
        bonus = {name: part.raw for name, part in last.rewards.components.items() if name != TASK}
        self._visits.add(rollout, bonus)
        self._seen += 1
        self._rows += int(rollout.valid.sum())
        self._ends += int((rollout.terminated | rollout.truncated)[rollout.valid].sum())

    def _compare_first_updates(self, last: IterationData) -> None:
        """Make the first update once more with every source, and without each module."""
        learner, random = self.run.learner, global_rng_state()
        now, (before, mixer) = copy.deepcopy(learner.state_dict()), self._before

        def parameters(silent: str | None) -> str:
            """Hash after the update, as if `silent` had weight 0."""
            mixed = copy.deepcopy(mixer)
            if silent is not None:
                mixed.terms[silent] = dataclasses.replace(mixed.terms[silent], weight=0.0)
            learner.load_state_dict(copy.deepcopy(before))
            set_global_rng_state(random)
            try:
                rewards = mixed(last.rollout, last.bonus, last.progress)
                learner.update(last.rollout, rewards, last.progress)
            except NonFiniteError:
                return "not finite"
            return digest(learner.policy)

        self.first = parameters(None)
        self._without = {name: parameters(name) for name in self.run.modules}
        learner.load_state_dict(now)
        set_global_rng_state(random)


class _Visits:
    """How often each state was visited, beside what was paid there, of some rows of a run.

    Both in the run and in the episode: a bonus that forgets at the end of each falls with the
    latter only.
    """

    def __init__(self, obs_space: spaces.Dict):
        try:
            self.keys = StateKeys(obs_space)
        except ValueError:  # floats without bounds
            self.keys = StateKeys(obs_space, bits=32)
        self.run, self.episode = VisitTable(), EpisodicVisits()
        self._rows: dict[str, list[np.ndarray]] = {}  # [3, R] each: visits, visits, bonus

    def add(self, rollout: Rollout, bonus: Mapping[str, Tensor]) -> None:
        """Count a rollout's true successors; bonus [T, N] each."""
        valid = rollout.valid.cpu()
        here, after = self.keys(rollout)
        counts = self.run.count(after, valid), self.episode.count(here, after, rollout)
        total = int(valid.sum())
        rows = torch.linspace(0, max(total - 1, 0), min(_ROWS, total)).round().long()
        for name, values in bonus.items():
            columns = [field.cpu()[valid][rows].double() for field in (*counts, values)]
            self._rows.setdefault(name, []).append(torch.stack(columns).numpy())

    def rank(self, name: str) -> float | None:
        """Rank correlation of visits and bonus; None if one of them is always the same."""
        if name not in self._rows:
            return None
        run, episode, bonus = np.concatenate(self._rows[name], axis=1)
        ranks = [rank_correlation(visits, bonus) for visits in (run, episode)]
        return min((rank for rank in ranks if rank is not None), default=None)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's, of two [R]; equal values share the mean of their ranks. None if one is constant.

    >>> rank_correlation(np.array([1, 2, 4, 4]), np.array([9.0, 1.0, 0.5, 0.5]))
    -1.0
    """
    ranks = np.stack([_ranks(values) for values in (x, y)])
    if ranks.shape[1] < 2 or (ranks.std(1) == 0).any():
        return None
    return round(float(np.corrcoef(ranks)[0, 1]), 6)


def digest(policy: Any) -> str:
    """Hash of a policy's parameters, eight hexadecimal digits."""
    total = hashlib.sha256()
    for name, tensor in sorted(policy.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return total.hexdigest()[:8]


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _reach(gamma: float) -> float:
    """Steps that a discount looks ahead."""
    return 1 / max(1 - gamma, 1e-6)


def _sizes(part: Component, contributed: Tensor, rollout: Rollout, level: bool) -> Sizes:
    """What a source gave; `level` if its stream is normalised, so that only its weight counts."""
    valid = rollout.valid
    if not bool(valid.any()):
        return Sizes(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    raw, scaled = part.raw[valid].double(), part.scaled[valid].double().abs()
    size, given = raw.abs(), contributed[valid].double().abs()
    weighted = given.mean().item()
    return Sizes(
        low=raw.min().item(),
        high=raw.max().item(),
        raw=(size.sum() / (size > 0).sum().clamp(min=1)).item(),
        scaled=scaled.mean().item(),
        weighted=weighted,
        paid=weighted if level else (given.sum() / (given > 0).sum().clamp(min=1)).item(),
    )


def _names(error: str, source: str) -> bool:
    """Whether an error says that it comes from this source."""
    begins = ("reward of",) if source == TASK else (f"bonus {source!r}", f"module {source!r}")
    return error.startswith(begins)
