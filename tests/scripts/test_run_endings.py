"""How a run ends: finished, failed or interrupted, in its status file and as an exit status."""

import json
import signal

import pytest
from command_line import command

from firstlight.scripts import train


def test_a_run_whose_environment_fails_records_the_error(empty, user_module):
    done = command(train.main, f"env._target_={user_module}.Fails", "run_dir=run")
    assert done.status == 2
    sentence = "user_module.Fails raised RuntimeError: stopped (in step, "
    assert done.lines()[-1].startswith(f"firstlight: {sentence}")
    status = json.loads((empty / "run/status.json").read_text())
    assert status["status"] == "failed"
    assert status["error"].startswith(f"EnvironmentRaisedError: {sentence}")


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
