"""Write files atomically, and JSON without NaN."""

import json
import math

import numpy as np
import pytest

from firstlight.agents.session.run_directory import files


def test_json_is_strict_and_survives_a_round_trip(tmp_path):
    path = tmp_path / "value.json"
    value = {"nan": math.nan, "inf": [np.float32(np.inf), 1.5], "n": np.int64(3), "text": "ü"}
    files.write_json(path, value)

    def forbid(name):
        raise AssertionError(name)

    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=forbid)
    assert read == {"nan": None, "inf": [None, 1.5], "n": 3, "text": "ü"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "value.txt"
    files.write_text(path, "old")

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["value.txt"]


def test_a_value_that_is_not_json_raises_before_writing(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "value.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []
