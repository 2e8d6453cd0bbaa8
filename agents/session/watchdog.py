"""Watchdog for stages that stall: shows the stack of every thread, and marks ``status.json``."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from firstlight.agents.session.stage_timers import SHARED_BYTES, OpenStage, StageTimers
from firstlight.envs.vector.pool_memory import FileHandle, memfd

REPORTER = Path(__file__).with_name("stall_reporter.py")
REPORTER_AFTER = 5.0
"""Seconds after which a run gets a reporter process; shorter runs do without."""
PATIENCE = 5.0
"""Seconds that the run waits at most for the watchdog's thread and process to end."""
TICK = 1.0
"""Longest time between two looks at the stage, in seconds."""


class Watchdog:
    """Reports stages that last long. The run itself continues, whatever happens here.

    Inside a ``with``, a daemon thread looks at the stage. Where it lasts longer than `stall_after`
    seconds, the thread prints the stack of every thread to standard error, again and again while
    the stage lasts. It reads the stacks while it holds the GIL: `faulthandler`'s timer does not,
    and crashes the process when it meets a frame that is changing.

    Native code that holds the GIL silences this thread too. A small process (`stall_reporter`)
    notices that; it keeps `stage` and `stalled` in ``status.json``, and is the only writer of these
    fields while a stage lasts. Its end is waited for before the run writes a status of its own.

    Args:
        stage: the timers of the run.
        stall_after: seconds; None or 0 starts no thread.
        run_dir: where ``status.json`` lies; None starts no process.
    """

    def __init__(
        self, stage: StageTimers, stall_after: float | None, run_dir: Path | str | None = None
    ):
        self.stall_after = stall_after or 0.0
        self._stage, self._run_dir = stage, None if run_dir is None else Path(run_dir).absolute()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._reporter: Reporter | None = None
        self._shared: FileHandle | None = None
        self._reporter_failed = self._run_dir is None or not REPORTER.is_file()
        self._run_thread, self._began = 0, 0.0
        self._seen: OpenStage | None = None
        self._due = 0.0

    def __enter__(self) -> Watchdog:
        if self.stall_after > 0:
            self._ended = threading.Event()
            self._run_thread, self._began = threading.get_ident(), time.perf_counter()
            self._thread = threading.Thread(
                target=self._watch, args=[self._ended], name="firstlight-watchdog", daemon=True
            )
            _running.add(self)
            with contextlib.suppress(RuntimeError, OSError):  # no more threads: do without
                self._share_stage()
                self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(PATIENCE)
        self._thread = None  # it may hang in a write, and does nothing more when it comes back
        with self.reporter_stopped():
            self._close_shared()
            _running.discard(self)

    def look(self) -> None:
        """Print stacks if it is time, and send a heartbeat."""
        stage, now = self._stage.current, time.perf_counter()
        if stage is not self._seen:
            self._seen = stage
            self._due = now if stage is None else stage.since + self.stall_after
        stalled = stage is not None and now - stage.since >= self.stall_after
        self._send(b"stalled\n" if stalled else b"alive\n", now)
        if stage is not None and now >= self._due:
            where = "" if self._run_dir is None else f" of the run in {self._run_dir}"
            write_to_stderr(
                f"\nfirstlight: stage {stage.name!r}{where} has lasted {now - stage.began:.3g} s, "
                f"longer than stall_after={self.stall_after:g}. The run continues. "
                f"Stacks of all threads:\n{format_stacks(self._run_thread)}"
            )
            self._due = time.perf_counter() + self.stall_after

    @property
    def reporter_pid(self) -> int | None:
        """Process id of the reporter, None while there is none."""
        reporter = self._reporter
        return None if reporter is None else reporter.process.pid

    @contextlib.contextmanager
    def reporter_stopped(self) -> Iterator[None]:
        """Run without the reporter inside, so that ``status.json`` has a single writer."""
        lock = self._lock
        locked = lock.acquire(timeout=PATIENCE)
        try:
            if self._reporter is not None:
                self._reporter.stop()
                self._reporter = None
            yield
        finally:
            if locked:
                lock.release()

    def forget(self) -> None:
        """Drop what a forked process inherits from its parent: it has no watchdog of its own."""
        if self._reporter is not None:
            self._reporter.forget()
        self._reporter = self._thread = None
        self._close_shared()
        self._lock, self._ended = threading.Lock(), threading.Event()  # may have been held

    def _share_stage(self) -> None:
        """Let the reporter read the stage's name."""
        if self._run_dir is not None:
            self._shared = memfd()
            os.write(self._shared.fd, bytes(SHARED_BYTES))
            self._stage.shared = mmap(self._shared.fd, SHARED_BYTES)

    def _close_shared(self) -> None:
        self._stage.shared = None
        if self._shared is not None:
            self._shared.close()
        self._shared = None

    def _watch(self, ended: threading.Event) -> None:
        tick = min(TICK, self.stall_after / 4)
        while not ended.wait(tick):
            with contextlib.suppress(Exception):
                self.look()

    def _send(self, beat: bytes, now: float) -> None:
        """Send a heartbeat; start the reporter first if the run is old enough."""
        old_enough = now - self._began >= min(REPORTER_AFTER, self.stall_after)
        if self._reporter_failed or not old_enough or not self._lock.acquire(blocking=False):
            return
        try:
            if self._shared is None or self._thread is not threading.current_thread():
                return  # the run has ended
            if self._reporter is None:
                status = f"{self._run_dir}/status.json"
                self._reporter = Reporter(status, self.stall_after, self._shared.fd)
            self._reporter.send(beat)
        except (OSError, ValueError, subprocess.SubprocessError):
            self._reporter_failed = True  # ended by somebody, or not to be started
        finally:
            self._lock.release()


class Reporter:
    """The process `stall_reporter`, with a pipe for heartbeats.

    Args:
        path: of ``status.json``.
        stall_after: seconds without a heartbeat after which the run has stalled.
        stage: descriptor of a file with the name of the run's stage.

    Raises:
        OSError: if the process cannot be started.
    """

    def __init__(self, path: str, stall_after: float, stage: int):
        argv = [path, str(stall_after), str(stage), str(os.getpid())]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", REPORTER, *argv],
            bufsize=0,
            pass_fds=[stage],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal does not reach it
        )
        assert self.process.stdin is not None
        self._pipe = self.process.stdin
        os.set_blocking(self._pipe.fileno(), False)

    def send(self, beat: bytes) -> None:
        """Send a heartbeat, a line.

        Raises:
            OSError: if the process has ended.
        """
        with contextlib.suppress(BlockingIOError):  # the pipe is full: the process does not run
            os.write(self._pipe.fileno(), beat)

    def stop(self) -> None:
        """End the process and wait for its end."""
        with contextlib.suppress(OSError):
            os.write(self._pipe.fileno(), b"end\n")  # a forked process may hold the pipe open
        with contextlib.suppress(OSError):
            self._pipe.close()
        for end in (lambda: None, self.process.kill):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
                return

    def forget(self) -> None:
        """Close the pipe to the reporter in a forked process; the parent process keeps using it."""
        with contextlib.suppress(OSError):
            self._pipe.close()
        self.process.returncode = 0  # nothing to wait for


def format_stacks(run_thread: int = 0) -> str:
    """Return the stacks of all threads but the calling one, as text without source lines.

    No file is read: where the file system is what stalls, that would stall as well.

    Args:
        run_thread: identifier of a thread that is called the run's and comes last.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    # a frame keeps its variables alive, so all are let go before the text is made
    stacks = {thread: list(_walk(frame)) for thread, frame in frames.items()}
    frames.clear()
    parts = []
    for thread in sorted(stacks, key=lambda thread: thread == run_thread):
        of_run = ", the run's" if thread == run_thread else ""
        parts.append(f"Thread {thread} ({names.get(thread, 'not of Python')}{of_run}):\n")
        parts += traceback.StackSummary.from_list(stacks[thread][::-1]).format()
    return "".join(parts)


def _walk(frame: FrameType | None) -> Iterator[traceback.FrameSummary]:
    """Yield the frames from the innermost outwards."""
    while frame is not None:
        code = frame.f_code
        yield traceback.FrameSummary(
            code.co_filename, frame.f_lineno, code.co_name, lookup_line=False, line=""
        )
        frame = frame.f_back


def write_to_stderr(text: str) -> None:
    """Write to the standard error that the process began with, if it can be written to.

    Not by `print`: a daemon thread that holds the lock of a buffered file while the interpreter
    ends is a fatal error. What nobody reads, such as a terminal that is paused, is given up.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None
        descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        data = text.encode(errors="backslashreplace")
        while data and poll.poll(1000):
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


_running: set[Watchdog] = set()
"""Watchdogs whose thread runs."""


def _forget_all() -> None:
    for watchdog in tuple(_running):
        watchdog.forget()
    _running.clear()


os.register_at_fork(after_in_child=_forget_all)
