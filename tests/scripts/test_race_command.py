"""``firstlight-race``: every method runs on the given environment, and the best is named."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import checked, command
from trainings import AtOnce, InProcess

from firstlight.scripts import race, sweep
from firstlight.scripts.benchmarks.results import read_lines
from firstlight.scripts.sweeps import race_table, runner
from firstlight.scripts.sweeps.race_table import METHODS, standings, verdict

ENV = ("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "eval_episodes=2")
WORDS = (*ENV, "learner.num_epochs=1", "num_threads=1")


RETURNS = {"ppo": 0.1, "rnd": 0.5, "count": 0.4, "e3b": 0.3, "noveld": 0.9, "deir": 0.8, "etd": 0}
"""What a pretended training with each method reaches."""


@pytest.fixture
def started(monkeypatch):
    """Trainings are pretended: each leaves the files of a finished one. Gives their words."""
    words = []

    class Pretended(AtOnce):
        def __init__(self, training):
            super().__init__(training)
            words.append(training.arguments)
            options = dict(word.split("=", 1) for word in training.arguments)
            folder, steps = Path(options["run_dir"]), int(options["total_steps"])
            reached = RETURNS[options["intrinsic"].strip("[]") or "ppo"] + int(options["seed"]) / 50
            line = {"step": steps, "time": 3.0, "perf/steps_per_second": 50.0}
            line |= {"rollout/return_mean": reached / 2, "eval/return_mean": reached}
            folder.mkdir(parents=True)
            (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
            (folder / "status.json").write_text('{"status": "finished"}')

    monkeypatch.setattr(runner, "TrainingProcess", Pretended)
    return words


@pytest.fixture
def in_process(monkeypatch):
    """Trainings run in this process, which saves the start of one."""
    monkeypatch.setattr(runner, "TrainingProcess", InProcess)


def run(*words, status=0):
    return checked(race.main, *words, status=status)


def line(method, seed, evaluation, curve=((10, 0.0),)):
    fields = {"eval_success": None, "seconds": 2.0, "curve": [list(point) for point in curve]}
    return {"method": method, "seed": seed, "eval_return": evaluation, **fields}


def test_every_method_runs_with_every_seed_and_is_ranked(empty, started):
    done = run(*WORDS, "steps=32", "seeds=2", "budget=1h")
    results = read_lines(empty / "runs/race/chain/results.jsonl")
    assert [(r["method"], r["seed"]) for r in results] == [(m, s) for s in (0, 1) for m in METHODS]
    chosen = [next(w for w in words if w.startswith("intrinsic=")) for words in started]
    assert chosen[:7] == ["intrinsic=[]", *(f"intrinsic=[{name}]" for name in METHODS[1:])]
    assert all(set(WORDS) | {"total_steps=32"} <= set(words) for words in started)
    rows = [row.split("│") for row in done.out.splitlines() if row.startswith("│")]
    assert [row[1].strip() for row in rows] == sorted(RETURNS, key=RETURNS.get, reverse=True)
    assert [row[3].strip() for row in rows[:2]] == ["0.910", "0.810"]
    assert "noveld is the best so far" in done.out
    words = " ".join(done.out.split())
    command = f"firstlight-train {' '.join(WORDS)} 'intrinsic=[noveld]' total_steps=320 seed=0"
    assert f"train it for longer: {command}" in words


def test_it_trains(empty, in_process):
    run(*WORDS, "steps=32", "seeds=1", "only=ppo,count")
    ppo, count = read_lines(empty / "runs/race/chain/results.jsonl")
    assert (ppo["steps"], count["steps"]) == (32, 32)
    config = empty / "runs/race/chain/task-count-s0-32/config.yaml"
    assert "firstlight.intrinsic.HashCount" in config.read_text()


def test_the_same_command_continues_and_keeps_its_steps(empty, started):
    words = (*WORDS, "only=ppo,count", "dir=mine")
    run(*words, "steps=32", "seeds=1")
    assert len(started) == 2
    run(*words, "seeds=1")
    assert len(started) == 2
    run(*words, "seeds=2")
    assert [given[-2:] for given in started[2:]] == [
        ("run_dir=mine/task-ppo-s1-32", "resume=auto"),
        ("run_dir=mine/task-count-s1-32", "resume=auto"),
    ]
    assert yaml.safe_load((empty / "mine/race.yaml").read_text())["cap"] == 32
    assert command(sweep.main, "mine/race.yaml", "dir=mine").status == 0  # it is a table
    assert len(started) == 4
    done = run(*WORDS, "env.length=4", "dir=mine", status=2)
    assert "mine holds a race of env=chain env.length=3" in done.err


def test_the_steps_follow_from_the_budget_and_a_trial(empty, started, monkeypatch):
    monkeypatch.setattr(race_table, "choose_steps", lambda *given: asked.append(given) or 48)
    asked, words = [], (*WORDS, "only=ppo,rnd,count", "seeds=3", "jobs=2", "budget=600")
    run(*words)
    assert asked == [(600, 5, 50.0, 0.0)]  # nine trainings, two at a time; 50 steps a second
    assert started[0][-2:] == ("run_dir=runs/race/chain/speed/task-ppo-s0-10k", "resume=auto")
    assert len(started) == 1 + 9
    assert json.loads((empty / "runs/race/chain/race.json").read_text())["steps"] == 48
    run(*words)
    assert len(asked) == 1


def test_no_training_starts_after_the_budget(empty, started):
    done = run(*WORDS, "steps=32", "budget=0.000001")
    assert started == []
    assert "the budget is spent; run the command again to continue" in done.out


def test_the_best_evaluation_wins_and_of_equals_the_one_that_learns_sooner():
    ranked = standings(
        [
            line("ppo", 0, 0.5),
            line("rnd", 0, 0.9, [(10, 0.0), (20, 0.4)]),
            line("rnd", 1, 0.7, [(10, 0.0), (20, 0.2)]),
            line("count", 0, 0.8, [(10, 0.5), (20, 0.5)]),
        ]
    )
    assert [one.method for one in ranked] == ["count", "rnd", "ppo"]
    assert ranked[1].evaluation == pytest.approx(0.8)
    assert ranked[1].area == pytest.approx(0.15)
    assert ranked[1].seeds == 2
    assert verdict(ranked) == "count is the best so far"
    assert "needs no bonus" in verdict(standings([line("ppo", 0, 1.0), line("rnd", 0, 0.0)]))
    assert "no method stands out" in verdict(standings([line("ppo", 0, 0.0), line("rnd", 0, 0.0)]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env=chian"], "there is no env=chian; did you mean 'chain'?"),
        (["env=chain", "intrinsic=[rnd]"], "a race sets intrinsic for each training"),
        (["env=chain", "+total_steps=3"], "a race sets total_steps for each training"),
        (["env=chain", "only=ppo,rnt"], "only=ppo,rnt: there is no 'rnt'; did you mean 'rnd'?"),
        (["env=chain", "budget=soon"], "budget=soon: expected a time"),
        (["env=chain", "fast"], "firstlight-race takes KEY=VALUE, not 'fast'"),
        (["env=chain", "learner.lrr=1"], "there is no option learner.lrr; did you mean 'lr'?"),
        (["steps=10"], "choose an environment"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, message, empty):
    done = run(*words, status=2)
    (said,) = done.lines()
    assert message in said
    assert list(empty.iterdir()) == []


def test_an_environment_that_fails_is_named(empty, in_process, user_module):
    done = run(f"env._target_={user_module}.fail", "env.num_envs=1", status=2)
    assert "plain PPO fails on this environment" in done.lines()[-1]
    assert "no such luck" in done.lines()[-1]


def test_help_names_the_methods():
    assert "ppo, rnd, count, e3b, noveld, deir, etd" in run("--help").out
