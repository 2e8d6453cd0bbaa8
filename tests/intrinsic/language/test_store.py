"""The label store: precedence, claims between processes, and what survives SIGKILL."""

import json
import os
import signal
import socket
import sqlite3
import time
from pathlib import Path

import label_writers
import pytest
from processes import fork

from firstlight.intrinsic.language.store import Label, LabelStore

HELPERS = Path(label_writers.__file__).parent


def start(function, *args):
    return fork(f"label_writers:{function}", *args, path=[HELPERS])


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    made = LabelStore(None if request.param == "memory" else tmp_path / "sub/labels.sqlite")
    yield made
    made.close()


def test_labels_are_found_by_item_model_and_prompt(store):
    one, pair = ("a\n'quoted' ☃",), ("a", "b")
    store.put([Label(one, 0.25, "judge", "p"), Label(pair, None, "judge", "p")])
    assert store.find([one, pair, ("b",)], "judge", "p") == {one: 0.25, pair: None}
    assert store.find([one, pair], "judge", "another prompt") == {}
    assert store.find([one, pair], "another judge", "p") == {}


def test_a_persons_label_wins_whatever_a_judge_says_later(store):
    item = ("picked up the key",)
    store.put([Label(item, 0.0, "judge", "p")])
    store.correct(item, 1.0)
    store.put([Label(item, 0.0, "judge", "p")])
    assert store.find([item], "judge", "p") == {item: 1.0}
    assert store.find([item], "never asked", "q") == {item: 1.0}
    store.forget([item])
    assert store.find([item], "judge", "p") == {item: 1.0}


def test_forgetting_a_label_asks_again(store):
    item = ("dropped the ball",)
    store.put([Label(item, 0.0, "judge", "p")])
    assert store.claim([item], "judge", "p") == []
    store.forget([item])
    assert store.claim([item], "judge", "p") == [item]


def test_an_abstention_is_not_asked_again(store):
    item = ("something odd",)
    store.put([Label(item, None, "judge", "p")])
    assert store.claim([item, ("new",)], "judge", "p") == [("new",)]


def test_a_claim_is_exclusive_until_released_or_over(tmp_path):
    one, two = LabelStore(tmp_path / "labels"), LabelStore(tmp_path / "labels")
    items = [("a",), ("b",), ("a",)]
    assert one.claim(items, "judge", "p") == [("a",), ("b",)]
    assert one.claim(items, "judge", "p") == [("a",), ("b",)]  # its own
    assert two.claim(items, "judge", "p") == []
    assert two.claim(items, "judge", "q") == [("a",), ("b",)]  # another prompt
    two.release(items, "judge", "p")  # not its own
    assert two.claim(items, "judge", "p") == []
    one.release([("a",)], "judge", "p")
    assert two.claim(items, "judge", "p") == [("a",)]
    assert one.claim([("c",)], "judge", "p", seconds=-1.0) == [("c",)]
    assert two.claim([("c",)], "judge", "p") == [("c",)]


def test_two_processes_ask_for_nothing_twice(tmp_path):
    begin = tmp_path / "begin"
    processes = [start("ask", tmp_path / "labels", begin) for _ in range(2)]
    begin.touch()  # both have opened the file, or will in a moment
    asked = [int(process.communicate()[0]) for process in processes]
    assert sum(asked) == 300
    store = LabelStore(tmp_path / "labels")
    assert len(list(store.labels())) == 300


def test_what_was_written_survives_sigkill_and_claims_of_the_dead_end(tmp_path):
    path = tmp_path / "labels"
    process = start("write", path, 600.0)
    written = -1
    while written < 50:
        written = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    written = int(rest[-1]) if rest else written
    store = LabelStore(path)
    kept = {label.item[0] for label in store.labels()}
    assert {f"text {i}" for i in range(written + 1)} <= kept
    assert store.claim([("never answered",)], "judge", "p") == [("never answered",)]
    check = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
    assert check == ("ok",)


def test_a_claim_of_a_process_that_lives_holds_and_one_of_another_machine_too(tmp_path):
    store, items = LabelStore(tmp_path / "labels"), [("a",), ("b",), ("c",)]
    now = time.time()
    here = socket.gethostname()
    owners = (f"{here}:{os.getppid()}:x", "another machine:1:x", "1234")
    claims = [
        (json.dumps(item), "judge", "p", x, now + 60) for item, x in zip(items, owners, strict=True)
    ]
    other = sqlite3.connect(tmp_path / "labels")
    other.executemany("INSERT INTO claims VALUES (?, ?, ?, ?, ?)", claims)
    other.commit()
    other.close()
    assert store.claim([*items, ("d",)], "judge", "p") == [("d",)]


def test_a_person_may_say_that_a_text_does_not_tell_and_take_a_label_back(store):
    item = ("something odd",)
    store.put([Label(item, 1.0, "judge", "p")])
    store.correct(item, None)
    assert store.find([item], "judge", "p") == {item: None}
    assert store.find_of_judge([item], "judge", "p") == {item: 1.0}
    assert store.corrections() == {item: None}
    store.withdraw(item)
    assert store.find([item], "judge", "p") == {item: 1.0}
    assert store.corrections() == {}
    assert store.has(item)
    assert not store.has(("never seen",))


def test_a_text_with_separators_of_lines_is_one_line(store, tmp_path):
    item = ("a\u2028b\x85c\nd",)
    store.put([Label(item, 1.0, "judge", time=1.0)])
    assert store.write_jsonl(tmp_path / "out.jsonl") == 1
    other = LabelStore()
    assert other.read_jsonl(tmp_path / "out.jsonl") == 1
    assert [label.item for label in other.labels()] == [item]


def test_export_and_import_are_inverse(store, tmp_path):
    store.put([Label(("a ☃",), 0.5, "judge", "p", 0.25, 12.0)])
    store.put([Label(("a", "b"), None, "judge", "p", 1.5, 13.0)])
    store.correct(("c",), 1.0)
    store.write_jsonl(tmp_path / "out.jsonl")
    other = LabelStore()
    other.read_jsonl(tmp_path / "out.jsonl")
    assert list(other.labels()) == list(store.labels())
    assert len(list(other.labels())) == 3


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        json.dumps({"item": ["a"], "score": 2.0, "model": "judge"}),
        json.dumps({"item": [1], "score": 1.0, "model": "judge"}),
        json.dumps({"item": ["a"], "score": 1.0, "model": "judge", "unknown": 1}),
    ],
)
def test_a_file_with_a_bad_line_is_refused_and_nothing_is_imported(tmp_path, line):
    good = Label(("a",), 1.0, "judge").to_json()
    (tmp_path / "in.jsonl").write_text(f"{good}\n{line}\n")
    store = LabelStore()
    with pytest.raises(ValueError, match="line 2 is no label"):
        store.read_jsonl(tmp_path / "in.jsonl")
    assert list(store.labels()) == []
