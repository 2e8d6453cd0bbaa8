"""The progress display: plain lines in a log, one updated line on a terminal."""

import io
from types import SimpleNamespace

import pytest

from firstlight.agents.session import progress
from firstlight.agents.session.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def metrics(mean=0.25):
    return {"perf/steps_per_second": 100.0, "rollout/return_mean": mean}


def test_plain_lines_appear_every_ten_seconds_and_at_the_end(clock):
    stream = io.StringIO()
    shown = Progress(1000, stream)
    for i in range(50):  # one second each
        shown(SimpleNamespace(steps=20 * i), metrics())
        clock.seconds += 1
    assert len(stream.getvalue().splitlines()) == 5
    shown(SimpleNamespace(steps=1000), metrics(0.75))
    shown.close()
    shown.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("0 of 1,000 steps · 100/s · return 0.25")
    assert lines[-1] == "1,000 of 1,000 steps · 100/s · return 0.75"
    assert "\x1b" not in stream.getvalue()


def test_an_interrupted_run_shows_its_last_step(clock):
    stream = io.StringIO()
    shown = Progress(1000, stream)
    for steps in (10, 20):
        shown(SimpleNamespace(steps=steps), {})
    shown.close()
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["10", "20"]


def test_a_terminal_shows_a_live_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    stream = Terminal()
    shown = Progress(1000, stream)
    shown(SimpleNamespace(steps=500), metrics() | {"rollout/success_rate": 0.5})
    shown.close()
    shown.close()
    assert "500 of 1,000 steps" in stream.getvalue()
    assert "success 50%" in stream.getvalue()
    assert "0:00:05 left" in stream.getvalue()


def test_without_an_iteration_nothing_is_printed():
    stream = io.StringIO()
    Progress(10, stream).close()
    assert stream.getvalue() == ""
