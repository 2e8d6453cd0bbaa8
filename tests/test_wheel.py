"""The wheel holds what the repository holds, and works without it."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("agents", "intrinsic", "envs", "conf", "scripts")


def run(*command: str | Path, cwd: Path, **kwargs) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository_files() -> list[Path]:
    """Files git tracks or would track; links as links."""
    listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT).split("\0")
    paths = sorted({Path(name) for name in listed if name})
    return [path for path in paths if (ROOT / path).is_symlink() or (ROOT / path).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from an sdist built from a copy of the repository's files."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    source = tmp_path_factory.mktemp("source")
    for path in repository_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-P", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def run_from(installed: Path, code: str, cwd: Path | None = None) -> str:
    """What `code` prints with the installed wheel ahead of the repository on the path."""
    preamble = f"import sys; sys.path.insert(0, {str(installed)!r})\n"
    return run(sys.executable, "-P", "-c", preamble + code, cwd=cwd or installed).strip()


def test_wheel_holds_every_file_of_the_packages(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for path in repository_files():
        if path.parts[0] in FOLDERS:
            expected.add(f"firstlight/{path.as_posix()}")
        elif path.parts[:2] == ("src", "firstlight") and not (ROOT / path).is_symlink():
            expected.add(path.relative_to("src").as_posix())
    assert names == expected


def test_wheel_imports_by_itself(installed):
    code = "import firstlight.agents; print(firstlight.agents.__file__)"
    assert run_from(installed, code) == str(installed / "firstlight" / "agents" / "__init__.py")


@pytest.mark.skipif(not (ROOT / "conf" / "train.yaml").exists(), reason="no conf/train.yaml yet")
def test_wheel_composes_its_configuration(installed):
    code = (
        "import hydra\n"
        "with hydra.initialize_config_module('firstlight.conf', version_base='1.3'):\n"
        "    print(len(hydra.compose('train')) > 0)"
    )
    assert run_from(installed, code) == "True"


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


@pytest.fixture
def lamp(tmp_path) -> Path:
    """A folder with a custom environment and nothing else."""
    (tmp_path / "lamp.py").write_text(LAMP)
    return tmp_path


def test_wheel_trains_saves_loads_and_acts(installed, lamp):
    code = """
sys.path.insert(1, ".")
import firstlight, torch
from lamp import Lamp
from firstlight.agents import MLP, PPO, ActorCritic, Trainer, load
from firstlight.envs import GymVec
from firstlight.intrinsic import HashCount, Heads, RewardMixer, Term
torch.set_num_threads(1)
vec = GymVec([Lamp] * 2)
mixer = RewardMixer({"reward": Term(), "count": HashCount.default_term()}, Heads())
encoder = MLP(vec.obs_space, hidden=[8])
policy = ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=mixer.num_streams)
modules = {"count": HashCount(vec.obs_space)}
Trainer(vec, PPO(policy), modules, mixer, run_dir="run", num_steps=8).run(32)
action, _ = load("run").act(Lamp().reset()[0])
print(firstlight.__file__, action in (0, 1), load("run").step)
"""
    file, fits, step = run_from(installed, code, cwd=lamp).split()
    assert Path(file).is_relative_to(installed)
    assert (fits, step) == ("True", "32")
    assert len((lamp / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_wheel_holds_commands_that_work(installed, lamp):
    code = """
import json
sys.path.insert(1, ".")
import firstlight.scripts.train, firstlight.scripts.evaluate
small = ["env.num_envs=2", "trainer.num_steps=8", "total_steps=32", "num_threads=1"]
more = ["intrinsic=[count]", "eval_episodes=2", "run_dir=run"]
sys.argv = ["firstlight-train", "env._target_=lamp.Lamp", *small, *more]
firstlight.scripts.train.main()
sys.argv = ["firstlight-evaluate", "run=run", "episodes=2", "allow=[lamp]"]
firstlight.scripts.evaluate.main()
print(json.dumps(firstlight.scripts.train.__file__))
"""
    *_, said, file = run_from(installed, code, cwd=lamp).splitlines()
    assert Path(json.loads(file)).is_relative_to(installed)
    assert json.loads(said)["episodes"] == 2
    assert {path.name for path in lamp.iterdir()} - {"__pycache__"} == {"lamp.py", "run"}
