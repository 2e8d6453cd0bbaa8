"""The commands: what they leave behind, what they print, and what they say to bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from command_line import Done, command
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.scripts import evaluate, train
from firstlight.scripts.errors import nearest, signals_end, signals_wait
from firstlight.scripts.train import run_name

SMALL = (
    *("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "total_steps=32"),
    *("learner.num_epochs=1", "eval_episodes=4", "device=cpu"),
)
KEYS = ["return_mean", "return_std", "success_rate", "episodes", "length_mean"]
KEYS += ["env", "step", "seed"]
OUTSIDE = """
import signal
import gymnasium
from firstlight.envs import Chain

def make_chain(num_envs, length=3):
    return Chain(num_envs, length=length)

def complain():
    raise ValueError("no such luck")

def nothing(num_envs):
    return 3

class Stops(Chain):
    kind = None
    left = 3
    def step(self, action):
        self.left -= 1
        if self.left < 0:
            raise self.kind("stopped")
        return super().step(action)

class Fails(Stops):
    kind = RuntimeError

class Interrupted(Stops):
    kind = KeyboardInterrupt

class Signalled(Chain):
    heard = False
    def step(self, action):
        if not self.heard:
            self.heard = True
            signal.raise_signal(signal.SIGINT)
        return super().step(action)
"""


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def result(done: Done | subprocess.CompletedProcess[str]) -> dict:
    out = done.out if isinstance(done, Done) else done.stdout
    return json.loads(out.splitlines()[-1])


def content(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Where a process of its own trained with the default run directory."""
    cwd = tmp_path_factory.mktemp("cwd")
    words = (*SMALL, "intrinsic=[count]", "policy=separate", "eval_every=16")
    done = python("-m", "firstlight.scripts.train", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("finished at 32 steps; everything is in runs/")
    return cwd


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    """A copy of that run as `tmp_path / "run"`; `tmp_path` is the current folder."""
    monkeypatch.chdir(tmp_path)
    (only,) = (finished / "runs").iterdir()
    shutil.copytree(only, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A module of the user's own."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "outside_cli.py").write_text(OUTSIDE)
    sys.path.insert(0, str(folder))
    yield "outside_cli"
    sys.path.remove(str(folder))


# --- help


def spent_by_children():
    """Seconds of processor time of all processes that were waited for."""
    spent = os.times()
    return spent.children_user + spent.children_system


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_help_is_quick_and_free_of_torch(name, tmp_path):
    seconds = []  # of the processor: those on the wall say what else it was doing
    for _ in range(3):
        began = spent_by_children()
        words = ("-X", "importtime", "-m", f"firstlight.scripts.{name}", "--help")
        done = python(*words, cwd=tmp_path)
        seconds.append(spent_by_children() - began)
        assert done.returncode == 0
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "hydra" in imported
        assert not {"torch", "gymnasium", "numpy"} & imported
    assert min(seconds) < 2
    wanted = {"train": "total_steps: 1000000", "evaluate": "episodes: 100"}
    assert wanted[name] in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_installed_commands_are_the_functions_tested_here():
    found = {entry.name: entry for entry in entry_points(group="console_scripts")}
    assert found["firstlight-train"].load() is train.main
    assert found["firstlight-evaluate"].load() is evaluate.main


# --- what a run leaves


def test_a_run_writes_its_directory_and_nothing_else(finished):
    assert [path.name for path in finished.iterdir()] == ["runs"]
    (run,) = (finished / "runs").iterdir()
    names = {path.name.split(".tfevents.")[0] for path in run.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "status.json", "checkpoints", "events.out"}
    folders = {path.name for path in (run / "checkpoints").iterdir()}
    assert folders == {"best", "step_000000000032"}
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["step"], status["error"]) == ("finished", 32, None)


def test_the_default_directory_names_what_was_chosen(finished):
    (run,) = (finished / "runs").iterdir()
    assert run.name == "chain-ppo-count-s0"


def test_config_yaml_is_resolved(finished):
    (run,) = (finished / "runs").iterdir()
    text = (run / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    config = OmegaConf.load(run / "config.yaml")
    assert config.run_dir == f"runs/{run.name}"
    assert config.intrinsic.count["_target_"] == "firstlight.intrinsic.HashCount"
    assert config.policy.critic_encoder == config.encoder
    assert (config.env.length, config.total_steps, config.seed) == (3, 32, 0)


def test_tensorboard_says_what_metrics_jsonl_says(finished):
    (run,) = (finished / "runs").iterdir()
    board = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    told: dict[str, list[tuple[int, float]]] = {}
    for line in metrics(run):
        for tag in line.keys() - {"step", "time"}:
            told.setdefault(tag, []).append((int(line["step"]), line[tag]))
    shown = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }
    assert shown.keys() == told.keys()
    for tag, points in told.items():
        assert [step for step, _ in shown[tag]] == [step for step, _ in points]
        expected = torch.tensor([value for _, value in points], dtype=torch.float32).tolist()
        assert [value for _, value in shown[tag]] == expected, tag


def test_every_kind_of_metric_is_there(finished):
    (run,) = (finished / "runs").iterdir()
    lines = metrics(run)
    assert [line["step"] for line in lines] == [16, 32]
    parts = ("raw", "scaled", "weighted", "share")
    tags = {f"reward/{source}/{part}" for source in ("reward", "count") for part in parts}
    tags |= {"rollout/return_mean", "value/count/explained_variance", "perf/steps_per_second"}
    tags |= {"eval/return_mean", "eval/success_rate", "train/approx_kl", "rollout/success_rate"}
    assert tags <= lines[0].keys()
    assert lines[1]["time"] > lines[0]["time"] >= 0


def named(*overrides: str, sweep: bool = False, **changed: str | None) -> str:
    """Name of a run of DoorKey with a count bonus, and with options of a module not chosen."""
    cfg = OmegaConf.create({"intrinsic": {"count": {"_target_": "x"}, "off": {}}, "seed": 3})
    choices = {"env": "minigrid/doorkey_8x8", "learner": "ppo", "mixer": "heads"}
    return run_name(cfg, {**choices, **changed}, overrides, sweep=sweep)


def test_a_name_says_environment_learner_modules_and_seed():
    plain = "minigrid-doorkey_8x8-ppo-count-s3"
    words = ("env=minigrid/doorkey_8x8", "intrinsic=[count]", "seed=3", "total_steps=7")
    assert named(*words, "learner.lr=1e-3", "intrinsic.count.scope=episodic") == plain
    different = [
        plain,
        named(mixer="sum"),
        named(auxiliary="rapid"),
        named(env="gym"),
        named("env.id=CartPole-v1", env="gym"),
        named("env.id=Acrobot-v1", env="gym"),
        named("env._target_=pkg.make_env", env="custom"),
        named("~learner", "+learner._target_=pkg.Mine", learner=None),
    ]
    assert len(set(different)) == len(different)
    assert not any(set(made) & set("/ =[]{}'") for made in different)


def test_a_name_in_a_sweep_tells_all_jobs_apart():
    plain = named("env=minigrid/doorkey_8x8", "intrinsic=[count]", "seed=3", sweep=True)
    assert plain == named()
    assert named("total_steps=7", "device=cpu", "stop_at=0.9", sweep=True) == plain
    one_order = named("a=1", "learner.lr=1e-3", sweep=True)
    assert named("learner.lr=1e-3", "a=1", sweep=True) == one_order
    different = [
        plain,
        named("learner.lr=1e-3", sweep=True),
        named("learner.lr=1e-4", sweep=True),
        named("intrinsic.rnd.lr=1e-3", sweep=True),
        named("experiment=demo", sweep=True),
        named("env.size={a: [1, 2]}", sweep=True),
    ]
    assert len(set(different)) == len(different)
    assert not any(set(made) & set("/ =[]{}':,") for made in different)


# --- going on


def test_a_used_directory_is_refused_by_the_process_and_left_alone(finished):
    (run,) = (finished / "runs").iterdir()
    before = content(finished)
    words = (*SMALL, f"run_dir=runs/{run.name}")
    done = python("-m", "firstlight.scripts.train", *words, cwd=finished)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"firstlight: runs/{run.name} already holds a run")
    assert "resume=auto" in line
    assert content(finished) == before


def same(*changed: str) -> tuple[str, ...]:
    """The words that trained `finished`, with its directory given."""
    return (*SMALL, "intrinsic=[count]", "policy=separate", "run_dir=run", *changed)


def test_resume_goes_on_where_the_checkpoint_stands(run):
    before = metrics(run)
    done = command(train.main, *same("resume=auto", "total_steps=64"))
    assert done.status == 0, done.err
    after = metrics(run)
    assert after[:2] == before
    assert [line["step"] for line in after] == [16, 32, 48, 64]
    assert after[2]["rollout/episodes"] > before[1]["rollout/episodes"]
    assert after[2]["count/states"] >= before[1]["count/states"]
    assert json.loads((run / "status.json").read_text())["step"] == 64
    assert OmegaConf.load(run / "config.yaml").total_steps == 64
    board = EventAccumulator(str(run)).Reload()
    assert [e.step for e in board.Scalars("train/entropy")] == [16, 32, 48, 64]


def test_resume_of_a_finished_run_adds_nothing(run):
    before = metrics(run)
    assert command(train.main, *same("resume=auto")).status == 0
    assert metrics(run) == before


def test_resume_begins_where_there_is_nothing(empty):
    done = command(train.main, *same("resume=auto"))
    assert done.status == 0, done.err
    assert [line["step"] for line in metrics(empty / "run")] == [16, 32]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("learner.lr=0.01", "learner.lr=0.0003 is now 0.01"),
        ("env.length=4", "env.length=3 is now 4"),
        ("seed=1", "seed=0 is now 1"),
        ("intrinsic=[]", "intrinsic.count._target_"),
        ("intrinsic.count.scope=episodic", "intrinsic.count.scope=global is now episodic"),
        ("mixer=sum", "mixer.combine._target_"),
    ],
)
def test_resume_refuses_another_run_by_name(run, changed, named):
    before = content(run)
    done = command(train.main, *same("resume=auto", "total_steps=64", changed))
    assert done.status == 2
    (line,) = done.lines()
    assert line.startswith("firstlight: run holds another run: ")
    assert named in line
    assert content(run) == before


def test_a_sweep_makes_a_directory_each_and_skips_what_is_finished(empty):
    done = command(train.main, "-m", *SMALL, "seed=0,1")
    assert done.status == 0, done.err
    assert [path.name for path in empty.iterdir()] == ["runs"]
    runs = sorted(path for path in (empty / "runs").iterdir() if path.is_dir())
    assert [path.name.rpartition("-")[2] for path in runs] == ["s0", "s1"]
    assert {path.name for path in (empty / "runs").iterdir()} == {
        *(path.name for path in runs),
        "multirun.yaml",
    }
    parameters = [content(path)["checkpoints/best/tensors.safetensors"] for path in runs]
    assert parameters[0] != parameters[1]
    before = [content(path) for path in runs]
    again = command(train.main, "-m", *SMALL, "seed=0,1,2")
    assert again.status == 0, again.err
    assert again.out.count("is finished already; skipped") == 2
    assert [content(path) for path in runs] == before
    assert len([path for path in (empty / "runs").iterdir() if path.is_dir()]) == 3


def test_a_sweep_takes_no_other_run_for_its_own(run):
    done = command(train.main, "-m", *same("seed=5,6"))
    assert done.status == 2
    (line,) = done.lines()
    assert "run holds another run: seed=0 is now 5" in line


def test_a_sweep_over_any_option_makes_a_directory_each(empty):
    done = command(train.main, "-m", *SMALL, "learner.lr=1e-3,1e-4", "total_steps=16")
    assert done.status == 0, done.err
    rates = {
        OmegaConf.load(path / "config.yaml").learner.lr
        for path in (empty / "runs").iterdir()
        if path.is_dir()
    }
    assert rates == {1e-3, 1e-4}


# --- evaluation


def test_evaluate_prints_one_object_last_and_the_same_again(run):
    before = content(run)
    first, second = (command(evaluate.main, "run=run", "episodes=5") for _ in range(2))
    assert first.status == 0, first.err
    assert first == second
    assert list(result(first)) == KEYS
    said = result(first)
    assert (said["episodes"], said["seed"]) == (5, 0)
    assert said["env"] == "firstlight.envs.worlds.chain.Chain"
    assert content(run) == before


def test_evaluate_as_a_process(run):
    done = python("-m", "firstlight.scripts.evaluate", "run=run", "episodes=5", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert list(result(done)) == KEYS
    assert result(done) == result(command(evaluate.main, "run=run", "episodes=5"))


def test_evaluate_draws_actions_by_its_seed(run):
    said = {
        result(command(evaluate.main, "run=run", "episodes=20", f"seed={seed}"))["length_mean"]
        for seed in range(3)
    }
    assert len(said) > 1


def test_evaluate_with_the_likeliest_actions(run):
    words = ("run=run", "episodes=6", "deterministic=true")
    said = [result(command(evaluate.main, *words, f"seed={seed}")) for seed in range(2)]
    assert said[0]["return_std"] == said[1]["return_std"] == 0  # chain itself draws nothing
    assert said[0]["length_mean"] == said[1]["length_mean"]


def test_evaluate_of_best_and_newest(run):
    shutil.copytree(run / "checkpoints" / "best", run / "checkpoints" / "step_000000000008")
    shutil.rmtree(run / "checkpoints" / "step_000000000032")
    best = json.loads((run / "checkpoints/best/manifest.json").read_text())["step"]
    for which in ("best", "newest"):
        done = command(evaluate.main, "run=run", "episodes=2", f"which={which}")
        assert result(done)["step"] == best
    shutil.rmtree(run / "checkpoints")
    done = command(evaluate.main, "run=run", "episodes=2")
    assert done.status == 2
    assert len(done.lines()) == 1


def test_evaluate_draws_a_video_that_can_be_read(run):
    done = command(evaluate.main, "run=run", "episodes=2", "video=true")
    assert done.status == 0, done.err
    assert list(result(done)) == KEYS
    (video,) = (run / "videos").iterdir()
    assert f"wrote run/videos/{video.name}" in done.out
    with Image.open(video) as image:
        assert image.format == "GIF"
        assert image.size == (16 * 4, 16)
        assert image.n_frames > 1
        image.seek(image.n_frames - 1)
        image.load()


def test_evaluation_knows_the_environments_reward_only(empty):
    words = ("intrinsic=[count]", "mixer=sum", "run_dir=run", "eval_every=16", "total_steps=64")
    unlike = ("mixer.terms.reward.weight=0", "mixer.terms.count.weight=100")
    done = command(train.main, *SMALL, *words, *unlike)
    assert done.status == 0, done.err
    for line in metrics(empty / "run"):  # a success pays 1, all else nothing
        assert line["eval/return_mean"] == line["eval/success_rate"]
        assert line.get("reward/reward/weighted", 0) == 0
        assert line["reward/count/weighted"] > 1
        if "rollout/return_mean" in line:
            assert line["rollout/return_mean"] == line["rollout/success_rate"]
    said = result(command(evaluate.main, "run=run", "episodes=40"))
    assert said["return_mean"] == said["success_rate"] > 0


# --- a run's config is data


def foreign(run: Path, key: str, node: object) -> None:
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, key, node, merge=False, force_add=True)
    OmegaConf.save(config, run / "config.yaml")


def test_a_foreign_target_is_refused_until_allowed(run, outside):
    foreign(run, "env._target_", f"{outside}.make_chain")
    done = command(evaluate.main, "run=run", "episodes=2")
    assert done.status == 2
    (line,) = done.lines()
    assert f"{outside}.make_chain" in line
    assert f"allow=[{outside}]" in line
    assert outside not in sys.modules
    for allow in (f"allow=[{outside}]", f"allow={outside}", f"allow=[other,{outside}]"):
        done = command(evaluate.main, "run=run", "episodes=2", allow)
        assert done.status == 0, done.err
        assert result(done)["env"] == f"{outside}.make_chain"
    assert command(evaluate.main, "run=run", "episodes=2", f"allow=[{outside[:-1]}]").status == 2


WRITTEN = {"path": "written", "text": ""}


@pytest.mark.parametrize(
    ("key", "node"),
    [
        ("intrinsic.more", {"_target_": "subprocess.run", "args": "touch written", "shell": True}),
        ("intrinsic.more", {"_target_": "firstlight.agents.session.files.write_text", **WRITTEN}),
        ("intrinsic.count.keys", [{"_target_": "os.mkdir", "_args_": ["written"]}]),
        ("learner.lr", {"_target_": "os.mkdir", "path": "written"}),
        ("env", {"_target_": "firstlight.agents.session.files.os.mkdir", "_args_": ["written"]}),
        ("env", {"_target_": "firstlight.agents.session.files.Path", "path": "written"}),
        ("env", {"_target_": "firstlight.agents.session.files.write_text", **WRITTEN}),
        ("env._target_", "${oc.env:HOME}"),
        ("env.length", "${oc.decode:'3'}"),
        ("env", {"_target_": "firstlight.envs.video.Path"}),
        ("env._target_", "firstlight.envs.nothing"),
        ("env._target_", "firstlightly.make"),
    ],
    ids=str,
)
def test_what_a_run_must_not_name(run, key, node):
    foreign(run, key, node)
    done = command(evaluate.main, "run=run", "episodes=2")
    assert done.status == 2
    assert len(done.lines()) == 1
    assert not (run.parent / "written").exists()


# --- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["choose an environment", "env=minigrid/doorkey_8x8"]),
        (["env=envpool", "env.id=CartPool-v1"], ["'CartPool-v1'", "'CartPole-v1'"]),
        (["env=gym", "env.id=CartPool-v1"], ["CartPool", "CartPole"]),
        (["env=gym", "env.id=nowhere:CartPole-v1"], ["nowhere"]),
        (["env=gym"], ["give env.id="]),
        (["env=minigrid/any"], ["give env.task="]),
        (["env=minigrid/unlock", "env.backend=rust"], ["backend", "rust"]),
        (["env=gym", "env.id=CartPole-v1", "+env.colour=3"], ["colour"]),
        (["env=envpool", "env.id=CartPole-v1", "+env.colour=3"], ["colour"]),
        (["env._target_=nowhere.make"], ["'nowhere.make'", "No module named 'nowhere'"]),
        (["env._target_=make"], ["cannot import 'make'"]),
        (["env._target_=firstlight.envs.Chian"], ["'firstlight.envs.Chian'"]),
        (["env._target_=firstlight.envs.worlds.chain"], ["cannot be called"]),
        (["env._target_=outside_cli.nothing"], ["outside_cli.nothing made a int"]),
        (["env=chain", "env.num_envs=0"], ["env.num_envs=0"]),
        (["env=chain", "+env.colour=3"], ["takes no 'colour'", "length"]),
        (["env=chain", "+env.lengthy=3"], ["takes no 'lengthy'", "'length'"]),
        (["env=chain", "env.lengthy=3"], ["option env.lengthy", "'length'"]),
        (["env=chain", "sede=3"], ["option sede", "'seed'"]),
        (["env=chain", "mixer.terms.nope.weight=1"], ["option mixer.terms.nope", "reward"]),
        (["env=chain", "+mixer.terms.nope.weight=1"], ["mixer.terms.nope", "reward"]),
        (["env=chain", "+mixer.terms.reward.weighty=1"], ["weighty", "'weight'"]),
        (["env=chains"], ["env=chains", "'chain'"]),
        (["env=minigrid/dorkey_8x8"], ["env=minigrid/dorkey_8x8", "'minigrid/doorkey_8x8'"]),
        (["env=chain", "intrinsic=[cuont]"], ["intrinsic=cuont", "'count'"]),
        (["env=chain", "learner=qqq"], ["learner=qqq", "there are ppo"]),
        (["env=chain", "seed"], ["'seed'", "EQUAL"]),
        (["env=chain", "seed=1,2"], ["seed=1,2", "--multirun"]),
        (["env=chain", "seed=${nope}"], ["nope"]),
        (["env=chain", "--config-dir", "nowhere"], ["nowhere"]),
        (["env=chain", "seed=-1"], ["seed=-1"]),
        (["env=chain", "seed=x"], ["seed=x"]),
        (["env=chain", "total_steps=0"], ["total_steps=0"]),
        (["env=chain", "total_steps=many"], ["total_steps=many"]),
        (["env=chain", "eval_episodes=0"], ["eval_episodes=0"]),
        (["env=chain", "checkpoint.every=0"], ["checkpoint.every=0"]),
        (["env=chain", "trainer.num_steps=0"], ["trainer.num_steps=0"]),
        (["env=chain", "resume=yes"], ["resume=", "auto"]),
        (["env=chain", "device=gpu"], ["device=gpu", "cuda"]),
        (["env=chain", "encoder=grid"], ["Grid", "image"]),
        (["env=chain", "learner.lr=fast"], ["PPO", "float", "str"]),
        (["env=chain", "intrinsic=[count]", "intrinsic.count.scope=all"], ["'all'", "episodic"]),
        (["env=chain", "intrinsic=[rnd]", "intrinsic.rnd.network=conv"], ["conv"]),
        (["env=chain", "learner.entropy_coef={_target_: nowhere.Fade}"], ["nowhere"]),
    ],
    ids=lambda v: " ".join(v) if v and "=" in v[0] else "",
)
def test_bad_input_is_one_clear_line(words, said, empty, outside):
    done = command(train.main, *words)
    assert done.status == 2
    (line,) = done.lines()
    assert line.startswith("firstlight: ")
    for part in said:
        assert part in line
    assert list(empty.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused(empty):
    done = command(train.main, *SMALL, "device=cuda")
    assert done.status == 2
    (line,) = done.lines()
    assert "device=cuda" in line
    assert "device=cpu" in line
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["give run="]),
        (["run=nowhere"], ["run=nowhere is no run directory"]),
        (["run=run", "episodes=0"], ["episodes=0"]),
        (["run=run", "num_envs=0"], ["num_envs=0"]),
        (["run=run", "which=last"], ["'last'", "'newest'"]),
        (["run=run", "epsodes=3"], ["option epsodes", "'episodes'"]),
        (["run=run/checkpoints"], ["run=run/checkpoints is no run directory"]),
    ],
    ids=lambda v: " ".join(v) if v and "=" in v[0] else "",
)
def test_bad_input_of_evaluate_is_one_clear_line(words, said, run):
    before = content(run.parent)
    done = command(evaluate.main, *words)
    assert done.status == 2
    assert done.out == ""
    (line,) = done.lines()
    assert line.startswith("firstlight: ")
    for part in said:
        assert part in line
    assert content(run.parent) == before


def test_a_process_ends_with_2_and_one_line(tmp_path):
    words = ("-m", "firstlight.scripts.train", "env=envpool", "env.id=CartPool-v1")
    done = python(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "firstlight: EnvPool has no task 'CartPool-v1'; did you mean 'CartPole-v1'?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_traceback_is_there_for_who_wants_it(tmp_path):
    words = ("-m", "firstlight.scripts.train", "env=chain", "env.lengthy=3")
    done = python(*words, cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("firstlight: there is no option env.lengthy")


def test_an_error_in_the_users_own_code_stays_one(empty, outside):
    with pytest.raises(ValueError, match="no such luck"):
        command(train.main, f"env._target_={outside}.complain")
    assert list(empty.iterdir()) == []


def test_a_run_that_fails_says_so(empty, outside):
    with pytest.raises(RuntimeError, match="stopped"):
        command(train.main, f"env._target_={outside}.Fails", "run_dir=run")
    status = json.loads((empty / "run/status.json").read_text())
    assert (status["status"], status["error"]) == ("failed", "RuntimeError: stopped")


@pytest.mark.parametrize("how", ["Interrupted", "Signalled"])
def test_a_run_that_is_interrupted_says_so_once(empty, outside, how):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = command(train.main, f"env._target_={outside}.{how}", "run_dir=run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.status == 130
    assert [line for line in done.lines() if "steps" not in line] == ["firstlight: interrupted"]
    assert json.loads((empty / "run/status.json").read_text())["status"] == "interrupted"


def test_nearest_names_one_or_all():
    assert nearest("lengthy", ["length", "size"]) == "; did you mean 'length'?"
    assert nearest("q", ["length", "size"]) == "; there are length, size"
    assert nearest("q", []) == ""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_wait_for_imports(name):
    """One that came inside is raised at the end, to whoever listened before."""
    heard, number = [], signal.Signals[name]
    before = signal.signal(number, lambda signum, _: heard.append(signum))
    try:
        with signals_wait():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert heard == []
        assert heard == [number]
        signal.raise_signal(number)
        assert heard == [number] * 2
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("name", "ends"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
@pytest.mark.parametrize("meanwhile", ["nothing", "an error", "silence"])
def test_signals_end_whatever_is_made_of_them(name, ends, meanwhile):
    """As in a config library that puts an error of its own in place of what a handler raises."""

    @signals_end()
    def compose():
        try:
            signal.raise_signal(number)
        except BaseException as error:
            if meanwhile == "nothing":
                raise
            if meanwhile == "an error":
                raise AttributeError("half written") from error

    number = signal.Signals[name]
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(ends) as raised:
            compose()
        assert name == "SIGINT" or raised.value.code == 128 + number
        assert signal.getsignal(number) is signal.default_int_handler
        with signals_end():  # nothing came
            pass
        signal.signal(number, signal.SIG_IGN)
        with signals_end():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
