"""Learning tables: their cells compose, run once, and continue where they stopped."""

import sys

import hydra
import pytest
from benchmarks_document import cells, section
from command_line import command
from trainings import AtOnce

from firstlight.scripts import bench
from firstlight.scripts.benchmarks import learning, results
from firstlight.scripts.sweeps import runner
from firstlight.scripts.sweeps.table import KEY

TABLE = """
common: [env=chain, env.length=3, env.num_envs=2, trainer.num_steps=8, eval_episodes=2, "{one}"]
tasks:
  short: {overrides: [], threshold: 0.5}
methods:
  ppo: {overrides: ["intrinsic=[]"]}
  count: {overrides: ["intrinsic=[count]"]}
blocks:
  - {tasks: [short], methods: [ppo, count], seeds: [0, 1], cap: 32}
""".replace("{one}", "learner.num_epochs=1")


@pytest.fixture
def table(make_table):
    """A learning table of four cells."""
    return make_table("tiny", TABLE)


def test_a_table_continues_with_the_missing_cells(table, monkeypatch):
    run = []

    def result(work, cell, *_):
        if len(run) == 2:
            raise KeyboardInterrupt
        run.append(cell.key)
        keys = dict(zip(KEY, cell.key, strict=True))
        return {**keys, "reached_at": None, "seconds": 1.0, "eval_return": 0.0}

    monkeypatch.setattr(runner, "TrainingProcess", AtOnce)
    monkeypatch.setattr(learning.LearningTable, "result", result)
    with pytest.raises(KeyboardInterrupt):
        learning.run_table(table, budget=60)
    first, run[:] = list(run), []
    learning.run_table(table, budget=60)
    assert len(first) == len(run) == 2
    assert [*first, *run] == [one.key for one in learning.cells(table)]
    run.clear()
    learning.run_table(table, budget=60)
    assert run == []


def test_a_failed_run_is_an_error_with_its_output_and_no_line(table, monkeypatch):
    code = "import sys; print(sys.argv[-4], flush=True); sys.exit('broken')"
    monkeypatch.setattr(runner, "TRAIN", (sys.executable, "-c", code))
    with pytest.raises(RuntimeError, match=r"short-ppo-s0-32 failed:\ntotal_steps=32\nbroken"):
        learning.run_table(table, budget=60)
    assert results.read(table) == []


def test_no_cell_is_started_once_the_budget_is_spent(table, monkeypatch, capsys):
    monkeypatch.setattr(runner, "TrainingProcess", lambda _: pytest.fail("it was started"))
    learning.run_table(table, budget=-1)
    assert "run the command again to continue" in capsys.readouterr().out


def test_a_measured_cell_is_in_the_document_and_missing_ones_are_counted(table, train_in_process):
    done = command(bench.main, "learning", table, "only=count-s1", "budget=5m")
    assert done.status == 0, done.err
    (line,) = results.read(table)
    assert (line["method"], line["seed"], line["cap"]) == ("count", 1, 32)
    assert line["command"].startswith("firstlight-train env=chain ")
    text = section("Learning: tiny")
    assert "Missing cells: 3." in text
    assert cells(text)["short"][:2] == ["count", "0.50"]
    assert (results.RESULTS / "tiny.png").exists()


@pytest.mark.parametrize("table", learning.table_names())
def test_every_override_and_trial_of_a_table_composes(table):
    cells, known = list(learning.cells(table)), {""}
    assert len({cell.name for cell in cells}) == len(cells)
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        for cell in cells:
            parts = {*cell.overrides, cell.trial}
            if parts <= known:
                continue
            known |= parts
            config = hydra.compose("train", [*cell.overrides, *filter(None, [cell.trial])])
            assert {"env", "learner", "mixer"} <= config.keys()


@pytest.mark.parametrize("table", learning.table_names())
def test_every_task_and_method_of_a_table_has_a_cell(table):
    spec, cells = learning.spec(table), list(learning.cells(table))
    assert {cell.task for cell in cells} == set(spec.tasks)
    assert {cell.method for cell in cells} == set(spec.methods)
