"""``firstlight-race``: every method runs on the given environment, and the best is named."""

import json

import pytest
import yaml
from command_line import command
from trainings import InProcess

from firstlight.scripts import race, sweep
from firstlight.scripts.benchmarks.results import read_lines
from firstlight.scripts.sweeps import race_table, runner
from firstlight.scripts.sweeps.race_table import METHODS, standings, verdict

ENV = ("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "eval_episodes=2")
WORDS = (*ENV, "learner.num_epochs=1", "num_threads=1")


@pytest.fixture
def in_process(monkeypatch):
    """Trainings run in this process, which saves the start of one; gives their command lines."""
    started = []

    class Recorded(InProcess):
        def __init__(self, training):
            started.append(training.arguments)
            super().__init__(training)

    monkeypatch.setattr(runner, "TrainingProcess", Recorded)
    return started


def run(*words, status=0):
    done = command(race.main, *words)
    assert done.status == status, done.out + done.err
    return done


def line(method, seed, evaluation, curve=((10, 0.0),)):
    fields = {"eval_success": None, "seconds": 2.0, "curve": [list(point) for point in curve]}
    return {"method": method, "seed": seed, "eval_return": evaluation, **fields}


def test_every_method_runs_with_every_seed_and_is_ranked(empty, in_process):
    done = run(*WORDS, "steps=32", "seeds=2", "budget=1h")
    folder = empty / "runs/race/chain"
    results = read_lines(folder / "results.jsonl")
    assert [(r["method"], r["seed"]) for r in results] == [(m, s) for s in (0, 1) for m in METHODS]
    chosen = [next(w for w in words if w.startswith("intrinsic=")) for words in in_process]
    assert chosen[:7] == ["intrinsic=[]", *(f"intrinsic=[{name}]" for name in METHODS[1:])]
    rows = [row.split("│")[1].strip() for row in done.out.splitlines() if row.startswith("│")]
    assert rows == [one.method for one in standings(results)]
    winner = race_table.method_override(rows[0])
    words = " ".join(done.out.split())
    assert f"train it for longer: firstlight-train {' '.join(WORDS)}" in words
    assert f"'{winner}' total_steps=320 seed=0" in words


def test_the_same_command_continues_and_keeps_its_steps(empty, in_process):
    words = (*WORDS, "only=ppo,count", "seeds=1", "dir=mine")
    run(*words, "steps=32")
    assert len(in_process) == 2
    run(*words)
    assert len(in_process) == 2
    run(*words[:-2], "dir=mine", "seeds=2")
    assert [words[-2:] for words in in_process[2:]] == [
        ("run_dir=mine/task-ppo-s1-32", "resume=auto"),
        ("run_dir=mine/task-count-s1-32", "resume=auto"),
    ]
    assert yaml.safe_load((empty / "mine/race.yaml").read_text())["cap"] == 32
    assert command(sweep.main, "mine/race.yaml", "dir=mine").status == 0  # it is a table
    assert len(in_process) == 4
    done = run(*WORDS, "env.length=4", "dir=mine", status=2)
    assert "mine holds a race of env=chain env.length=3" in done.err


def test_the_steps_follow_from_the_budget_and_a_trial(empty, in_process, monkeypatch):
    monkeypatch.setattr(race_table, "TRIAL_STEPS", 64)
    monkeypatch.setattr(race, "measured_speed", spy := Spy(race.measured_speed))
    monkeypatch.setattr(race_table, "MIN_STEPS", 16)
    monkeypatch.setattr(race_table, "choose_steps", lambda *given: asked.append(given) or 48)
    asked = []
    run(*WORDS, "only=ppo,rnd,count", "seeds=3", "jobs=2", "budget=600")
    ((budget, trainings, speed, overhead),) = asked
    assert (budget, trainings) == (600, 5)
    assert speed > 0
    assert overhead >= 0
    assert in_process[0][-2:] == ("run_dir=runs/race/chain/speed/task-ppo-s0-64", "resume=auto")
    assert len(in_process) == 1 + 9
    assert json.loads((empty / "runs/race/chain/race.json").read_text())["steps"] == 48
    run(*WORDS, "only=ppo,rnd,count", "seeds=3", "jobs=2", "budget=600")
    assert spy.calls == 1


class Spy:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


def test_no_training_starts_after_the_budget(empty, in_process):
    done = run(*WORDS, "steps=32", "budget=0.000001")
    assert in_process == []
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
