"""The commands as processes: imports of ``--help``, exit statuses, entry points."""

from importlib.metadata import entry_points

import pytest
from command_line import command, python

from firstlight.scripts import annotate, bench, evaluate, motif, race, run_report, sweep, train
from firstlight.scripts.errors import CONF

HYDRA = {"antlr4", "attr", "firstlight", "hydra", "hydra_plugins", "omegaconf", "packaging", "yaml"}

IN_ONE_PROCESS = """
import sys
from firstlight.scripts import evaluate, train
sys.argv = ["firstlight-evaluate", "run=run", "episodes=5"]
evaluate.main()
sys.argv = ["firstlight-train", "env=envpool", "env.id=CartPool-v1"]
train.main()
"""


HELP = """
import importlib, sys
before, read, listed = set(sys.modules), set(), []

def count(event, arguments):
    path = str(arguments[0]) if arguments else ""
    if event == "open" and path.endswith(".yaml"):
        read.add(path)
    if event in ("os.listdir", "os.scandir") and "conf" in path:
        listed.append(path)

sys.addaudithook(count)
name, *sys.argv[1:] = sys.argv[1:]
main = importlib.import_module(f"firstlight.scripts.{name}").main
try:
    main()
finally:
    packages = {module.partition(".")[0] for module in set(sys.modules) - before}
    ours = {module for module in sys.modules if module.startswith("firstlight.")}
    foreign = packages - set(sys.stdlib_module_names)
    print(*sorted(module for module in foreign if "cython" not in module), file=sys.stderr)
    print(*sorted({".".join(module.split(".")[:2]) for module in ours}), file=sys.stderr)
    print(len(read), len(listed), file=sys.stderr)
"""
FOLDERS = sum(path.is_dir() for path in CONF.rglob("*")) + 1


@pytest.mark.parametrize(
    ("name", "shown", "allowed"),
    [
        ("train", "total_steps: 1000000", HYDRA),
        ("evaluate", "episodes: 100", HYDRA),
        ("bench", "firstlight-bench learning", HYDRA),
        ("sweep", "firstlight-sweep TABLE", HYDRA),
        ("race", "firstlight-race env=", HYDRA),
        ("run_report", "firstlight-report run=DIR", HYDRA),
        ("annotate", "firstlight-annotate show STORE", HYDRA),
        ("motif", "firstlight-motif collect FOLDER", HYDRA),
    ],
)
def test_help_imports_little_and_reads_few_configs(name, shown, allowed, tmp_path):
    """Neither torch, gymnasium nor numpy: `--help` is as quick as Hydra and its parser."""
    done = python("-c", HELP, name, "--help", cwd=tmp_path)
    assert done.status == 0
    packages, ours, counts = (line.split() for line in done.lines())
    assert {*packages} <= allowed
    assert {*ours} <= {"firstlight.scripts", "firstlight.conf"}
    read, listed = map(int, counts)
    assert read <= 15  # the command's config, its default choices, and Hydra's own
    assert listed <= 3 * FOLDERS
    assert shown in done.out
    assert list(tmp_path.iterdir()) == []


def test_help_shows_groups_and_the_config_with_what_was_chosen(tmp_path):
    done = python("-m", "firstlight.scripts.train", "env=chain", "-h", "seed=7", cwd=tmp_path)
    assert done.status == 0
    assert "intrinsic: agac, agac_paper, amigo, beacons, " in done.out
    assert "length: 16" in done.out
    assert "seed: 7" in done.out


def test_help_with_a_wrong_choice_is_one_line(tmp_path):
    done = python("-m", "firstlight.scripts.train", "env=chian", "--help", cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err == "firstlight: there is no env=chian; did you mean 'chain'?\n"


def test_installed_commands_are_the_functions_tested_here():
    found = {entry.name: entry for entry in entry_points(group="console_scripts")}
    assert found["firstlight-train"].load() is train.main
    assert found["firstlight-evaluate"].load() is evaluate.main
    assert found["firstlight-bench"].load() is bench.main
    assert found["firstlight-sweep"].load() is sweep.main
    assert found["firstlight-race"].load() is race.main
    assert found["firstlight-report"].load() is run_report.main
    assert found["firstlight-annotate"].load() is annotate.main
    assert found["firstlight-motif"].load() is motif.main


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
