"""Learning tables that measure the value of walks: trials, values, and their section."""

import hydra
import pytest
import torch
from benchmarks_document import ORIGIN, rows, section

from firstlight.intrinsic.submodular import check_set_function
from firstlight.scripts.benchmarks import learning, results, walk_evaluation
from firstlight.scripts.build import make_modules
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.sweeps.table import best_trial
from firstlight.scripts.train import train

TABLE = """
measure: firstlight.scripts.benchmarks.walk_evaluation.measure
common: [experiment=subrl_uniform_coverage, env.horizon=3, env.num_envs=2, trainer.num_steps=3]
tasks:
  few: {overrides: []}
methods:
  subpo: {overrides: [learner=subpo]}
  random: {overrides: [learner=subpo, learner.lr=0]}
blocks:
  - {tasks: [few], methods: [subpo], seeds: [9], cap: 12, trials: [learner.lr=0.1, learner.lr=0.5]}
  - {tasks: [few], methods: [subpo], seeds: [0, 1], cap: 12, best: true}
  - {tasks: [few], methods: [random], seeds: [0, 1], cap: 12}
"""
RUN = {**ORIGIN, "steps": 12, "curve": [[6, 1.0], [12, 2.0]]}
SMALL = ("learner=subpo", "env.num_envs=4", "env.horizon=5", "trainer.num_steps=5", "device=cpu")
SUBRL = learning.spec("subrl")


@pytest.fixture
def table(make_table):
    """A table of six cells."""
    return make_table("few", TABLE)


def compose(*overrides):
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        return hydra.compose("train", list(overrides))


def write(table, method, seed, value, **further):
    line = {"task": "few", "method": method, "seed": seed, "cap": 12, "value": value}
    limits = {"greedy_walk": 4.0, "bound": 8.0, "optimum": 5.0}
    results.append(table, {**line, **limits, **further, **RUN})


def table_rows(text):
    """Heads and rows of the task `few`."""
    return [row for row in rows(text) if row[0] in ("task", "few")]


@pytest.mark.parametrize("task", SUBRL.tasks)
def test_tasks_of_subrl_collect_whole_episodes_with_a_submodular_reward(task):
    config = compose(*SUBRL.common, *SUBRL.tasks[task].overrides)
    assert config.trainer.num_steps == config.env.horizon
    vec = make_vec(config.env)
    module = make_modules(config.intrinsic, vec, 0)[0]["submodular"]
    cells = torch.arange(vec.walls.size)
    place = torch.stack([cells // vec.height, cells % vec.height], 1)
    items = module.items({"cell": cells}, {"cell": cells, "position": place})
    check_set_function(module.function, items, trials=10)
    ends = torch.zeros(len(cells), len(cells)).scatter(1, vec.successor, 1.0)  # [from, to]
    walks = torch.linalg.matrix_power(ends.double(), vec.horizon)[vec.start].sum()
    assert task.startswith("small_") == (walks <= 200_000)  # which `best_walk` tries


@pytest.mark.parametrize("method", SUBRL.methods)
def test_methods_of_subrl_compose(method):
    config = compose("experiment=subrl_items", *SUBRL.common, *SUBRL.methods[method].overrides)
    assert config.env.history == (method == "subpo_nm")
    assert config.intrinsic.submodular.modular == (method == "modular")
    assert config.learner._target_.endswith("PPO" if method == "ppo" else "SubPO")


def test_trials_are_separate_cells_and_come_first(table):
    cells = list(learning.cells(table))
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == 6
    assert [cell.trial for cell in cells] == ["learner.lr=0.1", "learner.lr=0.5", *[""] * 4]
    assert [cell.best for cell in cells] == [False, False, True, True, False, False]
    assert not any(cell.stop for cell in cells)  # there is no threshold to stop at


@pytest.mark.parametrize("best", ["learner.lr=0.1", "learner.lr=0.5"])
def test_the_trial_with_the_highest_value_is_used(table, best):
    for trial in ("learner.lr=0.1", "learner.lr=0.5"):
        write(table, "subpo", 9, 3.0 if trial == best else 2.0, trial=trial)
    cell = next(cell for cell in learning.cells(table) if cell.best)
    write(table, "subpo", 0, 9.0, best="learner.lr=7")  # not a trial
    assert best_trial(learning.spec(table), results.read(table), cell) == best


def test_a_cell_run_with_another_trial_is_an_error(table):
    for trial, value in (("learner.lr=0.1", 3.0), ("learner.lr=0.5", 2.0)):
        write(table, "subpo", 9, value, trial=trial)
    write(table, "subpo", 0, 9.0, best="learner.lr=0.5")
    with pytest.raises(BadInputError, match=r"subpo-s0-.* was run with .*=0.5, .* remove its line"):
        learning.run_table(table, budget=60, only="subpo-s0")
    assert len(results.read(table)) == 3


def test_a_cell_needs_all_its_trials(table):
    write(table, "subpo", 9, 3.0, trial="learner.lr=0.1")
    with pytest.raises(BadInputError, match="needs 2 trials, of which 1 have been run"):
        learning.run_table(table, budget=60, only="subpo-s0")
    assert len(results.read(table)) == 1


def test_a_cell_is_trained_with_the_best_trial_and_measured(table, train_in_process):
    """Three moves from cell 34, of which each uncovers at most two cells."""
    write(table, "subpo", 9, 3.0, trial="learner.lr=0.1")
    write(table, "subpo", 9, 2.0, trial="learner.lr=0.5")
    learning.run_table(table, budget=60, only="subpo-s0")
    line = results.read(table)[-1]
    assert line["best"] == "learner.lr=0.1"
    assert " learner.lr=0.1 seed=0 " in line["command"]
    assert "stop_at" not in line["command"]
    assert 0 < line["value"] < line["optimum"] == 6 <= line["bound"]
    assert [step for step, _ in line["curve"]][-1] == line["steps"] == 12
    assert "Missing cells: 3." in section(f"Learning: {table}")


@pytest.mark.parametrize("name", ["two_rooms", "d_design"])
def test_a_policy_that_does_not_learn_has_the_same_value_in_training_and_after(name, tmp_path):
    """The curve is F too: means over 200 walks and over 100."""
    run = ("learner.lr=0", "total_steps=1000", "eval_episodes=2", f"run_dir={tmp_path / 'run'}")
    train(compose(f"experiment=subrl_{name}", *SMALL, *run))
    found = walk_evaluation.measure(tmp_path / "run")
    values = [value for _, value in found["curve"][:-1]]
    assert sum(values) / len(values) == pytest.approx(found["value"], rel=0.2)  # 3 deviations
    assert 0 < found["value"] < found["optimum"] <= found["bound"]
    assert found["greedy_walk"] <= found["optimum"]


def test_modular_rewards_have_no_curve(tmp_path):
    run = ("total_steps=20", "eval_episodes=2", f"run_dir={tmp_path / 'run'}")
    modular = "intrinsic.submodular.modular=true"
    train(compose("experiment=subrl_two_rooms", *SMALL, *run, modular))
    found = walk_evaluation.measure(tmp_path / "run")
    assert found["curve"] == []
    assert 0 < found["value"] <= found["optimum"]


def test_the_optimum_is_left_out_where_there_are_too_many_walks(tmp_path):
    run = ("total_steps=50", "eval_episodes=2", f"run_dir={tmp_path / 'run'}")
    longer = ("env.horizon=12", "trainer.num_steps=12")
    train(compose("experiment=subrl_two_rooms", *SMALL, *longer, *run))
    found = walk_evaluation.measure(tmp_path / "run")
    assert "optimum" not in found
    assert found["value"] <= found["bound"]


def test_values_shares_and_chosen_trials_are_shown(table):
    for seed, value in enumerate((2.0, 4.0)):
        write(table, "subpo", seed, value, best="learner.lr=0.5")
    write(table, "random", 0, 1.0)
    write(table, "subpo", 9, 99.0, trial="learner.lr=0.1")
    text = section(f"Learning: {table}")
    assert table_rows(text) == [
        ["task", "subpo", "random", "greedy walk", "bound", "best walk"],
        ["few", "3.00 (2.00 to 4.00)", "1.00", "4.00", "8.00", "5.00"],
        ["task", "subpo", "random"],
        ["few", "60.0% (40.0% to 80.0%)", "20.0%"],
        ["task", "subpo"],
        ["few", "`learner.lr=0.5`"],
    ]
    assert "Missing cells: 2." in text
    assert (results.RESULTS / "few.png").exists()


def test_trials_alone_are_not_shown_as_results(table):
    write(table, "subpo", 9, 99.0, trial="learner.lr=0.1")
    text = section(f"Learning: {table}")
    assert "Only trials so far. Missing cells: 5." in text
    assert "99" not in text


def test_a_table_without_threshold_shows_reported_statistics_and_no_crossings(make_table):
    plain = TABLE.replace(
        "measure: firstlight.scripts.benchmarks.walk_evaluation.measure\n", "show: [depth]\n"
    )
    make_table("deep", plain)
    common = {"threshold": None, "reached_at": None, "seconds": 3.0, "eval_success": None}
    for seed, depth in ((0, 1.5), (1, 2.5)):
        line = {"task": "few", "method": "random", "seed": seed, "cap": 12, "eval_return": 0.5}
        results.append("deep", {**line, **common, "eval_reported": {"depth": depth}, **RUN})
    head, row = table_rows(section("Learning: deep"))
    text = dict(zip(head, (part.strip() for part in row), strict=False))
    assert text["depth in evaluation"] == "2.00 (1.50 to 2.50)"
    assert (text["threshold"], text["M steps to it"]) == ("", "")
    assert text["seeds (that reached it)"] == "2"
