"""The commands as processes: imports of ``--help``, exit statuses, entry points."""

from importlib.metadata import entry_points

import pytest
from command_line import command, python

from firstlight.scripts import bench, evaluate, train

IN_ONE_PROCESS = """
import sys
from firstlight.scripts import evaluate, train
sys.argv = ["firstlight-evaluate", "run=run", "episodes=5"]
evaluate.main()
sys.argv = ["firstlight-train", "env=envpool", "env.id=CartPool-v1"]
train.main()
"""


@pytest.mark.parametrize(
    ("name", "shown"), [("train", "total_steps: 1000000"), ("evaluate", "episodes: 100")]
)
def test_help_imports_no_torch_gymnasium_or_numpy(name, shown, tmp_path):
    words = ("-X", "importtime", "-m", f"firstlight.scripts.{name}", "--help")
    done = python(*words, cwd=tmp_path)
    assert done.status == 0
    imported = {line.rpartition("|")[2].strip() for line in done.lines()}
    assert "hydra" in imported
    assert not {"torch", "gymnasium", "numpy"} & imported
    assert shown in done.out
    assert list(tmp_path.iterdir()) == []


def test_installed_commands_are_the_functions_tested_here():
    found = {entry.name: entry for entry in entry_points(group="console_scripts")}
    assert found["firstlight-train"].load() is train.main
    assert found["firstlight-evaluate"].load() is evaluate.main
    assert found["firstlight-bench"].load() is bench.main


def test_a_process_evaluates_alike_and_ends_with_2_and_one_line_for_bad_input(run):
    done = python("-c", IN_ONE_PROCESS, cwd=run.parent)
    assert done.result() == command(evaluate.main, "run=run", "episodes=5").result()
    assert done.status == 2
    assert done.err == (
        "firstlight: EnvPool has no task 'CartPool-v1'; did you mean 'CartPole-v1'?\n"
    )
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_full_errors_have_a_traceback(tmp_path):
    words = ("-m", "firstlight.scripts.train", "env=chain", "env.lengthy=3")
    done = python(*words, cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.status == 2
    assert "Traceback" in done.err
    assert done.lines()[-1].startswith("firstlight: there is no option env.lengthy")
