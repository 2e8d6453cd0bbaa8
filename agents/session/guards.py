"""Roll back updates that are not finite or do not fit into memory, and count them."""

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

MAX_FAILURES = 5
"""Skipped updates, without an iteration that skips none in between, after which a run ends."""

log = logging.getLogger(__name__)


class UpdateGuard:
    """Counts updates that are skipped because something is not finite.

    Attributes:
        skipped: updates skipped since the run began.
        in_a_row: updates skipped since the last iteration that skipped none.
    """

    def __init__(self) -> None:
        self.skipped, self.in_a_row, self._failed = 0, 0, False

    def record_failure(self, error: NonFiniteError, step: int) -> None:
        """Count a skipped update and log its cause.

        Raises:
            NonFiniteError: with the cause, if it is the fifth without an iteration in between that
                skipped none.
        """
        self.skipped, self._failed = self.skipped + 1, True
        self.in_a_row += 1
        log.warning("skipped an update at step %s: %s", f"{step:,}", error)
        if self.in_a_row >= MAX_FAILURES:
            raise NonFiniteError(f"{error}; {MAX_FAILURES} updates in a row were skipped")

    def end_iteration(self) -> None:
        """Reset the count of failures in a row if the iteration had none."""
        if not self._failed:
            self.in_a_row = 0
        self._failed = False


def check_state(name: str, state: Any, *, infinite: bool = False) -> None:
    """Raise NonFiniteError if a nested state holds a NaN or, unless `infinite`, an infinite number.

    Raises:
        NonFiniteError: naming the first such tensor.
    """
    for path, tensor in _tensors(state, name):
        if not tensor.is_floating_point():
            continue
        if bool(tensor.isnan().any() if infinite else ~torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{path} holds a {'NaN' if infinite else 'number not finite'}")


@contextmanager
def rollback_on_failure(learner: Learner) -> Iterator[None]:
    """Restore the learner's previous state if its update is not finite or memory runs out."""
    before = copy.deepcopy(learner.state_dict())
    try:
        yield
        check_state("learner", learner.state_dict())
    except Exception as error:
        if isinstance(error, NonFiniteError) or is_out_of_memory(error):
            learner.load_state_dict(before)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of a GPU or of the machine, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _tensors(state: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in `state` with its dotted path."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for key, item in state.items():
            yield from _tensors(item, f"{path}.{key}")
    elif isinstance(state, list | tuple):
        for i, item in enumerate(state):
            yield from _tensors(item, f"{path}.{i}")
