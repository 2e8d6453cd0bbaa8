"""A run from its first iteration to its last: which signals end it, and what the world is told."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from firstlight.agents.session.guards import is_out_of_memory
from firstlight.agents.session.signals import Signals

if TYPE_CHECKING:
    from firstlight.agents.trainer import Trainer


@contextmanager
def lifetime(run: Trainer) -> Iterator[Callable[[], None]]:
    """While inside, `run` is running; however it ends, ``status.json`` says so.

    Gives a function to call after each iteration: if a signal has come, it saves and does what the
    signal asks for. An error that means "out of memory" saves the run first, and leaves as a
    MemoryError if torch has no better name for it.
    """
    ended: str | None = None

    def tell(status: str, error: str | None = None) -> None:
        if run.dir is not None:
            mode = "barrier" if run.barrier else run.runner.resume
            run.dir.status(status, run.steps, error, mode)

    def heed() -> None:
        nonlocal ended
        if signals.received is None:
            return
        run.save()
        ended = signal.Signals(signals.received).name
        tell("interrupted", ended)
        signals.obey()
        ended = None  # whoever was told wants it to go on
        tell("running")

    try:
        with Signals() as signals:
            tell("running")
            yield heed
            tell("finished")
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        why = ended or f"{type(error).__name__}: {error}"
        tell("interrupted" if interrupted else "failed", why)
        if is_out_of_memory(error):
            run.save()
            if not isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise MemoryError(str(error)) from error  # torch has no name for it on the CPU
        raise
    finally:
        if run.dir is not None:
            run.dir.close()
