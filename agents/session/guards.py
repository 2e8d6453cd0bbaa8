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
        if not tensor.is_floating_point() or torch.isfinite(tensor.sum()):
            continue  # a sum of finite numbers may be infinite, but not the other way round
        if bool(tensor.isnan().any() if infinite else ~torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{path} holds a {'NaN' if infinite else 'number not finite'}")


class Rollback:
    """Restores a learner's previous state if an update is not finite or memory runs out.

    The state is copied into the memory of the copy before.

    Args:
        learner: whose `state_dict` is kept.
    """

    def __init__(self, learner: Learner):
        self.learner = learner
        self._before: dict[str, Any] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Make an update inside."""
        self._before = copied(self.learner.state_dict(), self._before)
        try:
            yield
            check_state("learner", self.learner.state_dict())
        except Exception as error:
            if isinstance(error, NonFiniteError) or is_out_of_memory(error):
                self.learner.load_state_dict(self._before)
                self._before = {}  # its tensors may be the learner's now
            raise


def copied(state: Any, old: Any = None) -> Any:
    """Return a deep copy of a nested state.

    Args:
        state: dicts, lists and tuples of tensors and of anything else.
        old: an earlier copy, whose tensors are overwritten where device, dtype and shape fit.
    """
    if isinstance(state, Tensor):
        if isinstance(old, Tensor) and _is_alike(state, old):
            return old.copy_(state)
        return state.detach().clone()
    if isinstance(state, Mapping):
        before = old if isinstance(old, Mapping) else {}
        return {key: copied(item, before.get(key)) for key, item in state.items()}
    if type(state) in (list, tuple):
        same = isinstance(old, list | tuple) and len(old) == len(state)
        pairs = zip(state, old if same else [None] * len(state), strict=True)
        return type(state)(copied(item, before) for item, before in pairs)
    return copy.deepcopy(state)


def _is_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


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
