"""Files that a training run writes, and the default name of its directory."""

import json
import shlex

import torch
from command_line import metrics
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.scripts.report.run_data import grouped, read_run
from firstlight.scripts.report.run_page import run_page
from firstlight.scripts.run_options import run_name


def test_a_run_writes_its_directory_and_nothing_else(finished, finished_run):
    assert [path.name for path in finished.iterdir()] == ["runs"]
    names = {path.name.split(".tfevents.")[0] for path in finished_run.iterdir()}
    files = {"config.yaml", "metrics.jsonl", "status.json", "events.out", "run.lock"}
    assert names == files | {"checkpoints"}
    folders = {path.name for path in (finished_run / "checkpoints").iterdir()}
    assert folders == {"best", "step_000000000032"}
    status = json.loads((finished_run / "status.json").read_text())
    assert (status["status"], status["step"], status["error"]) == ("finished", 32, None)


def test_config_yaml_begins_with_the_command(finished_run, words):
    run = read_run(finished_run)
    assert run.command == shlex.join(["firstlight-train", *words, "eval_every=16"])
    assert run.seed == 0
    assert "reward/count/share" in run_page(grouped([run]))


def test_config_yaml_is_resolved(finished_run):
    text = (finished_run / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    config = OmegaConf.load(finished_run / "config.yaml")
    assert config.run_dir == f"runs/{finished_run.name}"
    assert config.intrinsic.count["_target_"] == "firstlight.intrinsic.HashCount"
    assert config.policy.critic_encoder == config.encoder
    assert (config.env.length, config.total_steps, config.seed) == (3, 32, 0)


def test_tensorboard_and_metrics_jsonl_hold_the_same_values(finished_run):
    board = EventAccumulator(str(finished_run), size_guidance={"scalars": 0}).Reload()
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in metrics(finished_run):
        for tag in line.keys() - {"step", "time"}:
            expected.setdefault(tag, []).append((int(line["step"]), line[tag]))
    shown = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }
    assert shown.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in shown[tag]] == [step for step, _ in points]
        rounded = torch.tensor([value for _, value in points], dtype=torch.float32).tolist()
        assert [value for _, value in shown[tag]] == rounded, tag


def test_every_kind_of_metric_is_logged(finished_run):
    lines = metrics(finished_run)
    assert [line["step"] for line in lines] == [16, 32]
    parts = ("raw", "scaled", "weighted", "share")
    tags = {f"reward/{source}/{part}" for source in ("reward", "count") for part in parts}
    tags |= {"rollout/return_mean", "value/count/explained_variance", "perf/steps_per_second"}
    tags |= {"eval/return_mean", "eval/success_rate", "train/approx_kl", "rollout/success_rate"}
    assert tags <= lines[0].keys() | lines[1].keys()  # means wait for whole cohorts
    assert lines[1]["time"] > lines[0]["time"] >= 0


def test_the_default_directory_is_named_by_the_choices(finished_run):
    assert finished_run.name == "chain-ppo-count-s0"


def name(*overrides: str, sweep: bool = False, **changed: str | None) -> str:
    """Name of a run of DoorKey with a count bonus, and with options of a module not chosen."""
    cfg = OmegaConf.create({"intrinsic": {"count": {"_target_": "x"}, "off": {}}, "seed": 3})
    choices = {"env": "minigrid/doorkey_8x8", "learner": "ppo", "mixer": "heads"}
    return run_name(cfg, {**choices, **changed}, overrides, sweep=sweep)


def test_a_name_holds_environment_learner_modules_and_seed():
    plain = "minigrid-doorkey_8x8-ppo-count-s3"
    words = ("env=minigrid/doorkey_8x8", "intrinsic=[count]", "seed=3", "total_steps=7")
    assert name(*words, "learner.lr=1e-3", "intrinsic.count.scope=episodic") == plain
    different = [
        plain,
        name(mixer="sum"),
        name(auxiliary="rapid"),
        name(env="gym"),
        name("env.id=CartPole-v1", env="gym"),
        name("env.id=Acrobot-v1", env="gym"),
        name("env._target_=pkg.make_env", env="custom"),
        name("~learner", "+learner._target_=pkg.Mine", learner=None),
    ]
    assert len(set(different)) == len(different)
    assert not any(set(made) & set("/ =[]{}'") for made in different)


def test_names_of_a_sweep_differ_from_job_to_job():
    plain = name("env=minigrid/doorkey_8x8", "intrinsic=[count]", "seed=3", sweep=True)
    assert plain == name()
    assert name("total_steps=7", "device=cpu", "stop_at=0.9", sweep=True) == plain
    one_order = name("a=1", "learner.lr=1e-3", sweep=True)
    assert name("learner.lr=1e-3", "a=1", sweep=True) == one_order
    different = [
        plain,
        name("learner.lr=1e-3", sweep=True),
        name("learner.lr=1e-4", sweep=True),
        name("intrinsic.rnd.lr=1e-3", sweep=True),
        name("experiment=agac", sweep=True),
        name("env.size={a: [1, 2]}", sweep=True),
    ]
    assert len(set(different)) == len(different)
    assert not any(set(made) & set("/ =[]{}':,") for made in different)
