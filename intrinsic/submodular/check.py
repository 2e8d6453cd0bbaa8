"""`check_set_function`, which searches counterexamples to monotonicity and submodularity."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from firstlight.envs.seeding import generator
from firstlight.intrinsic.submodular.base import SetFunction
from firstlight.intrinsic.submodular.callable_set_function import CallableSetFunction, plain


def check_set_function(
    function: SetFunction | Callable[[list[Any]], float],
    items: Tensor,
    *,
    trials: int = 300,
    size: int = 6,
    monotone: bool = True,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Check a set function on random sets, on a copy of it.

    Each trial draws a set B, a subset A, and another item x, all from `items` without repeats, and
    checks that adding x to A gains no less than adding it to B (diminishing returns, which is
    submodularity); with `monotone`, that no gain is negative; and that the order of B does not
    matter. For a `SetFunction` also that `gain` changes nothing and agrees with `add`, that
    environments are independent, and that `reset` empties the sets. Passing is no proof, but a
    function that is far from submodular rarely passes.

    Args:
        function: a `SetFunction`, or a plain function of a list of items, see
            `CallableSetFunction`.
        items: [P, *item], at least 2, to draw sets from.
        trials: number of sets.
        size: maximum size of B.
        monotone: whether the function should be monotone.
        tolerance: of all comparisons.
        seed: of the draws.

    Raises:
        AssertionError: one sentence with the first counterexample.
        ValueError: for fewer than 2 items.

    >>> check_set_function(lambda cells: min(3.0, len(cells)), torch.arange(8))
    >>> check_set_function(lambda cells: len(cells) ** 2, torch.arange(8), size=1)
    Traceback (most recent call last):
    AssertionError: not submodular: 3 adds 1 to [], but 3 to [1]
    """
    if len(items) < 2:
        raise ValueError(f"there are {len(items)} items, expected at least 2")
    if not isinstance(function, SetFunction):
        shape = tuple(items.shape[1:])
        floats = items.is_floating_point()
        function = CallableSetFunction(function, item_shape=shape, floats=floats)
    function = copy.deepcopy(function)
    numbers = generator(seed, "check set function")
    for _ in range(trials):
        _Trial(function, items, size, tolerance, numbers).check(monotone)


class _Trial:
    """Sets A within B, and an item x; environment 0 holds A and environment 1 holds B."""

    def __init__(
        self,
        function: SetFunction,
        items: Tensor,
        size: int,
        tolerance: float,
        numbers: torch.Generator,
    ):
        self.function, self.tolerance = function, tolerance
        order = torch.randperm(len(items), generator=numbers)
        most = min(size, len(items) - 1)
        count = int(torch.randint(1, most + 1, (), generator=numbers))
        self.x, self.b = items[order[0]], items[order[1 : count + 1]]
        self.inside = torch.rand(count, generator=numbers) < 0.5
        self.inside[int(torch.randint(count, (), generator=numbers))] = False  # A is not B
        self.shuffled = self.b[torch.randperm(count, generator=numbers)]

    def check(self, monotone: bool) -> None:
        self.function.reset()
        gains: dict[int, list[float]] = {0: [], 1: []}
        for item, inside in zip(self.b, self.inside.tolist(), strict=True):
            for env in (0, 1) if inside else (1,):
                gains[env].append(self._add(item, env))
        a = self.b[self.inside]
        predicted = self.function.gain(torch.stack([self.x, self.x]), torch.tensor([0, 1]))
        to_a, to_b = self._add(self.x, 0), self._add(self.x, 1)
        x, small, large = _text(self.x), _texts(a), _texts(self.b)
        one, other = self._alone(self.b), self._alone(self.shuffled)
        self._require(
            abs(sum(gains[1]) - one) <= self.tolerance,
            f"environments are not independent, or reset does not empty sets: F of {large} is "
            f"{sum(gains[1]):.6g} beside another set, but {one:.6g} alone",
        )
        self._require(
            to_a >= to_b - self.tolerance,
            f"not submodular: {x} adds {to_a:.6g} to {small}, but {to_b:.6g} to {large}",
        )
        if monotone:
            for whole, got in ((a, [*gains[0], to_a]), (self.b, [*gains[1], to_b])):
                sequence = [*whole, self.x]
                for place, gain in enumerate(got):
                    self._require(
                        gain >= -self.tolerance,
                        f"not monotone: {_text(sequence[place])} adds {gain:.6g} to "
                        f"{_texts(sequence[:place])}",
                    )
        self._require(
            abs(one - other) <= self.tolerance,
            f"order matters: F of {large} is {one:.6g}, of {_texts(self.shuffled)} {other:.6g}",
        )
        close = abs(float(predicted[0]) - to_a) + abs(float(predicted[1]) - to_b) <= self.tolerance
        sentence = f"gain of {x} is {predicted.tolist()}, but add returns {[to_a, to_b]}"
        self._require(close, sentence)

    def _add(self, item: Tensor, env: int) -> float:
        return float(self.function.add(item[None], torch.tensor([env])))

    def _alone(self, items: Tensor) -> float:
        """F of `items` [L, *item], added to the empty set."""
        self.function.reset()
        return sum(self._add(item, 1) for item in items)

    def _require(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise AssertionError(sentence)


def _text(item: Any) -> str:
    return str(plain(item))


def _texts(items: Any) -> str:
    return f"[{', '.join(map(_text, items))}]"
