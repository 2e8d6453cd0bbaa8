"""``firstlight-sweep``: cells run once, several at a time, and go on after every kind of end."""

import json
import os
import signal
from pathlib import Path

import hydra
import pytest
import submitit
import trainings
from command_line import checked, command, contents
from processes import fork, wait_until
from trainings import AtOnce, InProcess

from firstlight.scripts import sweep, train
from firstlight.scripts.benchmarks.results import read_lines
from firstlight.scripts.sweeps import runner
from firstlight.scripts.sweeps.outcome import is_finished
from firstlight.scripts.sweeps.runner import Ended, lock
from firstlight.scripts.sweeps.table import cells_of, read_table

COMMON = (
    "common: [env=chain, env.length=3, env.num_envs=2, trainer.num_steps=8, eval_episodes=2,"
    " learner.num_epochs=1, num_threads=1, checkpoint.every=160]"
)
TABLE = f"""
{COMMON}
tasks:
  short: {{threshold: 0.5}}
methods:
  ppo: {{overrides: ["intrinsic=[]"]}}
  count: {{overrides: ["intrinsic=[count]"]}}
seeds: [0, 1]
cap: 32
"""
NAMES = ["short-count-s0-32", "short-count-s1-32", "short-ppo-s0-32", "short-ppo-s1-32"]
HELPERS = Path(trainings.__file__).parent


@pytest.fixture
def table(empty):
    """The path of a table of four cells, in the current folder."""
    path = empty / "mine.yaml"
    path.write_text(TABLE)
    return path


@pytest.fixture
def in_process(monkeypatch):
    """Trainings run in this process, which saves the start of one."""
    monkeypatch.setattr(runner, "TrainingProcess", InProcess)


def run(*words, status=0):
    return checked(sweep.main, *words, status=status)


def lines(folder):
    """Result lines without what depends on the time, ordered by cell."""
    found = read_lines(folder / "results.jsonl")
    timed = ("seconds", "wall_seconds", "commit")
    return sorted(json.dumps({k: v for k, v in e.items() if k not in timed}) for e in found)


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_cells_run_once_and_finished_ones_are_not_touched(table, empty, in_process):
    done = run("mine.yaml", "only=ppo")
    folder = empty / "runs" / "sweeps" / "mine"
    before = modified(folder)
    assert [path.name for path in sorted(folder.glob("short*"))] == NAMES[2:]
    assert "only=ppo" not in (folder / "results.jsonl").read_text()
    assert "3 of 4" not in done.out
    run("mine.yaml")
    after = modified(folder)
    assert {path.name for path in folder.glob("short*")} == {*NAMES}
    results = folder / "results.jsonl"
    assert {p: t for p, t in after.items() if p in before and p != results} == {
        p: t for p, t in before.items() if p != results
    }
    before = modified(folder)
    done = run("mine.yaml")
    assert modified(folder) == before
    assert done.out.count("eval ") == 0
    seeds = [(line["method"], line["seed"]) for line in read_lines(results)]
    assert seeds == [("ppo", 0), ("ppo", 1), ("count", 0), ("count", 1)]


def test_the_summary_has_median_range_and_interquartile_mean(table, empty, monkeypatch):
    returns = iter([0.0, 1.0, 2.0, 30.0])
    line = {"reached_at": 3, "seconds": 1, "threshold": 0.5, "eval_success": 0.5, "command": "x"}
    monkeypatch.setattr(runner, "TrainingProcess", AtOnce)
    monkeypatch.setattr(
        "firstlight.scripts.sweeps.cell_work.CellWork.result",
        lambda work, cell, *_: {
            **work._identity(cell),
            **line,
            "eval_return": next(returns),
        },
    )
    table.write_text(TABLE.replace("[0, 1]", "[0, 1, 2, 3]"))
    done = run("mine.yaml", "only=ppo")
    (row,) = [row for row in done.out.splitlines() if "│ short" in row]
    assert "1.500 (0.000 to 30.000)" in row  # median, range
    assert "1.500 (" in row.split("│")[6]  # the mean of 1 and 2
    assert "4 of 4: 3" in row
    assert "50%" in row


def test_a_cell_that_fails_is_recorded_and_tried_again(table, empty, in_process):
    broken = TABLE.replace('["intrinsic=[count]"]', "[intrinsic.nothing=3]")
    table.write_text(broken)
    done = run("mine.yaml", status=1)
    results = empty / "runs/sweeps/mine/results.jsonl"
    failed = [line for line in read_lines(results) if "error" in line]
    assert [(line["method"], line["seed"]) for line in failed] == [("count", 0), ("count", 1)]
    assert all("nothing" in line["error"] for line in failed)
    assert len(read_lines(results)) == 4
    assert "2 failed" in done.out
    assert done.out.count("failed: ") == 2
    table.write_text(TABLE)
    done = run("mine.yaml")
    assert "failed" not in done.out
    assert len([line for line in read_lines(results) if "error" not in line]) == 4


def test_a_finished_cell_with_other_options_now_is_refused(table, empty, in_process):
    run("mine.yaml", "only=ppo-s0")
    before = contents(empty / "runs")
    table.write_text(TABLE.replace('["intrinsic=[]"]', '["intrinsic=[]", learner.lr=0.01]'))
    done = run("mine.yaml", status=2)
    (line,) = done.lines()
    assert line.startswith("firstlight: short-ppo-s0-32 was run with other options: ")
    assert contents(empty / "runs") == before


def test_a_run_that_finished_without_its_line_gets_it_and_is_not_touched(table, empty, in_process):
    run("mine.yaml", "only=ppo-s0")
    folder = empty / "runs/sweeps/mine"
    expected = lines(folder)
    (folder / "results.jsonl").unlink()
    before = modified(folder / "short-ppo-s0-32")
    run("mine.yaml", "only=ppo-s0")
    assert lines(folder) == expected
    assert modified(folder / "short-ppo-s0-32") == before


def test_a_cell_of_another_process_is_waited_for_and_not_run_twice(table, empty, monkeypatch):
    """The other holds its log's lock; here it ends with a result while this one waits."""
    folder = empty / "runs/sweeps/mine"
    held = [lock(folder / "logs" / f"{NAMES[2]}.log")]
    assert lock(folder / "logs" / f"{NAMES[2]}.log") is None
    shown = []
    monkeypatch.setattr(runner, "TrainingProcess", lambda _: pytest.fail("it was started"))

    def end(*_):
        shown.append(True)
        identity = {"task": "short", "method": "ppo", "seed": 0, "cap": 32, "threshold": None}
        line = {**identity, "eval_return": 0, "eval_success": None, "reached_at": 0, "seconds": 1}
        (folder / "results.jsonl").write_text(json.dumps(line) + "\n")
        held.pop().close()

    monkeypatch.setattr(runner.time, "sleep", lambda _: end() if held else None)
    done = run("mine.yaml", "only=ppo-s0")
    assert shown == [True]
    assert "waiting for trainings of another process" in done.out


def test_two_at_a_time_do_not_write_into_each_other(table, empty):
    """And give what they give one after another."""
    begun = []

    class Watched(InProcess):
        """Ends only after the next has begun, if there is one."""

        def __init__(self, training):
            super().__init__(training)
            begun.append(training.name)
            self._number = len(begun)

        def poll(self):
            return super().poll() if self._number % 2 == 0 or len(begun) > self._number else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "TrainingProcess", Watched)
        run("mine.yaml", "jobs=2", "dir=two")
        patch.setattr(runner, "TrainingProcess", InProcess)
        run("mine.yaml", "dir=one")
    assert begun == [NAMES[2], NAMES[0], NAMES[3], NAMES[1]]
    assert lines(empty / "two") == lines(empty / "one")


def start(*words):
    return fork("trainings:forking_sweep", *words, path=[HELPERS])


CELLS = ["short-count-s0-2400", "short-ppo-s0-2400"]


def finish(*words):
    process = start(*words)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return out


def has_checkpoint(run):
    return any((run / "checkpoints").glob("step_*"))


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A table of two longer cells, and its result lines if nothing interrupts it."""
    folder = tmp_path_factory.mktemp("long")
    text = TABLE.replace("cap: 32", "cap: 2400").replace("[0, 1]", "[0]")
    (folder / "long.yaml").write_text(text.replace("threshold: 0.5", ""))
    finish(folder / "long.yaml", "jobs=2", f"dir={folder / 'whole'}")
    assert len(lines(folder / "whole")) == 2
    return folder / "long.yaml", lines(folder / "whole")


def test_a_sweep_and_a_training_that_were_killed_go_on_to_the_same_lines(long, tmp_path):
    table, whole = long
    first, second = (tmp_path / name for name in CELLS[::-1])
    process = start(table, f"dir={tmp_path}")
    wait_until(lambda: has_checkpoint(first))
    process.kill()
    wait_until(lambda: process.poll() is not None)
    assert lines(tmp_path) == []
    process = start(table, f"dir={tmp_path}", "jobs=2")  # waits for the training that was left
    wait_until(lambda: has_checkpoint(second))
    os.kill(json.loads((second / "run_lock.json").read_text())["process"], signal.SIGKILL)
    out, _ = process.communicate()
    assert process.returncode == 1, out
    assert f"{CELLS[0]:45s} failed: killed by SIGKILL" in out
    assert not is_finished(second)
    finish(table, f"dir={tmp_path}")
    assert [line for line in lines(tmp_path) if '"error"' not in line] == whole


def test_ctrl_c_saves_every_training(tmp_path):
    """They get one signal, from the sweep: a second one would end them without saving."""
    text = TABLE.replace("cap: 32", "cap: 100_000_000").replace("[0, 1]", "[0]")
    (tmp_path / "endless.yaml").write_text(text.replace("threshold: 0.5", ""))
    process = start(tmp_path / "endless.yaml", f"dir={tmp_path}", "jobs=2")
    runs = [tmp_path / f"short-{method}-s0-100000k" for method in ("ppo", "count")]
    for run_dir in runs:
        wait_until(lambda run_dir=run_dir: has_checkpoint(run_dir))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130, out
    assert "2 missing" not in out
    for run_dir in runs:
        status = json.loads((run_dir / "status.json").read_text())
        last = (run_dir / "metrics.jsonl").read_text().splitlines()[-1]
        assert (status["status"], status["step"]) == ("interrupted", json.loads(last)["step"])
    assert lines(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("tasks:", "taskz:"), "mine.yaml: taskz: there is no such key; did you mean 'tasks'?"),
        (("threshold", "thresholdd"), "tasks.short.thresholdd: there is no such key; did you mean"),
        (("threshold: 0.5", "threshold: high"), "tasks.short.threshold=high: expected a number"),
        (
            ("overrides", "override"),
            "methods.ppo.override: there is no such key; did you mean 'overrides'?",
        ),
        (("cap: 32", "cap: 1e3"), "mine.yaml: cap=1000.0: expected a whole number, at least 1"),
        (("cap: 32", ""), "mine.yaml: cap is missing"),
        (("[0, 1]", "[0, 0]"), "seeds=[0, 0]: expected a list of different whole numbers"),
        (("seeds: [0, 1]", "seeds: [0, 1"), "mine.yaml, line "),
        (("short:", "sh/ort:"), "tasks.sh/ort: expected a name of letters, digits"),
        (
            ("cap: 32", "blocks: [{tasks: [shrot], methods: [ppo], seeds: [0], cap: 8}]"),
            "blocks[0].tasks: there is no 'shrot' in tasks; did you mean 'short'?",
        ),
        (("cap: 32", "cap: 32\nsearch: {trials: 3}"), "tasks and search: a table has either"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_bad_table_is_one_line_that_names_the_key(change, part, table, empty):
    text = TABLE.replace(*change)
    assert text != TABLE
    table.write_text(text)
    (line,) = run("mine.yaml", status=2).lines()
    assert line.startswith("firstlight: ")
    assert part in line
    assert [path.name for path in empty.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["examplex"], "there is no file and no table 'examplex'; did you mean 'example'?"),
        (["mine.yaml", "job=2"], "takes no option 'job'; did you mean 'jobs'?"),
        (["mine.yaml", "jobs=0"], "jobs=0: expected a whole number, at least 1"),
        (["mine.yaml", "only=cuont"], "no cell of mine.yaml contains it; did you mean 'count'?"),
        (["mine.yaml", "other.yaml"], "takes one table, and got"),
        (["jobs=2"], "takes one table, and got none"),
    ],
)
def test_bad_words_are_one_line(words, part, table, empty):
    (line,) = run(*words, status=2).lines()
    assert part in line
    assert [path.name for path in empty.iterdir()] == ["mine.yaml"]


def test_an_error_is_the_last_line_of_a_training_or_its_signal(tmp_path):
    training = runner.Training("t", (), lock(tmp_path / "t.log"), tmp_path / "t.log")
    for code, error in (
        ("print('firstlight: there is no x'); raise SystemExit(2)", "there is no x"),
        ("raise KeyError('gone')", "exit status 1: KeyError: 'gone'"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("pass", None),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "TRAIN", (os.sys.executable, "-c", code))
            process = runner.TrainingProcess(training)
        process.wait()
        ended = process.poll()
        assert isinstance(ended, Ended)
        assert ended.error == error


def test_multirun_skips_finished_runs_without_touching_them(empty, small):
    done = command(train.main, "-m", *small, "seed=0,1")
    assert done.status == 0, done.err
    before = modified(empty / "runs")
    again = command(train.main, "-m", *small, "seed=0,1")
    assert again.out.count("is finished already; skipped") == 2
    changed = {path.name for path, at in modified(empty / "runs").items() if before.get(path) != at}
    assert changed <= {"multirun.yaml"}  # Hydra's own


def test_multirun_skips_finished_runs_of_submitit(empty, small, monkeypatch):
    """With submitit's debug executor, which runs in this process what was submitted."""
    executor = submitit.AutoExecutor
    monkeypatch.setattr(
        submitit, "AutoExecutor", lambda cluster, folder: executor(folder, cluster="debug")
    )
    words = "-m", "hydra/launcher=submitit_local", *small, "seed=0,1"
    assert command(train.main, *words).status == 0
    runs = sorted(path for path in (empty / "runs").glob("chain-*"))
    assert [path.name[-2:] for path in runs] == ["s0", "s1"]
    assert all(is_finished(path) for path in runs)
    before = [modified(path) for path in runs]
    assert command(train.main, *words).status == 0
    assert [modified(path) for path in runs] == before


@pytest.mark.parametrize("name", ["example", "example_search"])
def test_our_tables_can_be_read_and_their_overrides_compose(name):
    table = read_table(sweep.find_table(name))
    words = [[*table.common]] if "search" in table else [c.arguments() for c in cells_of(table)]
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        for overrides in words:
            assert hydra.compose("train", [*overrides]).env["_target_"]
