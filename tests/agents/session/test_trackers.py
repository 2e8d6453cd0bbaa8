"""A tracker receives what a run logs, and can neither stop nor delay it."""

import json
import logging
import threading

import numpy as np
import pytest
from small_trainer import N, T, make_trainer

from firstlight.agents.session.trackers import Tracker
from firstlight.agents.session.trackers.background import BackgroundTracker
from firstlight.agents.session.trackers.base import identity, require

STEPS = 3 * N * T
TIMES = {"perf/", "time"}  # differ between two runs


class Recording(Tracker):
    """Stores its calls; raises in the method `fails`, and waits in `log` for `gate` if there is."""

    def __init__(self, fails=None, error=None, gate=None):
        self.fails, self.error, self.gate = fails, error, gate
        self.calls, self.threads = [], set()

    def _add(self, *call):
        self.threads.add(threading.current_thread())
        if call[0] == self.fails:
            raise self.error
        self.calls.append(call)

    def open(self, run_dir, step):
        self._add("open", run_dir, step)

    def log(self, step, metrics):
        if self.gate is not None:
            self.gate.wait(30)
        self._add("log", step, metrics)

    def picture(self, step, name, pixels):
        self._add("picture", step, name, pixels.shape)

    def close(self, status):
        self._add("close", status)


def run_of(path, *trackers, steps=STEPS, callbacks=(), **options):
    trainer = make_trainer(run_dir=path, **options)
    for tracker in trackers:
        trainer.session.directory.track(tracker)
    trainer.run(steps, callbacks)
    return trainer


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_it_receives_what_the_files_do(tmp_path):
    tracker = Recording()

    def draw(session, metrics):
        session.directory.picture(session.steps, "visits", np.zeros((4, 5, 3), np.uint8))

    run_of(tmp_path / "run", tracker, callbacks=[draw])
    assert tracker.calls[0] == ("open", tmp_path / "run", 0)
    assert tracker.calls[-1] == ("close", "finished")
    written = [
        {tag: v for tag, v in line.items() if tag != "time" and v is not None}
        for line in lines(tmp_path / "run")
    ]
    found = [call for call in tracker.calls if call[0] == "log"]
    logged = [{"step": step, **metrics} for _, step, metrics in found]
    assert logged == written
    assert len(logged) == 3
    pictures = [call for call in tracker.calls if call[0] == "picture"]
    assert pictures == [("picture", line["step"], "visits", (4, 5, 3)) for line in written]
    assert threading.main_thread() not in tracker.threads


@pytest.mark.parametrize("fails", ["open", "log", "close"])
@pytest.mark.parametrize("error", [RuntimeError("the server\nis away"), SystemExit(1)])
def test_a_tracker_that_fails_is_switched_off_and_the_run_goes_on(fails, error, tmp_path, caplog):
    broken, sound = Recording(fails, error), Recording()
    run_of(tmp_path / "tracked", broken, sound)
    run_of(tmp_path / "plain")
    assert json.loads((tmp_path / "tracked/status.json").read_text())["status"] == "finished"
    pair = [
        [{k: v for k, v in line.items() if not k.startswith(tuple(TIMES))} for line in lines(path)]
        for path in (tmp_path / "tracked", tmp_path / "plain")
    ]
    assert pair[0] == pair[1]
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [m for m in warned if "Recording is switched off" in m and type(error).__name__ in m]
    assert len(warned) == 1
    kinds = [call[0] for call in broken.calls]
    assert kinds == ["open", "log", "log", "log"][: {"open": 0, "log": 1, "close": 4}[fails]]
    assert sound.calls[-1] == ("close", "finished")


def test_a_tracker_that_hangs_delays_nothing(caplog):
    gate = threading.Event()
    tracker = Recording(gate=gate)
    thread = BackgroundTracker(tracker, room=2, patience_seconds=0.05)
    thread.open("run", 0)
    for step in range(50):
        thread.log(step, {"a": 1.0})
    thread.close("finished")
    assert 46 <= thread.dropped <= 49  # two wait, one is under way, one may be its opening
    assert thread.is_off
    gate.set()


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    tracker = Recording()
    thread = BackgroundTracker(tracker)
    thread.open(tmp_path, 7)
    thread.log(8, {"a": float("nan"), "b": np.float32(2), "c": float("inf")})
    thread.close("failed")
    assert tracker.calls == [("open", tmp_path, 7), ("log", 8, {"b": 2.0}), ("close", "failed")]


def test_a_resumed_run_says_where_it_goes_on(tmp_path):
    first, second = Recording(), Recording()
    steps = run_of(tmp_path / "run", first, steps=N * T).session.steps
    run_of(tmp_path / "run", second, resume=True)
    assert second.calls[0] == ("open", tmp_path / "run", steps)
    found = [call[1] for call in (*first.calls, *second.calls) if call[0] == "log"]
    assert found == [line["step"] for line in lines(tmp_path / "run")]


def test_the_end_of_a_run_that_fails_is_named(tmp_path):
    tracker = Recording()

    def fail(session, metrics):
        raise KeyError("own mistake")

    with pytest.raises(KeyError):
        run_of(tmp_path / "run", tracker, callbacks=[fail])
    assert tracker.calls[-1] == ("close", "failed")


def test_an_identity_is_made_once(tmp_path):
    assert identity(tmp_path, "one", lambda: "a") == "a"
    assert identity(tmp_path, "two", lambda: "b") == "b"
    assert identity(tmp_path, "one", lambda: "c") == "a"


def test_a_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"no_such_tracker is not installed: pip install"):
        require("no_such_tracker")
