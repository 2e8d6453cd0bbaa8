"""A table with a ``search``: Optuna finds, prunes, fails and goes on."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import trainings
from command_line import checked
from processes import fork, wait_until
from trainings import AtOnce

from firstlight.scripts import sweep
from firstlight.scripts.benchmarks.results import read_lines
from firstlight.scripts.sweeps import runner
from firstlight.scripts.sweeps.runner import Ended
from firstlight.scripts.sweeps.search_parts import make_pruner, num_trials

SEARCH = """
common: [env=chain, env.num_envs=2, trainer.num_steps=8]
search:
  parameters:
    env.length: [2, 9]
  objective: rollout/return_mean
  trials: 8
  cap: 160
  sampler: grid
  pruner: none
"""
RANGES = """
common: [env=chain]
search:
  parameters:
    learner.lr: {low: 1e-5, high: 1e-1, log: true}
    learner.num_epochs: {low: 1, high: 4}
    env.slippery: [true, null, text]
  objective: score
  trials: 6
  cap: 100
"""


class Curves(AtOnce):
    """Trainings that log a deterministic curve: the better, the shorter the chain."""

    stopped: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    points = 10

    def __init__(self, training):
        super().__init__(training)
        Curves.trained += (training.name,)
        options = dict(word.split("=", 1) for word in training.arguments)
        self.folder, self.cap = Path(options["run_dir"]), int(options["total_steps"])
        self.value = self.score(options)
        self.logged, self.ended = 0, False
        self.folder.mkdir(parents=True)

    @staticmethod
    def score(options):
        return 1 / int(options["env.length"])

    def stop(self):
        if not self.ended:
            Curves.stopped += (self.training.name,)
            self.ended = True

    def poll(self):
        if self.ended:
            return Ended(1.0, "SIGTERM")
        self.logged += 1
        line = {"step": self.cap * self.logged // self.points, "rollout/return_mean": self.value}
        line["score"] = self.value
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.logged < self.points:
            return None
        (self.folder / "status.json").write_text('{"status": "finished"}')
        return Ended(1.0)


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.setattr(runner, "TrainingProcess", Curves)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(Curves, "stopped", ())
    monkeypatch.setattr(Curves, "trained", ())
    return Curves


def run(text, *words, status=0):
    with open("search.yaml", "w") as file:
        file.write(text)
    return checked(sweep.main, "search.yaml", "dir=found", *words, status=status)


def trials(folder="found"):
    return read_lines(Path(folder) / "results.jsonl")


def test_the_better_of_two_settings_is_found(empty, curves):
    """A grid of two ends after two trials, although eight are asked for."""
    done = run(SEARCH)
    found = {trial["parameters"]["env.length"]: trial["value"] for trial in trials()}
    assert found == {2: 1 / 2, 9: 1 / 9}
    assert "2 of 2 trials: 2 complete" in done.out
    (best,) = [line for line in done.out.splitlines() if line.startswith("the best: ")]
    assert "env.length=2 seed=0 total_steps=160" in best
    best = run(SEARCH.replace("trials: 8", "trials: 8\n  direction: minimize"), status=2)
    assert "holds a search with maximise=True, now False" in best.err


def test_a_worse_trial_is_pruned_before_its_end(empty, curves):
    """The pruner compares reports at shares of the steps; the better trials run to their end."""
    lengths = "env.length: [2, 3, 4, 5, 6, 7, 8, 9]"
    text = SEARCH.replace("env.length: [2, 9]", lengths).replace(
        "pruner: none", "pruner: {_target_: optuna.pruners.MedianPruner, n_startup_trials: 2}"
    )
    run(text)
    states = [(trial["state"], 1 / trial["parameters"]["env.length"]) for trial in trials()]
    complete: list[float] = []
    for number, (state, value) in enumerate(states):
        median = sorted(complete)[(len(complete) - 1) // 2 :][:2] if complete else []
        middle = sum(median[: 2 - len(complete) % 2]) / max(1, 2 - len(complete) % 2)
        worse = number >= 2 and value < middle
        assert state == ("pruned" if worse else "complete"), (number, states)
        complete += [] if worse else [value]
    pruned = [f"trial-{n:04d}-s0" for n, (state, _) in enumerate(states) if state == "pruned"]
    assert list(curves.stopped) == pruned
    assert pruned
    for name in pruned:
        logged = Path("found", name, "metrics.jsonl").read_text().splitlines()
        assert len(logged) < curves.points


def test_a_curve_that_was_read_too_late_is_pruned_as_well(empty, curves, monkeypatch):
    """Whether a trial is pruned depends on its curve, not on how quickly it ran."""
    text = SEARCH.replace("[2, 9]", "[2, 3, 9, 8]").replace("pruner: none", "pruner: median")
    monkeypatch.setattr(curves, "points", 1)
    monkeypatch.setattr(
        "firstlight.scripts.sweeps.search.make_pruner",
        lambda *_: make_pruner({"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.2}, 20),
    )
    run(text)
    states = {trial["parameters"]["env.length"]: trial["state"] for trial in trials()}
    assert states == {2: "complete", 3: "complete", 9: "pruned", 8: "pruned"}
    assert curves.stopped == ()


def test_a_trial_is_the_mean_of_its_seeds_one_after_another(empty, curves, monkeypatch):
    score = staticmethod(lambda options: float(options["seed"]))
    monkeypatch.setattr(curves, "score", score)
    run(SEARCH.replace("trials: 8", "trials: 1\n  seeds: [1, 2, 6]"))
    assert curves.trained == ("trial-0000-s1", "trial-0000-s2", "trial-0000-s6")
    (trial,) = trials()
    assert (trial["value"], trial["values"]) == (3.0, [1.0, 2.0, 6.0])


def test_an_interrupted_search_goes_on_with_the_trials_it_would_have_had(
    empty, curves, monkeypatch
):
    score = staticmethod(lambda options: -abs(float(options["learner.lr"]) - 1e-3))
    monkeypatch.setattr(curves, "score", score)
    run(RANGES, "dir=whole")
    whole = trials("whole")
    assert len({trial["parameters"]["learner.lr"] for trial in whole}) == 6
    assert {type(trial["parameters"]["learner.num_epochs"]) for trial in whole} == {int}
    run(RANGES.replace("trials: 6", "trials: 2"))
    poll = curves.poll
    with monkeypatch.context() as patch:

        def killed(training):
            if training.training.name.startswith("trial-0003") and training.logged == 4:
                training.ended = True
                raise KeyboardInterrupt
            return poll(training)

        patch.setattr(curves, "poll", killed)
        run(RANGES, status=130)
    assert len(trials()) == 3
    shutil.rmtree(Path("found", "trial-0003-s0"))
    run(RANGES)
    assert trials() == whole
    before = Path("found", "results.jsonl").read_bytes()
    trained = curves.trained
    run(RANGES)
    assert curves.trained == trained
    assert Path("found", "results.jsonl").read_bytes() == before


def test_a_trial_that_fails_does_not_end_the_search(empty, curves, monkeypatch):
    def poll(training):
        return Ended(1.0, "there is no x") if training.value == 1 / 9 else curves_poll(training)

    curves_poll = curves.poll
    monkeypatch.setattr(curves, "poll", poll)
    done = run(SEARCH, status=1)
    assert {trial["state"]: trial.get("error") for trial in trials()} == {
        "complete": None,
        "fail": "there is no x",
    }
    assert "1 complete, 1 fail" in done.out
    curves.poll = curves_poll
    run(SEARCH)  # it is not tried again


def test_an_unknown_objective_names_the_nearest_tag(empty, curves):
    done = run(SEARCH.replace("return_mean", "return_men"), status=1)
    assert "no number 'rollout/return_men'; did you mean 'rollout/return_mean'?" in done.out


def test_two_processes_share_a_search(empty, tmp_path):
    """Each trial is run once; trainings are real, in forks."""
    (tmp_path / "shared.yaml").write_text(
        SEARCH.replace("[2, 9]", "[2, 3, 4, 5]").replace(
            "trainer.num_steps=8]", "trainer.num_steps=8, eval_episodes=2, num_threads=1]"
        )
    )
    words = tmp_path / "shared.yaml", f"dir={tmp_path / 'shared'}"
    helpers = [Path(trainings.__file__).parent]
    both = [fork("trainings:forking_sweep", *words, path=helpers) for _ in range(2)]
    outs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    found = read_lines(tmp_path / "shared" / "results.jsonl")
    assert sorted(trial["parameters"]["env.length"] for trial in found) == [2, 3, 4, 5]
    assert {trial["state"] for trial in found} == {"complete"}
    shown = "".join(outs)
    assert all(shown.count(f"trial-{number:04d} env.length=") == 1 for number in range(4))


def test_a_killed_search_continues_its_trial(empty, tmp_path):
    text = (
        SEARCH.replace("cap: 160", "cap: 800")
        .replace("[2, 9]", "[3]")
        .replace(
            "trainer.num_steps=8]",
            "trainer.num_steps=8, eval_episodes=2, num_threads=1, checkpoint.every=160]",
        )
    )
    (tmp_path / "search.yaml").write_text(text)
    helpers = [Path(trainings.__file__).parent]

    def start(folder):
        words = tmp_path / "search.yaml", f"dir={tmp_path / folder}"
        return fork("trainings:forking_sweep", *words, path=helpers)

    process = start("cut")
    wait_until(lambda: any((tmp_path / "cut/trial-0000-s0/checkpoints").glob("step_*")))
    process.kill()
    wait_until(lambda: process.poll() is not None)
    for folder in ("cut", "whole"):
        process = start(folder)
        out, _ = process.communicate()
        assert process.returncode == 0, out
    cut, whole = (read_lines(tmp_path / folder / "results.jsonl") for folder in ("cut", "whole"))
    assert cut == whole
    assert len(cut) == 1


def test_without_optuna_one_line_says_how_to_install_it(empty, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    (line,) = run(SEARCH, status=2).lines()
    assert line == (
        "firstlight: a search needs Optuna, which is not installed: pip install 'firstlight[tune]'"
    )
    assert [path.name for path in empty.iterdir()] == ["search.yaml"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("parameters", "parameter"), "search.parameter: there is no such key; did you mean"),
        (("trials: 8", ""), "search.trials is missing"),
        (("trials: 8", "trials: many"), "search.trials=many: expected a whole number"),
        (("grid", "gridd"), "search.sampler: there is no 'gridd'; did you mean 'grid'?"),
        (("pruner: none", "pruner: medium"), "there is no 'medium'; did you mean 'median'?"),
        (("[2, 9]", "{low: 1}"), "search.parameters.env.length.high is missing"),
        (("[2, 9]", "{low: 3, high: 1}"), "env.length: low is above high"),
        (("[2, 9]", "{low: 0, high: 1, log: true}"), "env.length.log: needs low above 0"),
        (("[2, 9]", "{low: 0.5, high: 1.0}"), "env.length: a grid needs a list, or a step"),
        (
            ("[2, 9]", "{low: 0, hihg: 1}"),
            "env.length.hihg: there is no such key; did you mean 'high'?",
        ),
        (("[2, 9]", "3"), "env.length=3: expected a list, or low and high"),
        (("[2, 9]", "[[2], [9]]"), "env.length: expected text, numbers, true, false or null"),
        (("grid", "{_target_: optuna.samplers.Nothing}"), "search.sampler: "),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_bad_search_is_one_line_that_names_the_key(change, part, empty):
    assert change[0] in SEARCH
    (line,) = run(SEARCH.replace(*change), status=2).lines()
    assert part in line
    assert [path.name for path in empty.iterdir()] == ["search.yaml"]


def test_a_grid_has_as_many_trials_as_points():
    parameters = {"a": [1, 2, 3], "b": {"low": 1, "high": 4}, "c": {"low": 0, "high": 1, "step": 1}}
    assert num_trials(100, "grid", parameters) == 3 * 4 * 2
    assert num_trials(5, "grid", parameters) == 5
    assert num_trials(100, "tpe", parameters) == 100
