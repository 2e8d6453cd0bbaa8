"""Searches from the command line: every learner runs, resumes bit for bit, and is evaluated."""

import importlib.util
import json
import random
import shutil
import signal
import time

import numpy as np
import pytest
from command_line import command
from processes import finish, lines, logged, start, wait_for_lines
from toy_search import TinyAutoencoder, use_plain_ribs

from firstlight.agents import load
from firstlight.agents.search import autoencoder
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status
from firstlight.scripts import evaluate, train

TASK = (
    *("env=maze/hard", "env.max_steps=20", "env.max_travel=4.0", "evaluator.num_threads=1"),
    *("eval_episodes=2", "eval_every=null", "device=cpu", "num_threads=1"),
)
GROUP = ("learner.population_size=8", "learner.num_archived=2", "trainer.batch_evaluations=16")
CHUNKS = ("learner.chunk=24", "learner.bootstrap_steps=3", "env.goals=[[80,470,60]]")
LEARNS = ("learner.max_epochs=1", "learner.latent=2")
LEARNERS = {
    "ns": GROUP,
    "nslc": GROUP,
    "nsga2": GROUP,
    "random_search": ("learner.batch_size=9",),
    "serene": (*GROUP, *CHUNKS),
    "taxons": (*GROUP, *LEARNS, "learner.chunk=24"),
    "stax": (*GROUP, *CHUNKS, *LEARNS),
    "map_elites": ("learner.population_size=8", "learner.batch_size=9"),
    "cma_me": ("learner.num_emitters=2", "trainer.batch_evaluations=30"),
}


def goals(words):
    """`env.goals` is no key of the YAML, so it is added."""
    return [f"+{word}" if word.startswith("env.goals") else word for word in words]


@pytest.mark.parametrize("name", LEARNERS)
def test_every_search_trains_and_is_evaluated(name, tmp_path, monkeypatch):
    if name in ("map_elites", "cma_me"):
        pytest.importorskip("ribs")
        use_plain_ribs(monkeypatch)
    monkeypatch.setattr(autoencoder, "Autoencoder", TinyAutoencoder)
    monkeypatch.chdir(tmp_path)
    words = [*TASK, f"learner={name}", *goals(LEARNERS[name]), "run_dir=run"]
    done = command(train.main, *words, "total_steps=1000", f"heat_maps={name == 'serene'}".lower())
    assert done.status == 0, done.err
    found = lines("run")
    last = found[-1]
    assert last["step"] == last["search/evaluations"] * 20 >= 1000
    assert last["rollout/episodes"] == last["search/evaluations"]
    assert 0 < last["search/coverage"] <= 1
    best = max(line["search/area_1/best"] for line in found)
    assert last["eval/return_mean"] == pytest.approx(best)
    assert read_status("run").resume == "state"
    if name != "serene":  # which stands for all: the rest takes a second
        return
    names = {path.name.split("_", 2)[2] for path in (tmp_path / "run/pictures").iterdir()}
    assert {"coverage.png", "first_seen.png", "archive.png", "reward_archive.png"} <= names
    result = command(evaluate.main, "run=run", "episodes=3").result()
    assert result["return_mean"] == pytest.approx(best)
    assert result["length_mean"] == 20
    action, _ = load("run").act({"sensors": np.ones(5, np.float32)})
    assert action.shape == (2,)


def test_a_resumed_search_continues_and_another_seed_differs(tmp_path):
    words = [*TASK, "learner=serene", *goals(LEARNERS["serene"]), "checkpoint.every=640"]
    for run, *parts in (("whole", "4000"), ("parts", "1300", "2600", "4000")):
        for total in parts:
            run_dir = f"run_dir={tmp_path / run}"
            done = command(train.main, *words, f"total_steps={total}", run_dir, "resume=auto")
            assert done.status == 0, done.err
    whole, parts = (
        [{k: v for k, v in line.items() if "eval/" not in k} for line in logged(tmp_path / run)]
        for run in ("whole", "parts")
    )
    assert whole == parts
    saved = [
        checkpoint.load(checkpoint.newest(tmp_path / run / "checkpoints"))
        for run in ("whole", "parts")
    ]
    archives = [state["search"]["archive"]["genome"] for state in saved]
    assert np.array_equal(*archives)


def test_a_killed_search_ends_like_one_that_was_not(soak, tmp_path):
    """Real SIGKILL and SIGTERM at random moments, with compiled loops in two threads."""
    words = [*TASK, "learner=serene", *goals(LEARNERS["serene"]), "checkpoint.every=640"]
    words += ["evaluator.num_threads=2", "env.max_steps=100", "trainer.batch_evaluations=24"]
    total = f"total_steps={100 * 24 * (400 if soak.full else 30)}"
    finish(tmp_path / "whole", total, *words)
    killed, dice = tmp_path / "killed", random.Random(3)
    for i in soak.times(2, 20):
        process = start(killed, total, *words, "resume=auto")
        wait_for_lines(process, killed, len(lines(killed)) + 1)
        time.sleep(dice.uniform(0, 0.2))
        process.send_signal(signal.SIGTERM if i % 2 else signal.SIGKILL)
        process.communicate()
    finish(killed, total, *words, "resume=auto")
    assert logged(killed) == logged(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learner=ns", "intrinsic=[rnd]"], "NoveltySearch searches by whole episodes"),
        (["learner=ns", "learner.population_size=0"], "population_size is 0"),
        (["learner=ns", "checkpoint.barrier=true"], "checkpoint.barrier=true"),
        (["learner=ns", "init_from=other"], "init_from=other"),
        (["learner=ns", "alternate=true"], "alternate=true"),
        (["learner=ns", "doctor=true"], "doctor=true"),
        (["learner=ns", "trainer=default"], "give trainer=search"),
        (["learner=ns", "env=gym", "env.id=CartPole-v1"], "a map needs positions"),
        (["learner=taxons", "learner.trained=false"], "give selection=novelty"),
        (["learner=serene", "learner.emitter=fit"], "emitter is 'fit'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(words, message, tmp_path):
    run_dir = tmp_path / "run"
    base = TASK[3:] if "env=gym" in words else TASK
    if "trainer=default" in words:  # where there is no evaluator
        base = [word for word in base if not word.startswith("evaluator")]
    done = command(train.main, *base, *words, f"run_dir={run_dir}")
    assert done.status == 2
    assert message in done.lines()[-1]
    assert not (run_dir / "metrics.jsonl").exists()


def test_a_resumed_search_refuses_other_options(tmp_path):
    words = [*TASK, "learner=ns", *GROUP, f"run_dir={tmp_path / 'run'}", "total_steps=400"]
    assert command(train.main, *words).status == 0
    done = command(train.main, *words, "resume=auto", "learner.sigma=0.1")
    assert done.status == 2
    assert "learner.sigma=0.05 is now 0.1" in done.lines()[-1]
    config = (tmp_path / "run/config.yaml").read_text()
    assert "evaluator:" in config
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "finished"


def test_ppo_begins_where_a_search_was_rewarded_and_is_evaluated_at_true_starts(tmp_path):
    search, run = tmp_path / "search", tmp_path / "ppo"
    words = [*TASK, *goals(["env.goals=[[80,470,60]]"])]
    made = [*words, "learner=ns", *GROUP, f"run_dir={search}", "total_steps=1000"]
    assert command(train.main, *made).status == 0
    words = [word for word in words if not word.startswith("evaluator")]
    words += [f"reset_points={search}", "env.num_envs=4", "trainer.num_steps=32"]
    done = command(train.main, *words, f"run_dir={run}", "total_steps=2560", "reset_share=0.75")
    assert done.status == 0, done.err
    last = lines(run)[-1]
    ended = last["rollout/episodes"]
    assert 10 < last["rollout/reset_point_episodes"] < ended
    assert last["rollout/length_mean"] == last["eval/length_mean"] == 20  # a true start's
    assert 2560 / ended < 20  # episodes from points have fewer steps left
    shutil.move(search, tmp_path / "moved")  # a resumed run has the points
    again = [*words, f"run_dir={run}", "resume=auto", "reset_share=0.75"]
    done = command(train.main, *again, "total_steps=3840")
    assert done.status == 0, done.err
    assert lines(run)[-1]["rollout/reset_point_episodes"] > last["rollout/reset_point_episodes"]
    refused = command(train.main, *words, "alternate=true", f"run_dir={tmp_path / 'no'}")
    assert (refused.status, "alternate=true and reset_points" in refused.err) == (2, True)
    empty = f"reset_points={run}"
    refused = command(train.main, *words, empty, f"run_dir={tmp_path / 'no'}")
    assert (refused.status, "is no run of a search" in refused.err) == (2, True)


def test_a_search_by_ray_is_the_one_of_this_process(tmp_path):
    """The command in full, also with episodes that are random."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    tasks = {
        "maze": [*TASK, "learner=serene", *goals(LEARNERS["serene"])],
        "grid": ["env=minigrid/doorkey_5x5", "env.num_envs=4", "learner=ns", *GROUP, *TASK[4:]],
    }
    for task, words in tasks.items():
        for way in ("local", "ray"):
            run = tmp_path / task / way
            made = [*words, "total_steps=3000", f"search.evaluator={way}", f"run_dir={run}"]
            done = command(train.main, *made)
            assert done.status == 0, done.err
        assert logged(tmp_path / task / "ray") == logged(tmp_path / task / "local")
