"""Measurements: what is measured, what is left behind, and what the page says of it."""

import dataclasses
import itertools
import json
import sys

import pytest
import torch
from command_line import command

from firstlight.envs import minigrid
from firstlight.envs.vector.envpool import EnvPoolVec
from firstlight.scripts import bench
from firstlight.scripts.benchmarks import (
    adapter_overhead,
    learning,
    modules,
    peer_process,
    pools,
    results,
    stages,
)
from firstlight.scripts.report import tables as report

TASK = "MiniGrid-Empty-5x5-v0"
TINY = stages.configured(
    TASK,
    *("env=minigrid/any", f"env.task={TASK}", "env.num_envs=4", "trainer.num_steps=8"),
    *("intrinsic=[count,rnd]", "intrinsic.rnd.embedding_dim=8", "intrinsic.rnd.warmup_steps=8"),
    *("learner.num_epochs=1", "learner.minibatch_size=16"),
)
ALONE = {"environments alone, EnvPool", "environments alone, ours"}
SOME = {"commit": "abc1234", "hardware": "a machine"}
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


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Results and pages go into a folder of their own; one torch thread before and after."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    yield tmp_path
    torch.set_num_threads(1)


@pytest.fixture
def table(here, monkeypatch):
    """A learning table of four cells."""
    (here / "conf" / "bench").mkdir(parents=True)
    (here / "conf" / "bench" / "tiny.yaml").write_text(TABLE)
    monkeypatch.setattr(learning, "CONF", here / "conf")
    return "tiny"


@pytest.fixture
def cases(monkeypatch):
    """Small rollouts in the place of those that are measured on."""
    small = {
        "grid": (TASK, lambda task: minigrid.make(task, num_envs=4)),
        "pixels": ("Pong-v5", lambda task: EnvPoolVec(task, num_envs=2)),
    }
    assert small.keys() == modules.CASES.keys()
    monkeypatch.setattr(modules, "CASES", small)
    monkeypatch.setattr(modules, "NUM_STEPS", 4)
    monkeypatch.setattr(modules, "SECONDS", 0.0)
    return {n: modules.collect(make(task), task, 4) for n, (task, make) in small.items()}


def page() -> str:
    report.write()
    return report.PAGE.read_text(encoding="utf-8")


def section(title: str) -> str:
    """What the page says under a heading."""
    (found,) = [part for part in page().split("\n## ")[1:] if part.startswith(title + "\n")]
    return found


def cells(text: str) -> dict[str, list[str]]:
    """The first cell of each row of the tables in a section, and the others."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines}


def contents(value):
    """All tensors inside a rollout, copied."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: contents(item) for name, item in value.items()}
    return value


def fields(rollout):
    return {f.name: contents(getattr(rollout, f.name)) for f in dataclasses.fields(rollout)}


# stages


def test_stages_and_the_rest_are_all_of_training():
    rows = stages.one_round(TINY, steps=64)
    assert set(rows) == {*stages.STAGES, "rest", "all"} | ALONE
    assert sum(rows[name][1] for name in (*stages.STAGES, "rest")) == pytest.approx(1)
    assert rows["all"][1] == 1
    for rate, share in rows.values():
        assert rate > 0
        assert rate * share == pytest.approx(rows["all"][0])
    assert all(0 < rows[name][1] < 1 for name in (*stages.STAGES, "rest"))


def test_views_are_compared_round_by_round(monkeypatch):
    """The adapter with raw EnvPool, and each view with the first; a real, short training."""
    assert adapter_overhead.against_raw(4, 400) > 0
    small = stages.configured(
        adapter_overhead.TASK, *adapter_overhead.COMMON, "intrinsic=[]", "trainer.num_steps=4"
    )
    assert adapter_overhead.trained(small, 256) > 0
    speeds = iter(float(speed) for speed in range(1, 100))
    monkeypatch.setattr(adapter_overhead, "against_raw", lambda num_envs, steps: 1 / num_envs)
    monkeypatch.setattr(adapter_overhead, "trained", lambda setup, steps: next(speeds))
    adapter_overhead.measure(rounds=2, steps=1)
    rows = {line["row"]: line for line in results.read("views")}
    n = len(adapter_overhead.VIEWS)
    assert len(rows) == n + len(adapter_overhead.SIZES)
    for i, name in enumerate(adapter_overhead.VIEWS):
        assert rows[name]["steps_per_second"] == [1 + i, 1 + i + n]
        assert rows[name]["ratio"] == [1 + i, (1 + i + n) / (1 + n)]


def test_each_round_adds_to_each_row_of_each_setup(monkeypatch):
    monkeypatch.setattr(stages, "SETUPS", {"a": TINY, "b": TINY})
    stages.measure(rounds=2, steps=32)
    lines = results.read("stages")
    assert {(line["setup"], line["row"]) for line in lines} == set(
        itertools.product("ab", [*stages.STAGES, "rest", "all", *ALONE])
    )
    for line in lines:
        assert len(line["steps_per_second"]) == len(line["share"]) == 2
        assert line["command"] == "firstlight-bench stages rounds=2 steps=32"
        assert {"commit", "hardware"} <= line.keys()


@pytest.mark.parametrize("name", stages.SETUPS)
def test_setups_train_on_the_task_whose_environments_are_timed_alone(name, here):
    setup = stages.SETUPS[name]
    trainer = setup.make(str(here / "run"))
    pool = EnvPoolVec(setup.task, num_envs=trainer.vec.num_envs)
    assert trainer.vec.act_space == pool.act_space
    assert setup.task == stages.TASK
    assert set(trainer.modules) == ({"count", "rnd"} if name == "count_rnd" else set())
    pool.close()
    trainer.vec.close()


# modules


@pytest.mark.parametrize("name", [n for n, row in modules.ROWS.items() if row.make is not None])
def test_every_module_has_a_cost_and_leaves_the_rollout_alone(name, cases):
    row = modules.ROWS[name]
    case = cases[row.case]
    before = fields(case.rollout)
    costs = modules.cost(row.make(case), case.rollout, seconds=0.0)
    assert set(costs) == {"compute", "update", "mixer"}
    assert all(us > 0 for us in costs.values())
    torch.testing.assert_close(fields(case.rollout), before, rtol=0, atol=0, equal_nan=True)


def test_ours_and_the_peer_take_turns_and_are_compared_round_by_round(cases, monkeypatch):
    asked = []

    def peer(words):
        asked.append(words)
        return {"us": 10.0 * len(asked)}

    monkeypatch.setattr(modules, "peer_python", lambda venv: f"{venv}/bin/python")
    monkeypatch.setattr(modules, "result", peer)
    modules.measure(rounds=3, peers="peers", only="batches of 256, equal")
    lines = {line["row"]: line for line in results.read("modules")}
    assert set(lines) == {f"rnd, batches of 256, equal {what}" for what in ("widths", "work")}
    for i, line in enumerate(lines.values()):
        assert line["peer_us"] == [10.0 * (1 + i), 10.0 * (3 + i), 10.0 * (5 + i)]
        ours = [line[f"{part}_us"] for part in ("compute", "update", "mixer")]
        totals = [sum(parts) for parts in zip(*ours, strict=True)]
        assert line["ratio"] == pytest.approx(
            [theirs / total for theirs, total in zip(line["peer_us"], totals, strict=True)]
        )
        assert line["peer_command"] == "python -P rllte_modules.py grid.npz rnd 256 0.0"
    assert all(words[0] == "peers/bin/python" for words in asked)


def test_without_peers_only_ours_are_measured(cases):
    modules.measure(rounds=1, peers="none", only="count")
    lines = results.read("modules")
    assert [line["row"] for line in lines] == [n for n in modules.ROWS if n.startswith("count, ")]
    assert not any("peer" in key or key == "ratio" for line in lines for key in line)


@pytest.mark.parametrize(("case", "shape"), [("grid", (4, 4, 147)), ("pixels", (4, 2, 1, 84, 84))])
def test_a_peer_is_given_what_ours_look_at(case, shape, cases, here):
    import numpy as np

    modules.save(cases[case], here / "rollout.npz")
    rollout, saved = cases[case].rollout, np.load(here / "rollout.npz")
    for name, obs in (("observations", rollout.obs), ("next_observations", rollout.next_obs())):
        field = obs["image"][:4].flatten(2) if case == "grid" else obs["obs"][:4, :, -1:]
        assert saved[name].shape == shape
        assert (saved[name] == field.numpy()).all()
    assert (saved["actions"] == rollout.action.numpy()).all()
    assert saved["num_actions"] == cases[case].act_space.n


# peers


def test_peers_are_installed_once_and_torch_by_its_pin(here, monkeypatch):
    calls = []

    def run(words):
        calls.append(list(words))
        if words[1:3] == ["-m", "venv"]:
            (here / "venv" / "bin").mkdir(parents=True)
            (here / "venv" / "bin" / "python").touch()

    monkeypatch.setattr(peer_process, "_run", run)
    python = peer_process.peer_python("venv")
    installs = [words for words in calls if "install" in words]
    assert python == "venv/bin/python"
    assert installs[0][-1] == "torch"
    assert all(words[words.index("-c") + 1] == str(peer_process.CONSTRAINTS) for words in installs)
    assert any(
        line.startswith("torch==") for line in peer_process.CONSTRAINTS.read_text().splitlines()
    )
    assert all("--no-deps" in words for words in installs if "rllte" in " ".join(words))
    number = len(calls)
    assert peer_process.peer_python("venv") == python
    assert len(calls) == number


def test_a_timed_script_says_its_result_last():
    code = "import json; print('hello'); print(json.dumps({'us': 3.5}))"
    assert peer_process.result([sys.executable, "-c", code]) == {"us": 3.5}


def test_peers_that_cannot_be_had_end_the_command_with_what_was_said(here):
    (here / "file").touch()
    done = command(bench.main, "throughput", "peers=file")
    assert done.status == 1
    assert "Unable to create directory" in done.err
    assert "Traceback" not in done.err
    assert not results.read("throughput")


# learning tables


def test_a_table_goes_on_where_it_stands(table, monkeypatch):
    run = []

    def cell(name, one):
        if len(run) == 2:
            raise KeyboardInterrupt
        run.append(one.key)
        keys = dict(zip(learning.KEY, one.key, strict=True))
        return {**keys, "reached_at": None, "seconds": 1.0, "eval_return": 0.0}

    monkeypatch.setattr(learning, "run_cell", cell)
    with pytest.raises(KeyboardInterrupt):
        learning.run_table(table, budget=60)
    first, run[:] = list(run), []
    learning.run_table(table, budget=60)
    assert len(first) == len(run) == 2
    assert [*first, *run] == [one.key for one in learning.cells(table)]
    run.clear()
    learning.run_table(table, budget=60)
    assert run == []


def test_no_cell_is_begun_once_the_budget_is_spent(table, monkeypatch, capsys):
    monkeypatch.setattr(learning, "run_cell", lambda *_: pytest.fail("it was begun"))
    learning.run_table(table, budget=-1)
    assert "run it again to go on" in capsys.readouterr().out


def test_a_cell_is_on_the_page_and_the_page_says_what_is_missing(table):
    done = command(bench.main, "learning", table, "only=count-s1", "budget=5m")
    assert done.status == 0, done.err
    (line,) = results.read(table)
    assert (line["method"], line["seed"], line["cap"]) == ("count", 1, 32)
    assert line["command"].startswith("firstlight-train env=chain ")
    said = section("Learning: tiny")
    assert "Missing cells: 3." in said
    assert cells(said)["short"][:2] == ["count", "0.50"]
    assert (results.RESULTS / "tiny.png").exists()


# the page


def test_the_page_shows_the_latest_line_of_each_stage():
    line = {"setup": "ppo", "about": "plain", "row": "learn", "command": "bench stages", **SOME}
    results.append("stages", {**line, "steps_per_second": [1.0], "share": [0.9]})
    new = {"steps_per_second": [3000.0, 1000.0, 2000.0], "share": [0.5, 0.25, 0.125]}
    results.append("stages", {**line, **new})
    said = section("Training time by stage")
    assert cells(said)["learn"] == ["2,000 (1,000 to 3,000)", "25.0% (12.5% to 50.0%)"]
    assert "*ppo*: plain." in said
    for part in ("a machine", "commit abc1234", "`bench stages`", "GPU: not measured."):
        assert part in said


def test_the_page_shows_what_adapter_and_views_cost():
    line = {"command": "bench views", "about": "plain", **SOME}
    results.append("views", {**line, "row": "adapter", "ratio": [0.9, 0.8, 1.0]})
    rates = {"steps_per_second": [3000.0], "ratio": [0.75]}
    results.append("views", {**line, "row": "map", **rates})
    rows = cells(section("Cost of the adapter and of MiniGrid's views"))
    assert rows["adapter"] == ["", "0.90 (0.80 to 1.00)", "plain"]
    assert rows["map"] == ["3,000", "0.75", "plain"]


def test_the_page_compares_the_pool_at_its_best_and_at_equal_numbers():
    for name, num_envs, rates in (
        *(("pool", 4, [100.0, 300.0, 200.0]), ("pool", 8, [600.0])),
        *(("AsyncVectorEnv", 4, [100.0]), ("AsyncVectorEnv", 8, [150.0])),
    ):
        line = {"row": name, "num_envs": num_envs, "about": "plain", "command": "bench pools"}
        results.append("pools", {**line, "steps_per_second": rates, **SOME})
    rows = cells(section("NetHack in a pool of processes"))
    assert rows["pool"][:4] == ["200 (100 to 300)", "600", "1.00", "1.00 to 1.00"]
    assert rows["AsyncVectorEnv"][:4] == ["100", "150", "4.00", "2.00 to 4.00"]


def test_pool_and_peers_take_turns(monkeypatch):
    """The real ones, for a moment each."""
    monkeypatch.setattr(pools, "SECONDS", 0.05)
    monkeypatch.setattr(pools, "SIZES", (2,))
    pools.measure(rounds=1)
    lines = results.read("pools")
    assert {line["row"] for line in lines} == pools.ABOUT.keys()
    assert all(line["steps_per_second"][0] > 0 for line in lines)


def test_the_page_shows_modules_with_and_without_a_peer():
    line = {"rollout": "4 × 4 steps", "command": "bench modules", **SOME}
    ours = {f"{part}_us": [1.0, 2.0, 9.0] for part in ("compute", "update", "mixer")}
    theirs = {"peer_us": [4.0], "peer_command": "python peer.py"}
    results.append("modules", {"row": "both", **line, **ours, **theirs, "ratio": [3.0, 1.0, 2.0]})
    results.append("modules", {"row": "ours", **line, **ours})
    results.append("modules", {"row": "theirs", **line, **theirs})
    said = section("Cost of the reward modules")
    rows, common = cells(said), ["4 × 4 steps", *["2.00 (1.00 to 9.00)"] * 3]
    assert rows["both"] == [*common, "4.00", "2.00 (1.00 to 3.00)", "`python peer.py`"]
    assert rows["ours"][:4] == common
    assert "4.00" in rows["theirs"]
    for part in ("a machine", "commit abc1234", "`bench modules`", "GPU: not measured."):
        assert part in said


def test_the_page_shows_the_latest_soak_of_each_test():
    line = {"test": "test_survival.py::test_kills", "repeats": 20, "passed": False, "seconds": 9.0}
    results.append("soak", {**line, **SOME})
    better = {"passed": True, "seconds": 93.1, "kills_of_a_living_run": 17, "mb": 3.5}
    results.append("soak", {**line, **better, **SOME})
    results.append("soak", {**line, "test": "test_survival.py::test_other", **SOME})
    said = section("Soak")
    rows = cells(said)
    assert rows["`test_survival.py::test_kills`"] == [
        *("20", "yes", "93", "kills of a living run 17, mb 3.5")
    ]
    assert rows["`test_survival.py::test_other`"][1] == "**no**"
    assert "`make soak`" in said
    assert "abc1234" in said


def test_what_is_no_table_is_left_out_and_nothing_measured_says_nothing():
    results.append("notes", {"row": "something else"})
    assert "\n## " not in page()


# bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("learnign", "bonuses"), "did you mean 'learning'?"),
        (("learning", "bonusses"), "did you mean 'bonuses'?"),
        (
            ("learning",),
            "learning takes the name of a table; there are bonuses, ",
        ),
        (("learning", "bonuses", "budget=soon"), "budget=soon: it is a time, such as 90m"),
        (("learning", "bonuses", "budget=-3m"), "budget=-3m: it is a time"),
        (("learning", "bonuses", "budget=nan"), "budget=nan: it is a time"),
        (("learning", "bonuses", "only=cuont"), "did you mean 'count'?"),
        (("learning", "bonuses", "demo"), "'demo' is one word too many for learning"),
        (("stages", "round=2"), "stages takes no option 'round'; did you mean 'rounds'?"),
        (("stages", "rounds=0"), "rounds=0: it is a whole number, at least 1"),
        (("throughput", "steps=1e5"), "steps=1e5: it is a whole number, at least 1"),
        (("modules", "only=rmd", "peers=none"), "did you mean 'rnd'?"),
        (("modules", "peers="), "peers=: it is a name"),
        (("report", "rounds=3"), "report takes no option 'rounds'"),
        (("rounds=3",), "give a command"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words, said, here):
    done = command(bench.main, *words)
    assert done.status == 2
    (sentence,) = done.lines()
    assert sentence.startswith("firstlight: ")
    assert said in sentence
    assert [path.name for path in here.rglob("*")] == ["docs"]


@pytest.mark.parametrize("words", [(), ("--help",), ("learning", "-h")])
def test_help_names_every_command_and_option(words):
    done = command(bench.main, *words)
    assert done.status == 0
    for name, options in bench.OPTIONS.items():
        (line,) = [line for line in done.out.splitlines() if f"firstlight-bench {name}" in line]
        assert all(f"[{option}=" in line for option in options)


def test_options_are_read_as_what_they_are():
    words, options = bench.read(["learning", "bonuses", "budget=2h", "only=rnd"])
    assert words == ["learning", "bonuses"]
    assert options == {"budget": 7200.0, "only": "rnd"}
    assert bench.read(["stages", "steps=1_000"])[1] == {"rounds": 3, "steps": 1000}


def test_lines_can_be_read_back():
    results.append("some", {"row": "α", "value": [1.5, 2]})
    results.append("some", {"row": "β"})
    assert results.read("some") == [{"row": "α", "value": [1.5, 2]}, {"row": "β"}]
    text = (results.RESULTS / "some.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == results.read("some")
