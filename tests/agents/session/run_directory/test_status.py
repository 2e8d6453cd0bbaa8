"""Write and read status.json."""

import json

import pytest

from firstlight.agents.session.run_directory.status import (
    STATUSES,
    Status,
    read_status,
    write_status,
)


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_survives_a_round_trip(tmp_path, status):
    write_status(tmp_path, "running", 0)
    write_status(tmp_path, status, 12, error="ValueError: no", resume="state")
    assert read_status(tmp_path) == Status(status, 12, "ValueError: no", "state")
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
    assert set(json.loads((tmp_path / "status.json").read_text())) == {
        "status",
        "step",
        "error",
        "resume",
        "stage",
        "stalled",
    }


def test_a_status_of_version_0_1_can_be_read(tmp_path):
    (tmp_path / "status.json").write_text('{"status": "running", "step": 3, "error": null}')
    assert read_status(tmp_path) == Status("running", 3, stage=None, stalled=False)


def test_invalid_statuses_raise_and_a_missing_one_is_none(tmp_path):
    assert read_status(tmp_path) is None
    with pytest.raises(ValueError, match="'done', expected one of running, finished"):
        write_status(tmp_path, "done", 1)
    assert read_status(tmp_path) is None
    for text in ("{", "[]", '{"status": "running"}', '{"status": "odd", "step": 1}'):
        (tmp_path / "status.json").write_text(text)
        with pytest.raises(ValueError, match=r"status\.json"):
            read_status(tmp_path)
