"""Sentences as integer ids, and text as bytes."""

import json

import pytest

from firstlight.envs.text import TextTable, encode_text


def test_a_sentence_keeps_its_id():
    table = TextTable()
    assert table.intern("") == 0
    first = [table.intern(text) for text in ("b", "a", "b", "ä→", "a")]
    assert first == [1, 2, 1, 3, 2]
    assert [table.text(i) for i in range(len(table))] == ["", "b", "a", "ä→"]
    for missing in (-1, 4):
        with pytest.raises(IndexError, match=f"no text {missing}"):
            table.text(missing)


def test_a_table_is_saved_and_loaded(tmp_path):
    table = TextTable(["opened the red door", "ä→", 'said "no"'])
    table.save(tmp_path / "texts.json")
    again = TextTable.load(tmp_path / "texts.json")
    assert json.loads((tmp_path / "texts.json").read_text()) == table.state_dict()["texts"]
    assert [again.text(i) for i in range(len(again))] == [table.text(i) for i in range(len(table))]
    assert again.intern("new") == len(table)
    other = TextTable(["something else"])
    other.load_state_dict(table.state_dict())
    assert other.state_dict() == table.state_dict()


def test_encode_text_pads_and_cuts():
    assert bytes(encode_text("abc", 5)) == b"abc\0\0"
    assert bytes(encode_text("abcdef", 4)) == b"abcd"
