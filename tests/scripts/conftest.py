"""A finished run, made by one process for all tests of commands, and modules of a user's own."""

import shutil
import sys
from pathlib import Path

import pytest
from browser import Browser, find_browser
from command_line import python
from shared_folder import shared_folder

from firstlight.scripts.sweeps.runner import TRAIN

SMALL = (
    *("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "total_steps=32"),
    *("learner.num_epochs=1", "eval_episodes=4", "device=cpu"),
)
WORDS = (*SMALL, "intrinsic=[count]", "policy=separate")
USER_MODULE = """
import signal
import gymnasium
from firstlight.envs import Chain

def make_chain(num_envs, length=3):
    return Chain(num_envs, length=length)

def fail():
    raise ValueError("no such luck")

def make_number(num_envs):
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
    signalled = False
    def step(self, action):
        if not self.signalled:
            self.signalled = True
            signal.raise_signal(signal.SIGINT)
        return super().step(action)
"""


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window; the test is skipped if there is none."""
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium or Chrome here: apt-get install chromium")
    made = Browser(path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Overrides of a run of two iterations."""
    return SMALL


@pytest.fixture(scope="session")
def words() -> tuple[str, ...]:
    """Overrides of the run `finished`, without its directory."""
    return WORDS


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder in which a process of its own trained, with the default run directory."""

    def train(cwd: Path) -> None:
        done = python(*TRAIN[2:], *WORDS, "eval_every=16", cwd=cwd)
        assert done.status == 0, done.err
        assert done.out.splitlines()[-1].startswith("finished at 32 steps; everything is in runs/")

    return shared_folder(tmp_path_factory, "finished", train)


@pytest.fixture(scope="session")
def finished_run(finished) -> Path:
    """The run directory of `finished`."""
    (run,) = (finished / "runs").iterdir()
    return run


@pytest.fixture
def run(finished_run, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run as ``run`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def user_module(tmp_path_factory):
    """Name of an importable module that is not ours."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "user_module.py").write_text(USER_MODULE)
    sys.path.insert(0, str(folder))
    yield "user_module"
    sys.path.remove(str(folder))
