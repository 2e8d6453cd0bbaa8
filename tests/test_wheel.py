"""The wheel holds what the repository holds, and works without it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shared_folder import shared_folder

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("agents", "networks", "intrinsic", "envs", "conf", "scripts")
LAMP = """
import gymnasium
import numpy as np
from gymnasium import spaces

class Lamp(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 5
        return self.observation_space.sample(), {}
    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), float(action), self.left == 0, False, {}
"""
USE = """
import sys
sys.path[:0] = [{installed!r}, "."]
import contextlib, io, json
import hydra, torch
import firstlight, firstlight.agents
from lamp import Lamp
from firstlight.agents import MLP, PPO, ActorCritic, Trainer, load
from firstlight.envs import GymVec
from firstlight.intrinsic import HashCount, Heads, RewardMixer, Term
from firstlight.scripts import evaluate, train

torch.set_num_threads(1)
found = {{"files": [firstlight.__file__, firstlight.agents.__file__, train.__file__]}}
with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
    found["config"] = list(hydra.compose("train"))

vec = GymVec([Lamp] * 2)
mixer = RewardMixer({{"reward": Term(), "count": HashCount.default_term()}}, Heads())
encoder = MLP(vec.obs_space, hidden=[8])
policy = ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=mixer.num_streams)
modules = {{"count": HashCount(vec.obs_space)}}
Trainer(vec, PPO(policy), modules, mixer, run_dir="python", num_steps=8).run(32)
action, _ = load("python").act(Lamp().reset()[0])
found["python"] = [action in (0, 1), load("python").step]

small = ["env.num_envs=2", "trainer.num_steps=8", "total_steps=32", "num_threads=1"]
more = ["intrinsic=[count]", "eval_episodes=2", "run_dir=command"]
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    sys.argv = ["firstlight-train", "env._target_=lamp.Lamp", *small, *more]
    train.main()
    sys.argv = ["firstlight-evaluate", "run=command", "episodes=2", "allow=[lamp]"]
    evaluate.main()
found["evaluation"] = json.loads(printed.getvalue().splitlines()[-1])
print(json.dumps(found))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    env = os.environ | environment
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository_files() -> list[Path]:
    """Files that git tracks or would track; links as links."""
    listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT).split("\0")
    paths = sorted({Path(name) for name in listed if name})
    return [path for path in paths if (ROOT / path).is_symlink() or (ROOT / path).is_file()]


def build(made: Path) -> None:
    """Build the wheel in ``dist``, unpack it in ``installed`` and use it in ``folder``."""
    source, out, installed, folder = (
        made / name for name in ("source", "dist", "installed", "folder")
    )
    for path in repository_files():
        if path.parts[0] in ("tests", "docs"):  # neither is built
            continue
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    run(sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    folder.mkdir()
    (folder / "lamp.py").write_text(LAMP)
    code = USE.format(installed=str(installed))
    interpreted = {"NUMBA_DISABLE_JIT": "1"}  # nothing is compiled yet in the unpacked wheel
    found = run(sys.executable, "-P", "-c", code, cwd=folder, **interpreted)
    (made / "found.txt").write_text(found)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of `build`."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    return shared_folder(tmp_path_factory, "wheel", build)


@pytest.fixture(scope="module")
def wheel(made) -> Path:
    """A wheel built from an sdist built from a copy of the repository's files."""
    (built,) = (made / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(made) -> Path:
    """The folder into which the wheel is unpacked, which is all that installing it would do."""
    return made / "installed"


@pytest.fixture(scope="module")
def folder(made) -> Path:
    """The folder in which the wheel is used: it holds a custom environment and nothing else."""
    return made / "folder"


@pytest.fixture(scope="module")
def found(made) -> dict:
    """Results of one process with the wheel before the repository on its path."""
    return json.loads((made / "found.txt").read_text().splitlines()[-1])


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for path in repository_files():
        if path.parts[0] in FOLDERS:
            expected.add(f"firstlight/{path.as_posix()}")
        elif path.parts[:2] == ("src", "firstlight") and not (ROOT / path).is_symlink():
            expected.add(path.relative_to("src").as_posix())
    assert names == expected


def test_every_package_of_the_repository_is_linked():
    links = {path.name for path in (ROOT / "src/firstlight").iterdir() if path.is_symlink()}
    assert links == set(FOLDERS)


def test_the_wheel_names_its_commands(installed):
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    names = [line.split(" ")[0] for line in entry_points.read_text().splitlines() if "=" in line]
    commands = [
        "annotate",
        "bench",
        "design",
        "evaluate",
        "motif",
        "race",
        "report",
        "sweep",
        "train",
    ]
    assert names == [f"firstlight-{name}" for name in commands]


def test_the_wheel_is_imported_from_its_own_files(installed, found):
    assert found["files"] == [
        str(installed / "firstlight" / path)
        for path in ("__init__.py", "agents/__init__.py", "scripts/train.py")
    ]


def test_the_wheel_composes_its_configuration(found):
    assert {"env", "learner", "mixer"} <= set(found["config"])


def test_the_wheel_trains_saves_loads_and_acts(found, folder):
    fits, step = found["python"]
    assert (fits, step) == (True, 32)
    assert len((folder / "python" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_commands_of_the_wheel_train_and_evaluate(found, folder):
    assert found["evaluation"]["episodes"] == 2
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        *("lamp.py", "python", "command"),
    }
