"""Check a reward program on recorded transitions, before any training: `screen`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from firstlight.intrinsic.design.circles import circle_return
from firstlight.intrinsic.design.execution import Execution, Sandbox
from firstlight.intrinsic.design.lint import ProgramError
from firstlight.intrinsic.design.program import ENTRY, FEATURES_ENTRY, RewardProgram
from firstlight.intrinsic.design.recording import Recording
from firstlight.intrinsic.design.sandbox_worker import Arrays
from firstlight.intrinsic.design.starc import noise_floor, sampled_epic, sampled_starc

_RELATIVE, _ABSOLUTE = 1e-4, 1e-6  # numpy's vector loops round by place in the array
_NUM_FEATURES = 128
_LARGEST_STATE = 1024
"""Numbers of a state that distances look at, at most."""


@dataclass(frozen=True)
class ScreeningReport:
    """What `screen` found.

    Args:
        problems: a sentence for each reason to reject the program; empty if it passed.
        components: lowest, mean and highest value of each component over the recorded transitions.
        milliseconds: of one step of all environments.
        successes: number of recorded episodes that succeeded.
        failures: number of those that failed.
        ranking: share of pairs of a success and a failure in which the program's return of the
            success is higher, a tie is half; None without such pairs.
        success_return: mean return of the successes, by program and environment together; None
            without any.
        circle_return: that of the recorded circle which pays most, repeated until the time limit;
            None if none was recorded that pays.
        starc: estimated STARC distance to the environment's reward; None if that is constant.
        starc_noise: that of the environment's reward and a shaped copy of itself.
        epic: as `starc`, by EPIC.
        epic_noise: as `starc_noise`, by EPIC.
    """

    problems: tuple[str, ...]
    components: Mapping[str, tuple[float, float, float]]
    milliseconds: float = 0.0
    successes: int = 0
    failures: int = 0
    ranking: float | None = None
    success_return: float | None = None
    circle_return: float | None = None
    starc: float | None = None
    starc_noise: float | None = None
    epic: float | None = None
    epic_noise: float | None = None

    @property
    def passed(self) -> bool:
        """Whether no problem was found, so that the program may be trained with."""
        return not self.problems

    def numbers(self) -> dict[str, float]:
        """All numbers that are known, by name, but for the time, which differs from run to run."""
        values = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, float | int) and name != "milliseconds"
        }
        means = {f"mean of {name}": mean for name, (_, mean, _) in self.components.items()}
        return {name: float(value) for name, value in {**values, **means}.items()}


def screen(
    program: RewardProgram,
    transitions: Recording,
    *,
    weights: Mapping[str, float] | None = None,
    discount: float = 0.99,
    min_ranking: float = 0.5,
    max_milliseconds: float = 20.0,
    timeout_seconds: float = 10.0,
    allow_unsandboxed: bool = False,
) -> ScreeningReport:
    """Check a program on recorded transitions. It runs in the sandbox.

    A program is rejected if it fails; if values are beyond the declared ranges; if it gives other
    values in a second call, or in a new process with half of the environments in another order;
    if it is too slow; if its reward is the same in all transitions, unless it is 0 and no recorded
    episode succeeded, where what it pays may just not have happened; if recorded failures have a
    higher return by it than successes (Sun et al. 2024, CARD); or if going in a recorded circle
    until the time limit has a higher return than the successes, the environment's reward included.
    Distances to the environment's reward are reported, not judged: the best policy may be the same
    at any distance.

    Args:
        program: to check.
        transitions: recorded, some of them with successes.
        weights: component to factor; default 1 for each.
        discount: γ, of the distances.
        min_ranking: lowest `ScreeningReport.ranking`. One below it counts if it is so by more than
            two standard errors of as many episodes.
        max_milliseconds: for one step of all environments.
        timeout_seconds: for all steps.
        allow_unsandboxed: see `Sandbox`.
    """
    options = {"timeout_seconds": timeout_seconds, "allow_unsandboxed": allow_unsandboxed}
    with contextlib.closing(Sandbox(program, ENTRY, **options)) as reward:  # type: ignore[arg-type]
        try:
            values, seconds, problems = _probe(reward, transitions.fields)
        except ProgramError as error:
            return ScreeningReport((str(error),), {})
        milliseconds = 1000 * seconds / len(transitions.reward)
        if milliseconds > max_milliseconds:
            problems.append(
                f"a step of {transitions.reward.shape[1]} environments takes {milliseconds:.2g} "
                f"milliseconds, expected at most {max_milliseconds:g}"
            )
        if program.features:
            problems += _check_features(program, transitions, options)
        valid = transitions.valid
        components = {
            name: (float(value[valid].min()), float(value[valid].mean()), float(value[valid].max()))
            for name, value in zip(reward.outputs, values, strict=True)
        }
        problems += _check_ranges(program, components)
        factors = np.array([(weights or {}).get(name, 1.0) for name in reward.outputs])
        total = np.tensordot(factors, values.astype(np.float64), 1)
        constant = float(total[valid][0]) if np.ptp(total[valid]) == 0 else None
        if constant is not None and (constant != 0 or (transitions.success == 1).any()):
            problems.append(
                f"the reward is {constant:g} in all {int(valid.sum()):,} recorded transitions"
            )
        found = _rank(transitions, total, min_ranking, problems)
        try:
            circle = circle_return(reward, transitions, total, factors)
        except ProgramError as error:
            problems.append(f"in a recorded circle: {error}")
            circle = None
    success_return = found["success_return"]
    if circle is not None and success_return is not None and circle > success_return:
        problems.append(
            f"going in a circle until the time limit returns {circle:.3g}, more than succeeding "
            f"with {success_return:.3g}"
        )
    return ScreeningReport(
        tuple(problems),
        components,
        milliseconds,
        circle_return=circle,
        **found,  # type: ignore[arg-type]
        **_distances(transitions, total, discount),  # type: ignore[arg-type]
    )


def _probe(execution: Execution, fields: Arrays) -> tuple[np.ndarray, float, list[str]]:
    """Run a function several times: its values, the seconds that it took, and what is wrong.

    Raises:
        ProgramError: if it fails.
    """
    problems = []
    name = execution.entry
    values, memory = execution.run_unclipped(fields, {})
    began = time.perf_counter()
    again, memory_again = execution.run_unclipped(fields, {})
    seconds = time.perf_counter() - began
    if not np.array_equal(values, again) or not _same(memory, memory_again):
        problems.append(f"{name} returns other values when it is called again with the same")
        return values, seconds, problems
    execution.close()  # a new process hashes texts in another order
    half = slice(None, None, -2)
    part = {key: np.ascontiguousarray(field[:, half]) for key, field in fields.items()}
    other, _ = execution.run_unclipped(part, {})
    if not np.allclose(values[:, :, half], other, _RELATIVE, _ABSOLUTE):
        problems.append(
            f"{name} returns other values in a new process with half of the environments, turned "
            "around: the values of an environment must depend on its own row alone"
        )
    return values, seconds, problems


def _same(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name], equal_nan=True) for name in first
    )


def _check_features(
    program: RewardProgram, transitions: Recording, options: Mapping[str, float]
) -> list[str]:
    """Return the problems of a program's features."""
    fields = {k: v for k, v in transitions.fields.items() if k.startswith("obs/")}
    fields |= {f"info/{name}": field for name, field in transitions.info.items()}
    fields |= {name: transitions.fields[name] for name in ("is_first", "valid")}
    with contextlib.closing(Sandbox(program, FEATURES_ENTRY, **options)) as features:  # type: ignore[arg-type]
        try:
            values, _, problems = _probe(features, fields)
        except ProgramError as error:
            return [str(error)]
    row = 0
    for name, feature in program.features.items():
        found = values[row : row + feature.width][:, transitions.valid]
        problems += _beyond(f"feature {name}", found.min(), found.max(), feature.low, feature.high)
        row += feature.width
    return problems


def _check_ranges(
    program: RewardProgram, components: Mapping[str, tuple[float, float, float]]
) -> list[str]:
    problems = []
    for name, (low, high) in program.ranges.items():
        lowest, _, highest = components[name]
        problems += _beyond(f"component {name}", lowest, highest, low, high)
    return problems


def _beyond(what: str, lowest: float, highest: float, low: float, high: float) -> list[str]:
    slack = 1e-5 * max(abs(low), abs(high), 1e-3)  # for rounding
    if low - slack <= lowest and highest <= high + slack:
        return []
    return [
        f"{what} has values from {lowest:.4g} to {highest:.4g}, declared are {low:g} to {high:g}"
    ]


def _rank(
    transitions: Recording, total: np.ndarray, min_ranking: float, problems: list[str]
) -> dict[str, float | int | None]:
    """Compare returns of successes and failures; adds to `problems`."""
    returns = transitions.episode_sums(total).round(6)
    won, lost = returns[transitions.success == 1], np.sort(returns[transitions.success == 0])
    found: dict[str, float | int | None] = {"successes": len(won), "failures": len(lost)}
    found |= {"ranking": None, "success_return": None}
    if len(won):
        whole = transitions.episode_sums(total + transitions.reward)
        found["success_return"] = float(whole[transitions.success == 1].mean())
    if len(won) and len(lost):
        below = np.searchsorted(lost, won, "left") + np.searchsorted(lost, won, "right")
        found["ranking"] = ranking = float(below.mean() / (2 * len(lost)))
        doubt = ((len(won) + len(lost) + 1) / (12 * len(won) * len(lost))) ** 0.5
        if ranking + 2 * doubt < min_ranking:  # the standard error of Mann and Whitney 1947
            problems.append(
                f"recorded successes have a higher return than failures in {ranking:.0%} of pairs, "
                f"expected at least {min_ranking:.0%}: means are {won.mean():.3g} and "
                f"{lost.mean():.3g}"
            )
    return found


def _distances(
    transitions: Recording, total: np.ndarray, discount: float
) -> dict[str, float | None]:
    """Estimate the distances of the program's reward to the environment's, and their noise."""
    valid = transitions.valid
    sparse = transitions.reward[valid].astype(np.float64)
    if np.ptp(sparse) == 0:
        return {}
    x, y = _state_numbers(transitions)
    goes_on = ~transitions.terminated[valid][:, None]
    g = np.random.default_rng(0)
    size = min(_NUM_FEATURES, len(x) // 8)
    features, after = _fourier(x, y, size, g)
    after = after * goes_on
    potential, next_potential = (z.sum(1) for z in _fourier(x, y, 8, g))
    next_potential = next_potential * goes_on[:, 0]
    estimates = {}
    for name, estimate in (("starc", sampled_starc), ("epic", sampled_epic)):

        def distance(pair, estimate=estimate):
            return estimate(pair, features, after, discount)

        estimates[name] = distance((total[valid], sparse))
        estimates[f"{name}_noise"] = noise_floor(
            distance, sparse, potential, next_potential, discount
        )
    return estimates


def _state_numbers(transitions: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of states and successors that differ between states, standardised: two of [B, D]."""
    valid = transitions.valid
    before, after = (
        np.concatenate(
            [x[valid].reshape(int(valid.sum()), -1).astype(np.float64) for x in fields], 1
        )
        for fields in transitions.states()
    )
    spread = before.std(0)
    used = np.flatnonzero(spread > 0)
    if len(used) > _LARGEST_STATE:
        used = np.random.default_rng(0).choice(used, _LARGEST_STATE, replace=False)
    mean, spread = before.mean(0)[used], spread[used]
    return (before[:, used] - mean) / spread, (after[:, used] - mean) / spread


def _fourier(
    x: np.ndarray, y: np.ndarray, size: int, g: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random Fourier features of states and successors, and a constant: two of [B, size + 1]."""
    D = x.shape[1]
    directions = g.normal(size=(D, size)) / max(D, 1) ** 0.5
    phases = g.uniform(0, 2 * np.pi, size)
    first, second = (
        np.concatenate([np.cos(z @ directions + phases), np.ones((len(z), 1))], 1) for z in (x, y)
    )
    return first, second
