"""Updates that are not made: what is not finite, or not in memory, leaves no trace."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from firstlight.envs.finite import NonFiniteError

STRIKES = 5
"""Updates that may be skipped in a row before a run gives up."""

log = logging.getLogger(__name__)


class Guard:
    """Counts updates that were skipped because something was not finite.

    Attributes:
        skipped: so far.
        in_a_row: of the last ones.
    """

    def __init__(self) -> None:
        self.skipped, self.in_a_row = 0, 0

    def passed(self) -> None:
        """An update was made."""
        self.in_a_row = 0

    def strike(self, error: NonFiniteError, step: int) -> None:
        """An update was skipped.

        Raises:
            NonFiniteError: with the last one's source, when it is the fifth in a row.
        """
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        log.warning("skipped an update at step %s: %s", f"{step:,}", error)
        if self.in_a_row >= STRIKES:
            raise NonFiniteError(f"{error}; {STRIKES} updates in a row were skipped")


def check_state(name: str, state: Any) -> None:
    """Refuse a nested state that holds a NaN.

    Raises:
        NonFiniteError: naming the first tensor that does.
    """
    for path, tensor in _tensors(state, name):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise NonFiniteError(f"{path} holds a NaN")


def copied(state: Any) -> Any:
    """A nested state with tensors of its own."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: copied(item) for key, item in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(item) for item in state)
    return state


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of a GPU or of the machine, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _tensors(state: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in `state`, with its dotted path."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for key, item in state.items():
            yield from _tensors(item, f"{path}.{key}")
    elif isinstance(state, list | tuple):
        for i, item in enumerate(state):
            yield from _tensors(item, f"{path}.{i}")
