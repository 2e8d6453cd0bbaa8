"""How a run ends: finished, failed or interrupted, in its status file and as an exit status."""

import json
import signal

import pytest
from command_line import command

from firstlight.scripts import train


def test_a_run_that_fails_records_the_error(empty, user_module):
    with pytest.raises(RuntimeError, match="stopped"):
        command(train.main, f"env._target_={user_module}.Fails", "run_dir=run")
    status = json.loads((empty / "run/status.json").read_text())
    assert (status["status"], status["error"]) == ("failed", "RuntimeError: stopped")


@pytest.mark.parametrize("how", ["Interrupted", "Signalled"])
def test_an_interrupted_run_reports_it_once(empty, user_module, how):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = command(train.main, f"env._target_={user_module}.{how}", "run_dir=run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.status == 130
    assert [line for line in done.lines() if "steps" not in line] == ["firstlight: interrupted"]
    assert json.loads((empty / "run/status.json").read_text())["status"] == "interrupted"
