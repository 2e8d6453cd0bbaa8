"""A run from its first iteration to its last: which signals end it, and what the world is told."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from firstlight.agents.guards import is_out_of_memory
from firstlight.agents.signals import Signals

if TYPE_CHECKING:
    from firstlight.agents.trainer import Trainer


class Lifetime:
    """While inside, a run is running; however it ends, ``status.json`` says so.

    An error that means "out of memory" saves the run first, and leaves as a MemoryError if torch
    has no better name for it.

    Args:
        run: with its directory, if it has one.
    """

    def __init__(self, run: Trainer):
        self.run, self._signals, self._ended = run, Signals(), ""

    def __enter__(self) -> Lifetime:
        self._signals.__enter__()
        self._tell("running")
        return self

    def heed(self) -> None:
        """After an iteration: if a signal has come, save and do what it asks for."""
        if self._signals.received is None:
            return
        self.run.save()
        self._ended = signal.Signals(self._signals.received).name
        self._tell("interrupted", self._ended)
        self._signals.obey()
        self._ended = ""  # whoever was told wants it to go on
        self._tell("running")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._tell("finished")
            self._signals.__exit__(kind, error, trace)
            if error is not None:
                self._fail(error)
        finally:
            if self.run.dir is not None:
                self.run.dir.close()

    def _fail(self, error: BaseException) -> None:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        why = self._ended or f"{type(error).__name__}: {error}"
        self._tell("interrupted" if interrupted else "failed", why)
        if is_out_of_memory(error):
            self.run.save()
            if not isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise MemoryError(str(error)) from error  # torch has no name for it on the CPU

    def _tell(self, status: str, error: str | None = None) -> None:
        run = self.run
        if run.dir is not None:
            mode = "barrier" if run.barrier else run.runner.resume
            run.dir.status(status, run.steps, error, mode)
