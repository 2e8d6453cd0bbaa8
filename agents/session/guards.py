"""Updates that are not made: what is not finite, or not in memory, leaves no trace."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from firstlight.envs.finite import NonFiniteError

if TYPE_CHECKING:
    from firstlight.agents.learner import Learner

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
        self.skipped, self.in_a_row, self._struck = 0, 0, False

    def settle(self) -> None:
        """An iteration is over."""
        if not self._struck:
            self.in_a_row = 0
        self._struck = False

    def strike(self, error: NonFiniteError, step: int) -> None:
        """An update was skipped.

        Raises:
            NonFiniteError: with the last one's source, when it is the fifth in a row.
        """
        self.skipped, self._struck = self.skipped + 1, True
        self.in_a_row += 1
        log.warning("skipped an update at step %s: %s", f"{step:,}", error)
        if self.in_a_row >= STRIKES:
            raise NonFiniteError(f"{error}; {STRIKES} updates in a row were skipped")


def check_state(name: str, state: Any, *, infinite: bool = False) -> None:
    """Refuse a nested state that holds a NaN, or what is infinite unless that may be.

    Raises:
        NonFiniteError: naming the first tensor that does.
    """
    for path, tensor in _tensors(state, name):
        if not tensor.is_floating_point():
            continue
        if bool(tensor.isnan().any() if infinite else ~torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{path} holds a {'NaN' if infinite else 'number not finite'}")


@contextmanager
def whole(learner: Learner) -> Iterator[None]:
    """Inside, an update is made as a whole or not at all, memory and finite numbers permitting."""
    before = copy.deepcopy(learner.state_dict())
    try:
        yield
        check_state("learner", learner.state_dict())
    except Exception as error:
        if isinstance(error, NonFiniteError) or is_out_of_memory(error):
            learner.load_state_dict(before)
        raise


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
