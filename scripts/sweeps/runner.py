"""Run trainings in processes of their own, several at a time.

Each training has a log, which is locked while it runs. Its process inherits the lock: if the sweep
is killed, the lock is held until the training has ended too, so that a second sweep never starts
the same run beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from types import FrameType
from typing import IO

TRAIN = (sys.executable, "-P", "-m", "firstlight.scripts.train")
"""``firstlight-train`` as a command of this Python."""

POLL_SECONDS = 0.1

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are passed on to the trainings, which then save and end."""


@dataclass(frozen=True)
class Training:
    """A training run that is to be started.

    Args:
        name: unique; also the name of its directory and its log.
        arguments: words of ``firstlight-train``.
        log: its output is appended here; locked.
        path: of the log.
    """

    name: str
    arguments: tuple[str, ...]
    log: IO[bytes]
    path: Path


@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Args:
        seconds: that its process took.
        error: sentence; None if it finished.
        output: end of its log, if it failed.
    """

    seconds: float
    error: str | None = None
    output: str = ""


class Work(ABC):
    """Trainings that are to be run, and what becomes of their results."""

    @abstractmethod
    def take(self) -> Training | None:
        """Return the next training; None if there is none now."""

    @abstractmethod
    def is_complete(self) -> bool:
        """Whether nothing is left to do, here or in another process that shares the work."""

    @abstractmethod
    def record(self, training: Training, ended: Ended) -> None:
        """Record the result of a training that finished, failed, or was stopped."""

    def should_stop(self, training: Training) -> bool:
        """Whether to stop a training that is running."""
        return False

    def close(self) -> None:  # noqa: B027
        """Release the locks that this process holds, at the end of `run`. Default: nothing."""


def lock(path: Path) -> IO[bytes] | None:
    """Open a file to append to it and lock it; None if another process has the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class TrainingProcess:
    """A training run in a process of its own, and in a session of its own.

    Ctrl-C in a terminal goes to all processes of the session; as the sweep passes it on, trainings
    would receive it twice and end without saving.
    """

    def __init__(self, training: Training):
        self.training = training
        self._log_size = training.log.seek(0, 2)
        self._began = time.perf_counter()
        self._process = Popen(
            [*TRAIN, *training.arguments],
            stdin=DEVNULL,
            stdout=training.log,
            stderr=STDOUT,
            start_new_session=True,
        )
        self._stopped = False

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """Ask the process to save and end; may be called again."""
        if not self._stopped:
            self._stopped = True
            self.send_signal(signal.SIGTERM)

    def poll(self) -> Ended | None:
        """Return how the training ended, None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        seconds = round(time.perf_counter() - self._began, 1)
        if status == 0:
            return Ended(seconds)
        with self.training.path.open("rb") as log:
            log.seek(self._log_size)
            output = log.read()[-4000:].decode(errors="replace")
        lines = output.split("\n")
        error = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if status < 0:
            error = f"killed by {signal.Signals(-status).name}"
        elif not error.startswith("firstlight: "):
            error = f"exit status {status}: {error}"
        return Ended(seconds, error.removeprefix("firstlight: "), output)

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()


def run(work: Work, jobs: int = 1, budget: float = math.inf) -> bool:
    """Run trainings until the work is complete or the budget is spent.

    A signal is passed on to the trainings; once they have saved and ended, this process ends too.

    Args:
        work: gives trainings and records them.
        jobs: number of trainings at a time.
        budget: seconds after which no further training is started.

    Returns:
        Whether the work is complete.

    Raises:
        SystemExit: with status 128 + the signal's number.
    """
    deadline = time.monotonic() + budget
    running: list[TrainingProcess] = []
    passed_on, waiting = 0, False
    with _record_signals() as received:
        try:
            while True:
                while len(running) < jobs and not received and time.monotonic() < deadline:
                    training = work.take()
                    if training is None:
                        break
                    running.append(TrainingProcess(training))
                if not running:
                    if received or time.monotonic() >= deadline or work.is_complete():
                        break
                    if not waiting:
                        waiting = True
                        print("waiting for trainings of another process", flush=True)
                for number in received[passed_on:]:
                    passed_on += 1
                    for process in running:
                        process.send_signal(number)
                running = [p for p in running if not _is_recorded(work, p, bool(received))]
                time.sleep(POLL_SECONDS)
        finally:  # after an error: none of them is left behind
            for process in running:
                process.stop()
            for process in running:
                process.wait()
                process.training.log.close()  # with its lock
            work.close()
    if received:
        sys.exit(128 + received[0])
    return work.is_complete()


def _is_recorded(work: Work, process: TrainingProcess, interrupted: bool) -> bool:
    """Record a training that has ended, unless a signal ended it. Returns whether it has ended."""
    ended = process.poll()
    if ended is None:
        if not interrupted and work.should_stop(process.training):
            process.stop()
        return False
    with process.training.log:
        if ended.error is None or not interrupted:
            work.record(process.training, ended)
    return True


@contextlib.contextmanager
def _record_signals() -> Iterator[list[int]]:
    """Give a list to which the numbers of `SIGNALS` that arrive are added."""
    received: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        received.append(number)

    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, record) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
