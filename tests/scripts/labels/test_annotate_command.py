"""``firstlight-annotate``: what it lists, exports, asks again, and takes from a person."""

import io
import json
import re
from unittest import mock

import pytest
from command_line import command
from llm_server import Server, status

from firstlight.intrinsic.language.store import Label, LabelStore
from firstlight.scripts import annotate

KEY, BALL, ODD = ("picked up the red key",), ("dropped the red ball",), ("sang a song",)
PAIR = ("opened the red door", "picked up the red key")


@pytest.fixture
def path(tmp_path):
    store = LabelStore(tmp_path / "labels.sqlite")
    store.put(
        [
            Label(KEY, 0.9, "judge", "aaaa", time=1.0),
            Label(BALL, 0.8, "judge", "aaaa", time=2.0),
            Label(ODD, None, "judge", "aaaa", time=3.0),
            Label(KEY, 0.3, "other", "bbbb", time=4.0),
            Label(PAIR, 0.0, "other", "cccc", time=5.0),
        ]
    )
    store.close()
    return tmp_path / "labels.sqlite"


def run(*words):
    return command(annotate.main, *map(str, words))


def labels(path):
    store = LabelStore(path)
    found = {(label.item, label.model): label.score for label in store.labels()}
    store.close()
    return found


def test_show_counts_by_judge_prompt_and_label(path):
    done = run("show", path)
    assert done.status == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert ["judge", "aaaa", "helpful", "2"] in rows
    assert ["judge", "aaaa", "unclear", "1"] in rows
    assert ["other", "bbbb", "unhelpful", "1"] in rows
    assert ["other", "cccc", "first", "1"] in rows
    assert rows[-1][:4] == ["5", "of", "5", "labels;"]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["text=RED"], 4),
        (["text=key", "model=judge"], 1),
        (["label=helpful"], 2),
        (["label=unclear"], 1),
        (["label=first"], 1),
        (["prompt=aa"], 3),
        (["model=person"], 0),
        (["text=%"], 0),
        (["limit=2"], 5),
    ],
    ids=str,
)
def test_show_lists_what_a_filter_chooses(path, words, count):
    assert f" of {count} labels" in run("show", path, *words).out


def test_the_folder_of_a_run_stands_for_its_store(path):
    assert run("show", path.parent).out == run("show", path).out
    (path.parent / "run").mkdir()
    config = f"intrinsic: {{oni: {{store: {path}}}}}"
    (path.parent / "run/config.yaml").write_text(config)
    assert run("show", path.parent / "run").out == run("show", path).out


def test_a_text_cannot_control_the_terminal(path):
    store = LabelStore(path)
    store.put([Label(("\x1b[2J\x07[red]gone[/red]",), 1.0, "judge")])
    store.close()
    out = run("show", path).out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]gone[/red]" in out


def test_export_and_import_are_inverse_and_an_import_makes_a_store(path, tmp_path):
    assert run("export", path, tmp_path / "out.jsonl").out.startswith("wrote 5 labels")
    assert run("import", tmp_path / "new.sqlite", tmp_path / "out.jsonl").status == 0
    assert labels(tmp_path / "new.sqlite") == labels(path)
    (tmp_path / "out.jsonl").write_text("no label\n")
    done = run("import", tmp_path / "other.sqlite", tmp_path / "out.jsonl")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "line 1 is no label" in done.err


def test_relabelling_asks_for_what_was_chosen_and_leaves_the_rest(path):
    before = labels(path)
    done = run("relabel", path, "judge=rule", "family=minigrid", "text=ball", "model=judge")
    assert done.status == 0, done.err
    assert labels(path) == {**before, (BALL, "rules"): 0.0}
    run("relabel", path, "judge=rule", "family=minigrid")
    after = labels(path)
    assert after[KEY, "rules"] == 1.0
    assert after[PAIR, "rules"] == 0.5  # the rules call both helpful
    assert {key: after[key] for key in before} == before


def test_relabelling_replaces_the_answers_of_the_same_judge(path):
    server = Server()
    words = ("relabel", path, "judge=llm", "family=minigrid", f"url={server.url}", "llm=m")
    server.content = lambda body: json.dumps(dict.fromkeys(ids(body), "DAX"))
    assert (
        run(*words, "label=helpful").out
        == "m labelled 2 texts: 2 for the first time, 0 otherwise than before\n"
    )
    server.content = lambda body: json.dumps(dict.fromkeys(ids(body), "WUG"))
    assert run(*words, "model=m").out.endswith(" 0 for the first time, 2 otherwise than before\n")
    server.close()
    assert labels(path)[KEY, "m"] == 0.0


def ids(body):
    data = body["messages"][-1]["content"].partition("<data>\n")[2].partition("\n</data>")[0]
    return [json.loads(line)["id"] for line in data.splitlines()]


def test_a_judge_that_fails_costs_no_label(path):
    server = Server([status(401)])
    before = labels(path)
    words = ("judge=llm", "family=minigrid", f"url={server.url}", "llm=m", "label=helpful")
    done = run("relabel", path, *words)
    server.close()
    assert done.status == 1
    assert "status 401" in done.err
    assert labels(path) == before


def test_a_run_names_its_family_and_no_address(path):
    run_dir = path.parent
    (run_dir / "config.yaml").write_text(
        "env: {_target_: firstlight.envs.minigrid.make}\n"
        "intrinsic: {oni: {judge: llm, url: 'http://127.0.0.1:9/v1', llm: m, store: null}}\n"
    )
    done = run("relabel", run_dir, "judge=rule", "text=ball")
    assert done.status == 0, done.err
    assert labels(path)[BALL, "rules"] == 0.0
    assert "needs a judge" in run("relabel", run_dir).err


def answered(path, answers, *words):
    with mock.patch("sys.stdin", io.StringIO("\n".join(answers) + "\n")):
        return run("correct", path, *words)


def test_a_person_answers_in_the_terminal_and_doubtful_texts_come_first(path):
    done = answered(path, ["h", "q"])
    assert done.status == 0
    assert labels(path)[ODD, "person"] == 1.0  # the judge had abstained
    done = answered(path, ["1", "x", "b", "t", "s", "u"])  # and the input ends
    assert "'x' is no answer here" in done.out
    first = next(line for line in done.out.splitlines() if line.startswith("1 of 4"))
    assert "other: unhelpful (0.30)" in first
    found = {item: score for (item, model), score in labels(path).items() if model == "person"}
    assert KEY not in found


def test_back_goes_to_the_text_before(path):
    done = answered(path, ["s", "b", "n", "q"], "label=helpful")
    asked = [line[0] for line in done.out.splitlines() if line.startswith(("1 of", "2 of"))]
    assert asked == ["1", "2", "1", "2"]
    found = {item: score for (item, model), score in labels(path).items() if model == "person"}
    assert found == {BALL: 0.0}


def test_the_page_prints_its_address_and_ctrl_c_ends_it(path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("firstlight.scripts.labels.page.LabelServer.serve_forever", interrupted)
    done = run("page", path)
    assert done.status == 0
    assert re.match(r"open http://127\.0\.0\.1:\d+/[\w-]{32,}/\n", done.out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sho"], "did you mean 'show'"),
        (["show"], "takes STORE"),
        (["export", "STORE"], "takes STORE FILE"),
        (["show", "nowhere"], "neither a label store nor a run directory"),
        (["show", "FOLDER"], "has no label store"),
        (["show", "TEXT"], "is no label store"),
        (["show", "STORE", "label=helpf"], "did you mean 'helpful'"),
        (["show", "STORE", "order=oldest"], "order=oldest is unknown"),
        (["show", "STORE", "limit=0"], "expected a whole number"),
        (["import", "STORE", "nowhere"], "there is no file nowhere"),
        (["relabel", "STORE", "judge=rule"], "which texts are these"),
        (["relabel", "STORE", "judge=rules", "family=minigrid"], "did you mean 'rule'"),
        (["relabel", "STORE", "judge=rule", "family=chess"], "no rules for 'chess'"),
        (["page", "STORE", "port=70000"], "port=70000 cannot be used"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(path, words, message):
    (path.parent / "folder").mkdir()
    (path.parent / "text").write_text("no database, " * 100)
    places = {"STORE": path, "FOLDER": path.parent / "folder", "TEXT": path.parent / "text"}
    done = run(*(places.get(word, word) for word in words))
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
