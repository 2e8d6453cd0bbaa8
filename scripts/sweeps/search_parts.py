"""What a search consists of: Optuna's samplers, pruners and ranges, by names in YAML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import hydra.utils
from hydra.errors import InstantiationException

from firstlight.scripts.errors import BadInputError, suggestion

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Domain = list[Any] | Mapping[str, Any]
"""Values of a parameter: a list of choices, or ``low`` and ``high`` with ``log`` or ``step``."""


def make_sampler(sampler: str | Mapping[str, Any], seed: int) -> BaseSampler:
    """Make a sampler.

    Args:
        sampler: a name, or an import path as ``{_target_: ...}``.
        seed: of its random numbers; not of one given by its path.

    Raises:
        BadInputError: for an unknown name.
    """
    from optuna import samplers

    known: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
        "grid": lambda: samplers.BruteForceSampler(seed=seed),
    }
    return _make("sampler", sampler, known)


def make_pruner(pruner: str | Mapping[str, Any], reports: int) -> BasePruner:
    """Make a pruner.

    Args:
        pruner: a name, or an import path as ``{_target_: ...}``.
        reports: of a trial that is not pruned.

    Raises:
        BadInputError: for an unknown name.
    """
    from optuna import pruners

    known: dict[str, Callable[[], BasePruner]] = {
        "median": pruners.MedianPruner,
        "hyperband": lambda: pruners.HyperbandPruner(max_resource=reports),
        "none": pruners.NopPruner,
    }
    return _make("pruner", pruner, known)


def suggest(trial: Trial, name: str, domain: Domain) -> Any:
    """Draw a value of a parameter, or return the value that the trial has.

    Whole numbers are drawn if both ends are whole numbers.
    """
    if isinstance(domain, list):
        return trial.suggest_categorical(name, domain)
    low, high, log = domain["low"], domain["high"], bool(domain.get("log", False))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, step=int(domain.get("step", 1)), log=log)
    return trial.suggest_float(name, low, high, step=domain.get("step"), log=log)


def num_trials(trials: int, sampler: Any, parameters: Mapping[str, Domain]) -> int:
    """Number of trials; a grid has no more than it has points.

    >>> num_trials(10, "grid", {"a": [1, 2], "b": {"low": 0.0, "high": 1.0, "step": 0.5}})
    6

    Raises:
        BadInputError: for a grid over a range without a step.
    """
    if sampler != "grid":
        return trials
    sizes = []
    for name, domain in parameters.items():
        if isinstance(domain, list):
            sizes.append(len(domain))
            continue
        whole = isinstance(domain["low"], int) and isinstance(domain["high"], int)
        step = domain.get("step", 1 if whole else None)
        if step is None or domain.get("log"):
            raise BadInputError(f"search.parameters.{name}: a grid needs a list, or a step")
        sizes.append(int((domain["high"] - domain["low"]) / step + 1e-9) + 1)
    return min(trials, math.prod(sizes))


def _make(what: str, value: str | Mapping[str, Any], known: Mapping[str, Callable[[], Any]]) -> Any:
    if not isinstance(value, str):
        try:
            return hydra.utils.instantiate(value)
        except InstantiationException as error:
            raise BadInputError(f"search.{what}: {error}") from error
    if value not in known:
        raise BadInputError(f"search.{what}: there is no {value!r}{suggestion(value, known)}")
    return known[value]()
