"""Record every reward source in a short training run, for `diagnose`."""

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
from firstlight.agents.diagnostics.interface_checks import InterfaceRecorder, check_seed
from firstlight.agents.session.iteration_data import IterationData
from firstlight.agents.trainer import Trainer
from firstlight.envs.finite import NonFiniteError
from firstlight.envs.seeding import global_rng_state, set_global_rng_state
from firstlight.envs.types import Rollout
from firstlight.intrinsic.memory import EpisodicVisits, StateKeys, VisitTable
from firstlight.intrinsic.mixer import Component

_ROWS = 1024  # per iteration that enter the rank correlation
_MIN_ITERATIONS = 4  # recorded even if the time is up


@dataclass(frozen=True)
class DiagnosticsResult:
    """Result of `run_diagnostics`.

    Args:
        evidence: by source, "reward" first.
        first: hash of the parameters after the first update, with every source; None if there was
            no update.
        findings: defects; empty if there are none.
        steps: environment steps taken.
        seconds: duration.
    """

    evidence: Mapping[str, Evidence]
    first: str | None
    findings: Sequence[Finding]
    steps: int
    seconds: float


def run_diagnostics(
    run: Trainer, *, total_steps: int, seconds: float = 60.0, iterations: int | None = None
) -> DiagnosticsResult:
    """Train for a short time with all modules and diagnose every reward source.

    Actions, observation fields and the environment's seed are checked too.

    Args:
        run: a new trainer, preferably without a run directory; do not use it afterwards.
        total_steps: of the intended training, for schedules; also the maximum taken here.
        seconds: time limit, warm-up included.
        iterations: maximum number of iterations after warm-up; None for no maximum.
    """
    began = time.perf_counter()
    recorder = SourceRecorder(run, seconds=seconds, iterations=iterations)
    interface = InterfaceRecorder(run.policy, run.vec)
    error: str | None = None
    try:
        run.run(total_steps, [interface, recorder])
    except NonFiniteError as raised:
        error = str(raised)
    evidence = recorder.evidence(error)
    findings = diagnose(evidence, recorder.first)
    if error is not None and not any(seen.error for seen in evidence.values()):
        findings.append(Finding("update", "exploding", error))
    findings += interface.findings() + check_seed(run.vec)
    return DiagnosticsResult(
        evidence, recorder.first, findings, run.session.steps, time.perf_counter() - began
    )


class SourceRecorder:
    """Callback that records every reward source, and stops the run at a limit.

    Args:
        run: about to begin.
        seconds: time limit from now on.
        iterations: maximum number of iterations with rewards.

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
        self._normalized = {stream.name for stream in run.mixer.streams if stream.normalize}
        self._seen, self._ends, self._rows = 0, 0, 0

    def __call__(self, run: Any, metrics: Mapping[str, float]) -> bool:
        """Record the current iteration. Returns True when a limit is reached."""
        last = run.data
        if last is not None:
            if self._seen == 0:
                self._compare_first_updates(last)
            self._record(last)
        late = time.perf_counter() >= self._until and self._seen >= _MIN_ITERATIONS
        return late or self._seen == self.iterations

    def evidence(self, error: str | None = None) -> dict[str, Evidence]:
        """Return the records of each source, "reward" first.

        Args:
            error: message of the error that ended the run; it is recorded for the source it names.
        """
        length = self._rows / max(self._ends, 1)
        return {
            name: Evidence(
                weight=max((term.weight_at(p) for p in np.linspace(0, 1, 11)), key=abs),
                sizes=tuple(self._sizes[name]),
                novelty=name != TASK and self.run.modules[name].novelty,
                rank=self._visits.rank(name),
                horizon=1.0
                if name in self._normalized
                else max(1.0, min(length, _horizon(term.gamma))),
                without=self._without.get(name),
                error=error if error is not None and _names(error, name) else None,
            )
            for name, term in self.run.mixer.terms.items()
            if name == TASK or name in self.run.modules
        }

    def _record(self, last: IterationData) -> None:
        rollout = last.rollout
        for name, sizes in self._sizes.items():
            part = last.rewards.components.get(name)
            if part is None:
                sizes.append(None)
                continue
            contributed, normalized = last.rewards.contributed[name], name in self._normalized
            sizes.append(_sizes(part, contributed, rollout, normalized))
        bonus = {name: part.raw for name, part in last.rewards.components.items() if name != TASK}
        self._visits.add(rollout, bonus)
        self._seen += 1
        self._rows += int(rollout.valid.sum())
        self._ends += int((rollout.terminated | rollout.truncated)[rollout.valid].sum())

    def _compare_first_updates(self, last: IterationData) -> None:
        """Repeat the first update with every source, and without each module."""
        learner, random = self.run.learner, global_rng_state()
        now, (before, mixer) = copy.deepcopy(learner.state_dict()), self._before

        def parameters(disabled: str | None) -> str:
            """Hash the parameters after the update, with weight 0 for `disabled`."""
            mixed = copy.deepcopy(mixer)
            if disabled is not None:
                mixed.terms[disabled] = dataclasses.replace(mixed.terms[disabled], weight=0.0)
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
    """Visit counts and bonuses of a sample of steps.

    Visits are counted in the run and in the episode: an episodic bonus falls with the latter only.
    """

    def __init__(self, obs_space: spaces.Dict):
        try:
            self.keys = StateKeys(obs_space)
        except ValueError:  # floats without bounds
            self.keys = StateKeys(obs_space, bits=32)
        self.run, self.episode = VisitTable(), EpisodicVisits()
        self._rows: dict[str, list[np.ndarray]] = {}  # [3, R] each: visits, visits, bonus

    def add(self, rollout: Rollout, bonus: Mapping[str, Tensor]) -> None:
        """Count the true successors of a rollout; bonus [T, N] each."""
        valid = rollout.valid.cpu()
        here, after = self.keys(rollout)
        counts = self.run.count(after, valid), self.episode.count(here, after, rollout)
        total = int(valid.sum())
        rows = torch.linspace(0, max(total - 1, 0), min(_ROWS, total)).round().long()
        for name, values in bonus.items():
            columns = [field.cpu()[valid][rows].double() for field in (*counts, values)]
            self._rows.setdefault(name, []).append(torch.stack(columns).numpy())

    def rank(self, name: str) -> float | None:
        """Compute the rank correlation of visits and bonus; None if either is constant."""
        if name not in self._rows:
            return None
        run, episode, bonus = np.concatenate(self._rows[name], axis=1)
        ranks = [rank_correlation(visits, bonus) for visits in (run, episode)]
        return min((rank for rank in ranks if rank is not None), default=None)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Compute Spearman's rank correlation of two [R], with mean ranks for ties.

    None if one of them is constant.

    >>> rank_correlation(np.array([1, 2, 4, 4]), np.array([9.0, 1.0, 0.5, 0.5]))
    -1.0
    """
    ranks = np.stack([_ranks(values) for values in (x, y)])
    if ranks.shape[1] < 2 or (ranks.std(1) == 0).any():
        return None
    return round(float(np.corrcoef(ranks)[0, 1]), 6)


def digest(policy: Any) -> str:
    """Hash a policy's parameters, eight hexadecimal digits."""
    total = hashlib.sha256()
    for name, tensor in sorted(policy.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return total.hexdigest()[:8]


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _horizon(gamma: float) -> float:
    """Effective horizon of a discount in steps."""
    return 1 / max(1 - gamma, 1e-6)


def _sizes(part: Component, contributed: Tensor, rollout: Rollout, normalized: bool) -> Sizes:
    """Summarise a source in one iteration; `normalized` if the advantages of its stream are."""
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
        nonzero=weighted if normalized else (given.sum() / (given > 0).sum().clamp(min=1)).item(),
    )


def _names(error: str, source: str) -> bool:
    """Check whether an error message names this source."""
    prefixes = ("reward of",) if source == TASK else (f"bonus {source!r}", f"module {source!r}")
    return error.startswith(prefixes)
