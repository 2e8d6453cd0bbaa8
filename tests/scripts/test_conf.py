"""Every YAML of ``conf/`` fits the code: its targets, keywords, values and choices."""

import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from firstlight.intrinsic import Term
from firstlight.intrinsic.language.motif_training import MotifReward
from firstlight.intrinsic.language.reward_models import Ranking
from firstlight.scripts.build import make_learner
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.train import train

CONF = Path(__file__).resolve().parents[2] / "conf"
RUNTIME = {  # what scripts/build.py passes, because only a run knows it
    *("obs_space", "act_space", "info_space", "num_streams", "vec", "policy", "encoder"),
    *("critic_encoder", "learner", "modules", "mixer", "run_dir", "resume", "seed", "device"),
    *("in_dim", "text_table", "algorithm", "evaluator", "model", "options"),
}
STATED = (
    "learner/",
    "intrinsic/",
    "trainer/",
    "auxiliary/",
    "core/",
    "designer/",
    "tracker/",
)  # groups that state the defaults
OVERLAYS = ("bench", "designer", "experiment", "sweep")  # no groups of firstlight-train
FILES = sorted(CONF.rglob("*.yaml"))
CHOICES = [
    (path.relative_to(CONF).parts[0], path.relative_to(CONF / path.relative_to(CONF).parts[0]))
    for path in FILES
    if path.parent != CONF and path.relative_to(CONF).parts[0] not in OVERLAYS
]
NEEDED = {
    "custom": ["env._target_=firstlight.envs.Chain"],
    "gym": ["env.id=CartPole-v1"],
    "envpool": ["env.id=CartPole-v1"],
    "pool": ["env.id=CartPole-v1"],
    "minigrid/any": ["env.task=MiniGrid-Empty-5x5-v0"],
    "nethack/any": ["env.task=NetHackScore-v0"],
    "minihack/any": ["env.task=MiniHack-River-v0"],
}
NEEDED_ENV = {  # of modules that do not work on `chain`
    "ellm": "env=minigrid/doorkey_5x5",
    "amigo": "env=minigrid/doorkey_5x5",
    "beacons": "env=minigrid/doorkey_5x5",
    "beacons_paper": "env=minigrid/doorkey_5x5",
    "calm": "env=minigrid/doorkey_5x5",
    "lamigo": "env=minigrid/doorkey_5x5",
    "map_change": "env=minigrid/doorkey_5x5",
    "motif": "env=minigrid/doorkey_5x5",
    "oni": "env=minigrid/doorkey_5x5",
    "oni_paper": "env=minigrid/doorkey_5x5",
    "submodular": "env=minigrid/doorkey_5x5",
}
PROGRAM = Path(__file__).parents[1] / "helpers" / "step_program.py"
NEEDED_OPTIONS = {"program": [f"intrinsic.program.file={PROGRAM}"]}  # of modules
SMALL = (
    *("trainer.num_steps=8", "env.num_envs=2", "total_steps=32", "eval_episodes=2"),
    *("learner.minibatch_size=16", "learner.num_epochs=1", "device=cpu"),
)


def name_of(path: Path) -> str:
    return path.with_suffix("").as_posix()


def nodes(config: Any, where: str) -> Iterator[Any]:
    """Yield every node with a target, with its path as the test's id."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield pytest.param(config, id=where)
        for key, value in config.items():
            yield from nodes(value, f"{where}.{key}")
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from nodes(value, f"{where}[{i}]")


def read(path: Path) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(config, dict)
    return config


NODES = [
    node
    for path in FILES
    for node in nodes(read(path), name_of(path.relative_to(CONF)))
    if node.values[0]["_target_"] != "???"
]


def locate(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def keywords(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def alike(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def compose(*overrides: str) -> Any:
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        return hydra.compose("train", list(overrides))


def test_every_group_has_choices():
    assert {group for group, _ in CHOICES} == {
        *(
            "auxiliary",
            "core",
            "encoder",
            "env",
            "intrinsic",
            "learner",
            "mixer",
            "policy",
            "tracker",
            "trainer",
        )
    }
    assert len(NODES) >= len(CHOICES)


@pytest.mark.parametrize("node", NODES)
def test_a_target_can_be_imported_and_takes_the_keys(node):
    parameters = inspect.signature(locate(node["_target_"])).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        assert set(keywords(node)) <= set(parameters)
    required = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    assert required - set(keywords(node)) <= RUNTIME


PAPER = "_paper"
"""End of the name of a file with published constants, which differ from the defaults."""


@pytest.mark.parametrize(
    "node", [n for n in NODES if n.id.startswith(STATED) and PAPER not in n.id]
)
def test_values_are_the_constructors_defaults(node):
    parameters = inspect.signature(locate(node["_target_"])).parameters
    stated = {name: value for name, value in keywords(node).items() if value != "???"}
    assert stated == {name: alike(parameters[name].default) for name in stated}


@pytest.mark.parametrize("path", sorted((CONF / "intrinsic").glob("*.yaml")), ids=lambda p: p.stem)
def test_intrinsic_terms_are_the_modules_own(path):
    config = read(path)
    assert path.read_text().startswith("# @package _global_\n")
    (name,) = config["intrinsic"]
    assert name == path.stem
    assert set(config) <= {"intrinsic", "mixer"}
    terms = config.get("mixer", {}).get("terms", {})
    assert set(terms) <= {name}
    if name.endswith(PAPER):
        base = read(path.with_stem(name.removesuffix(PAPER)))
        (ours,), (published,) = base["intrinsic"].values(), config["intrinsic"].values()
        assert list(published) == list(ours)
        assert config != base
        return
    default = locate(config["intrinsic"][name]["_target_"]).default_term()
    stated = terms.get(name, {})
    assert stated == {key: getattr(default, key) for key in stated}


@pytest.mark.parametrize("path", sorted((CONF / "mixer").glob("*.yaml")), ids=lambda p: p.stem)
def test_mixers_have_a_term_for_the_reward_with_default_values(path):
    terms = read(path)["terms"]
    assert set(terms) == {"reward"}
    assert set(terms["reward"]) <= {field.name for field in fields(Term)}
    assert terms["reward"] == {key: getattr(Term(), key) for key in terms["reward"]}


@pytest.mark.parametrize(
    ("group", "path"),
    [choice for choice in CHOICES if choice[0] not in ("env", "intrinsic")],
    ids=lambda v: str(v),
)
def test_every_choice_composes(group, path):
    config = OmegaConf.to_container(compose(f"{group}={name_of(path)}"), resolve=True)
    chosen = read(CONF / group / path)
    if group == "tracker":
        assert config["tracker"] == chosen["tracker"]
    elif group == "auxiliary":
        assert config["learner"]["auxiliaries"] == chosen["learner"]["auxiliaries"]
    else:
        chosen = chosen.get(group, chosen)  # a file of the global package names its group
        assert config[group].keys() == chosen.keys()
        assert config[group]["_target_"] == chosen["_target_"]


def test_all_modules_compose_together():
    paths = [path for group, path in CHOICES if group == "intrinsic"]
    made = compose(f"intrinsic=[{','.join(map(name_of, paths))}]")
    config = OmegaConf.to_container(made, resolve=True)
    chosen = [read(CONF / "intrinsic" / path)["intrinsic"] for path in paths]
    assert config["intrinsic"] == {name: node for each in chosen for name, node in each.items()}


@pytest.mark.parametrize("path", [p for g, p in CHOICES if g == "env"], ids=lambda p: name_of(p))
def test_every_environment_composes_and_opens(path):
    name, chosen = name_of(path), read(CONF / "env" / path)
    if name == "maze/ant":
        pytest.importorskip("mujoco")
    here = name.startswith(("nethack/", "minihack/")) and name != "nethack/score"  # saves seconds
    serial = ["env.backend=serial"] if here else []
    overrides = [f"env={name}", "env.num_envs=1", *NEEDED.get(name, ()), *serial]
    config = compose(*overrides)
    assert config.env.keys() == chosen.keys()
    assert chosen["_target_"] in (config.env["_target_"], "???")
    vec = make_vec(config.env)
    obs, _ = vec.reset(0)
    vec.close()
    assert {name: tuple(field.shape[1:]) for name, field in obs.items()} == {
        name: space.shape for name, space in vec.obs_space.spaces.items()
    }


OWN = ("lunarlander", "mountaincar_continuous")
"""Experiments that need their own environment."""


def environment(name: str) -> list[str]:
    """Overrides of an experiment that needs its own environment, for `small_config`."""
    chosen = read(CONF / "experiment" / f"{name}.yaml")["defaults"]
    own = [f"env={part['override /env']}" for part in chosen if "override /env" in part]
    if name == "subrl_ant":
        own += ["+env.terminate_when_unhealthy=false"]  # a fall would cost a step, for the reset
    return own if name.startswith("subrl_") or name in OWN else []


def small_config(tmp_path: Path, *overrides: str) -> Any:
    """The config of two iterations, on `chain` unless `overrides` names another environment."""
    config = compose("env=chain", *overrides, *SMALL, f"run_dir={tmp_path / 'run'}")
    if "motif" in config.intrinsic:
        file = tmp_path / "reward.safetensors"
        MotifReward(Ranking(length=54), 0.0, 1.0, torch.zeros(1)).save(file)
        config.intrinsic.motif.file = str(file)
    for module in needing_warm_up(config):
        module.warmup_steps = 1
    config.total_steps += 2 if needing_warm_up(config) else 0
    return config


def needing_warm_up(config: Any) -> list[Any]:
    return [module for module in config.intrinsic.values() if "warmup_steps" in module]


def trained(config: Any) -> list[dict[str, Any]]:
    """The metrics of the run of a `small_config`, without the warm-up."""
    train(config)
    text = (Path(config.run_dir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()][bool(needing_warm_up(config)) :]


def run_twice(tmp_path: Path, *overrides: str) -> list[dict[str, Any]]:
    """The metrics of two iterations."""
    return trained(small_config(tmp_path, *overrides))


EXPERIMENTS = [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_two_iterations(name, tmp_path):
    config = small_config(tmp_path, f"experiment={name}", "encoder=auto", *environment(name))
    lines = trained(config)
    assert len(lines) == 2
    for module in config.intrinsic:
        assert all(f"reward/{module}/raw" in line for line in lines)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_without_its_modules(name, tmp_path):
    words = (f"experiment={name}", "encoder=auto", "intrinsic=[]", *environment(name))
    config = small_config(tmp_path, *words)
    lines = trained(config)
    assert len(lines) == 2
    weight = config.mixer.terms.reward.get("weight", 1.0)  # 0 is absence
    found = {key.split("/")[1] for key in lines[0] if key.startswith("reward/")}
    assert found == ({"reward"} if weight else set())


@pytest.mark.parametrize(
    "overrides",
    [
        *(
            [
                "intrinsic=[" + path.stem + "]",
                NEEDED_ENV.get(path.stem, "env=chain"),
                *NEEDED_OPTIONS.get(path.stem, []),
            ]
            for g, path in CHOICES
            if g == "intrinsic"
        ),
        ["intrinsic=[count,rnd]", "mixer=sum", "policy=separate"],
        ["intrinsic=[rnd,count]", "mixer=heads", "encoder=mlp", "intrinsic.count.scope=episodic"],
        ["intrinsic=[count]", "intrinsic.count.keys=[position]"],
        *([f"auxiliary={name_of(path)}"] for g, path in CHOICES if g == "auxiliary"),
        ["core=gru", "intrinsic=[rnd]", "learner.sequence_length=4", "learner.burn_in=4"],
        ["core=lstm", "core.num_layers=2", "policy=separate"],
        ["core=gru", "core.skip=true", "encoder=twin_mlp", "auxiliary=lucy"],
        ["auxiliary=rapid", "learner.auxiliaries.0.size=7", "policy=separate"],
        ["learner.auxiliaries=[{_target_:firstlight.agents.algorithms.auxiliaries.Rapid}]"],
        ["learner=appo", "intrinsic=[count,rnd]", "core=gru", "auxiliary=lucy"],
        ["learner=appo", "trainer=default", "learner.estimator=gae"],
        ["learner=ppo", "trainer=async", "trainer.when_full=drop_oldest"],
    ],
    ids=" ".join,
)
def test_choices_run_two_iterations(overrides, tmp_path):
    lines = run_twice(tmp_path, *overrides)
    assert [line["step"] for line in lines][-1] - lines[0]["step"] == 16
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.auxiliaries=[rapid]"], "see auxiliary="),
        (["auxiliary=rapid", "+learner.auxiliaries.0.sizes=5"], "takes no 'sizes'; did you mean"),
        (["auxiliary=rapid", "learner.auxiliaries.0.size=0"], "Rapid: .*|size is 0"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_auxiliaries_are_refused(overrides, message, tmp_path):
    with pytest.raises(BadInputError, match=message):
        run_twice(tmp_path, *overrides)


def test_auxiliaries_of_a_learner_that_takes_none_are_refused():
    rapid = {"_target_": "firstlight.agents.algorithms.auxiliaries.Rapid"}
    node = {"_target_": "firstlight.agents.session.progress.Progress", "auxiliaries": [rapid]}
    with pytest.raises(BadInputError, match="Progress takes no 'auxiliaries'"):
        make_learner(node, None, 0)


@pytest.mark.parametrize("name", NEEDED_ENV)
def test_a_module_that_needs_another_environment_is_refused(name, tmp_path):
    with pytest.raises(BadInputError, match=r"needs MiniGrid's view|no text to judge|whole levels"):
        run_twice(tmp_path, f"intrinsic=[{name}]")


def test_the_order_of_modules_does_not_change_training(tmp_path):
    one = run_twice(tmp_path / "one", "intrinsic=[count,rnd]", "mixer=sum")
    two = run_twice(tmp_path / "two", "intrinsic=[rnd,count]", "mixer=sum")
    same = ("reward/count/raw", "reward/rnd/raw", "train/entropy", "rollout/episodes")
    for a, b in zip(one, two, strict=True):
        assert [a[tag] for tag in same] == pytest.approx([b[tag] for tag in same], rel=1e-4)
