"""A watchdog reports stages that stall, and disturbs neither the run nor its surroundings."""

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import fork, has_ended, wait_for_output, wait_until
from small_trainer import make_trainer

from firstlight.agents.session.run_directory.status import Status, read_status, write_status
from firstlight.agents.session.stage_timers import OpenStage, StageTimers
from firstlight.agents.session.stall_reporter import StatusFile
from firstlight.agents.session.watchdog import Watchdog, format_stacks, write_to_stderr

ENDLESS = 10**9
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Printed:
    """What the watchdogs have printed so far."""

    def __init__(self, capfd):
        self._capfd, self.text, self._lock = capfd, "", threading.Lock()

    def read(self):
        with self._lock:  # threads that read at once must not lose what the other one read
            self.text += self._capfd.readouterr().err
            return self.text

    def wait_for(self, text, times=1):
        wait_until(lambda: self.read().count(text) >= times)


@pytest.fixture
def printed(capfd):
    return Printed(capfd)


def wait_here(until):
    until()
    return True


def wait_for_status(run_dir, holds):
    """Wait for a status of which `holds` is true, and return it."""
    found = []

    def has_come():
        found.append(read_status(run_dir))
        return found[-1] is not None and holds(found[-1])

    wait_until(has_come)
    return found[-1]


def test_a_stage_that_stalls_shows_all_stacks_again_and_again(printed, tmp_path):
    headline = f"firstlight: stage 'stalls' of the run in {tmp_path} has lasted "

    def stalls(run, metrics):
        return wait_here(lambda: printed.wait_for(headline, times=3))

    trainer = make_trainer(stall_after=0.05, run_dir=tmp_path)
    trainer.run(ENDLESS, [stalls])
    rest, stacks = printed.text.split(headline)[1].split("Stacks of all threads:\n")
    assert rest.endswith(" s, longer than stall_after=0.05. The run continues. ")
    assert "(MainThread, the run's):" in stacks
    assert "in wait_here\n" in stacks
    assert "in _watch\n" not in stacks
    assert read_status(tmp_path) == Status("finished", trainer.session.steps, resume="state")


def test_runs_within_runs_and_in_other_threads_report_their_own_stages(printed, tmp_path):
    folders = [tmp_path / name for name in ("outer", "inner", "thread")]
    outer, inner, other = (make_trainer(stall_after=0.05, run_dir=f) for f in folders)

    stages = dict(zip(folders, ("trains", "stalls", "stalls"), strict=True))

    def stalls(run, metrics):
        for folder, stage in stages.items():
            printed.wait_for(f"stage '{stage}' of the run in {folder} has lasted", times=2)
        return True

    def trains(run, metrics):
        inner.run(ENDLESS, [stalls])
        return True

    thread = threading.Thread(target=other.run, args=[ENDLESS, [stalls]])
    thread.start()
    outer.run(ENDLESS, [trains])
    thread.join()
    assert {read_status(folder).status for folder in folders} == {"finished"}


def test_only_the_innermost_stage_counts_and_only_since_a_stage_in_it_ended(printed):
    stage, now = StageTimers(), time.perf_counter()
    watchdog = Watchdog(stage, stall_after=1000)
    stage.current = OpenStage("outer", now - 5000, since=now - 5000)
    with stage("inner"):
        watchdog.look()
    watchdog.look()
    assert stage.current.name == "outer"
    assert printed.read() == ""
    stage.current = OpenStage("outer", now - 5000, since=now - 2000)
    watchdog.look()
    assert "stage 'outer' has lasted 5e+03 s" in printed.read()
    watchdog.look()  # due again after another 1000 s
    assert printed.read().count("Stacks of all threads") == 1
    stage.current = None
    watchdog.look()
    assert printed.read().count("Stacks of all threads") == 1


@pytest.mark.parametrize("stall_after", [None, 0])
def test_without_stall_after_there_is_no_thread(stall_after, tmp_path):
    names = set()
    trainer = make_trainer(stall_after=stall_after)
    trainer.run(1, [lambda run, metrics: names.update(t.name for t in threading.enumerate())])
    assert "firstlight-watchdog" not in names


def test_a_run_leaves_no_thread_and_no_process_also_after_an_error(printed, tmp_path):
    before, pids = threading.active_count(), []

    def fails(run, metrics):
        wait_until(lambda: run.watchdog.reporter_pid)
        pids.append(run.watchdog.reporter_pid)
        raise OSError("as if")

    trainer = make_trainer(stall_after=0.05, run_dir=tmp_path)
    with pytest.raises(OSError, match="as if"):
        trainer.run(ENDLESS, [fails])
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert threading.active_count() == before
    found = read_status(tmp_path)
    assert (found.status, found.stage, found.stalled) == ("failed", None, False)


def test_a_stall_is_in_the_status_while_it_lasts_and_other_fields_stay(printed, tmp_path):
    seen = []

    def stalls(run, metrics):
        seen.append(wait_for_status(tmp_path, lambda found: found.stage == "stalls"))

    def goes_on(run, metrics):
        while read_status(tmp_path).stalled:
            with run.stage("short"):
                time.sleep(0.01)
        return True

    make_trainer(stall_after=0.5, run_dir=tmp_path).run(ENDLESS, [stalls, goes_on])
    assert seen == [Status("running", 0, resume="state", stage="stalls", stalled=True)]
    assert not list(tmp_path.glob(".*.tmp"))


@linux
def test_the_reporter_has_no_descriptors_of_the_run_and_a_session_of_its_own(printed, tmp_path):
    read, write = os.pipe()
    os.set_inheritable(write, True)

    def looks(run, metrics):
        wait_until(lambda: run.watchdog.reporter_pid)
        pid = run.watchdog.reporter_pid
        wait_until(lambda: os.readlink(f"/proc/{pid}/cwd") == "/")
        found = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in ("0", "1", "2")}
        assert found["1"] == found["2"] == os.devnull
        assert found["0"].startswith("pipe:")
        links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists()]
        assert os.readlink(f"/proc/self/fd/{write}") not in links
        assert os.getsid(pid) == pid
        return True

    make_trainer(stall_after=0.05, run_dir=tmp_path).run(ENDLESS, [looks])
    os.close(read)
    os.close(write)


def test_a_forked_process_has_no_watchdog(printed, tmp_path):
    stage = StageTimers()
    with Watchdog(stage, 0.05, tmp_path) as watchdog:
        wait_until(lambda: watchdog.reporter_pid)
        pid = os.fork()
        if pid == 0:
            ended = watchdog.reporter_pid is None and threading.active_count() == 1
            with stage("stage"), watchdog.reporter_stopped():
                pass
            watchdog.__exit__(None, None, None)
            os._exit(0 if ended else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with stage("stage"):  # in the parent it goes on
            printed.wait_for("Stacks of all threads")
        os.kill(watchdog.reporter_pid, 0)


def closed_file():
    file = io.TextIOWrapper(io.BytesIO())
    file.close()
    return file


def unread_pipe():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def paused_pipe(keep=[]):  # noqa: B006
    read, write = os.pipe()
    keep.append(os.fdopen(read))
    os.set_blocking(write, False)
    while True:
        try:
            os.write(write, bytes(1 << 16))
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    return os.fdopen(write, "w")


@pytest.mark.parametrize(
    "make",
    [lambda: None, closed_file, io.StringIO, unread_pipe, paused_pipe],
    ids=["none", "closed", "string", "unread", "paused"],
)
def test_an_output_that_cannot_be_written_to_does_no_harm(make, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "__stderr__", make())
        write_to_stderr("text")


def test_a_failing_watchdog_does_not_end_the_run(monkeypatch):
    looks = []

    def look(self):
        looks.append(self)
        raise MemoryError

    monkeypatch.setattr(Watchdog, "look", look)
    trainer = make_trainer(stall_after=0.05)
    trainer.run(ENDLESS, [lambda run, metrics: wait_here(lambda: wait_until(lambda: looks[1:]))])
    assert trainer.session.stopping


def test_stacks_of_a_deep_recursion_are_abbreviated():
    def recurse(depth):
        return recurse(depth - 1) if depth else entered.set() or left.wait()

    entered, left = threading.Event(), threading.Event()
    thread = threading.Thread(target=recurse, args=[500], name="deep")
    thread.start()
    entered.wait()
    text = format_stacks(thread.ident)
    left.set()
    thread.join()
    assert f"Thread {thread.ident} (deep, the run's):" in text
    assert "[Previous line repeated 49" in text


@pytest.mark.parametrize("at_last", ["is_current", "changed", "ended", "damaged", "missing"])
def test_a_newer_status_is_never_overwritten(at_last, tmp_path):
    path = tmp_path / "status.json"
    if at_last != "missing":
        write_status(tmp_path, "finished" if at_last == "ended" else "running", 5, resume="state")
    if at_last == "damaged":
        path.write_text("{")

    def is_current():
        if at_last == "changed":  # the run writes while the replacement is being written
            write_status(tmp_path, "finished", 9)
        return at_last != "is_current"

    before = path.read_bytes() if path.exists() else None
    assert not StatusFile(str(path)).mark("collect", True, is_current)
    if at_last == "changed":
        assert read_status(tmp_path) == Status("finished", 9)
    else:
        assert (path.read_bytes() if path.exists() else None) == before
    assert {p.name for p in tmp_path.iterdir()} <= {"status.json"}


def test_a_mark_keeps_fields_that_the_reporter_does_not_know(tmp_path):
    path = tmp_path / "status.json"
    path.write_text('{"status": "running", "step": 3, "later": [1]}')
    assert StatusFile(str(path)).mark("collect", True, lambda: True)
    kept = {"status": "running", "step": 3, "later": [1]}
    assert json.loads(path.read_text()) == {**kept, "stage": "collect", "stalled": True}


SCRIPT = """
import ctypes, faulthandler, os, select, sys, time
from small_trainer import make_trainer

def hold(run, metrics):
    "Hold the GIL until somebody writes to a named pipe."
    if run.watchdog.reporter_pid is None or run.steps > 10**8:
        return
    run.steps = 10**8 + 1  # once
    print("reporter", run.watchdog.reporter_pid, flush=True)
    descriptor = os.open(sys.argv[2], os.O_RDWR)
    ctypes.PyDLL(None).read(descriptor, ctypes.create_string_buffer(1), 1)

def train_and_hold():
    make_trainer(run_dir=sys.argv[1], stall_after=0.5).run(10**9, [hold])

def sleep(run, metrics):
    while run.watchdog.reporter_pid is None:
        time.sleep(0.01)
    if os.fork():
        print("reporter", run.watchdog.reporter_pid, flush=True)
    time.sleep(1000)

def train_fork_and_sleep():
    make_trainer(run_dir=sys.argv[1], stall_after=0.5).run(10**9, [sleep])

def train_beside_a_timer():
    read, write = os.pipe()

    def fires():
        came, _, _ = select.select([read], [], [], 60)
        return bool(came and os.read(read, 1 << 16))

    def waits(run, metrics):
        print("in the run:", fires() and fires(), flush=True)
        return True

    trainer = make_trainer(stall_after=3600)
    # only while this thread waits: a dump of frames that change may end the process
    faulthandler.dump_traceback_later(1, repeat=True, file=write)
    trainer.run(10**9, [waits])
    found = fires()
    faulthandler.cancel_dump_traceback_later()
    print("after the run:", found, flush=True)
"""


@pytest.fixture
def started(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    os.mkfifo(tmp_path / "fifo")
    begun = []

    def begin(function):
        path = [tmp_path, Path(__file__).parents[2] / "helpers"]
        argv = [tmp_path / "run", tmp_path / "fifo"]
        begun.append(fork(f"script:{function}", *argv, path=path))
        return begun[-1]

    yield begin
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def reporter_of(process):
    """Wait until a process has printed the id of its reporter, and return it."""
    return int(wait_for_output(process, "reporter ").split("reporter ")[1].split()[0])


def test_native_code_that_holds_the_gil_is_reported_while_it_lasts(started, tmp_path):
    process, run_dir = started("train_and_hold"), tmp_path / "run"
    reporter_of(process)
    found = wait_for_status(run_dir, lambda found: found.stage == "hold")
    assert found == Status("running", 0, resume="state", stage="hold", stalled=True)
    (tmp_path / "fifo").write_text("x")
    found = wait_for_status(run_dir, lambda found: not found.stalled)
    assert found == Status("running", 0, resume="state")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 143, out
    assert read_status(run_dir).status == "interrupted"
    assert not read_status(run_dir).stalled
    assert not list(run_dir.glob(".*.tmp"))


@linux
@pytest.mark.parametrize("function", ["train_and_hold", "train_fork_and_sleep"])
def test_the_reporter_ends_when_its_run_is_killed(function, started, tmp_path):
    process = started(function)
    reporter = reporter_of(process)
    process.kill()
    process.wait()
    wait_until(lambda: has_ended(reporter))
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_timer_of_the_user_is_not_disturbed(started):
    out, _ = started("train_beside_a_timer").communicate()
    assert out.splitlines() == ["in the run: True", "after the run: True"]
