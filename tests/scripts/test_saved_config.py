"""The config of a run is data: it may name only firstlight's own classes and allowed packages."""

import sys
from pathlib import Path

import pytest
from command_line import command
from omegaconf import OmegaConf

from firstlight.scripts import evaluate

FOREIGN = """
from firstlight.envs import Chain

def make_chain(num_envs, length=3):
    return Chain(num_envs, length=length)
"""
FILES = "firstlight.agents.session.run_directory.files"
FILE = {"path": "written", "text": ""}


def change(run: Path, key: str, node: object) -> None:
    """Write `node` into the config of a run."""
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, key, node, merge=False, force_add=True)
    OmegaConf.save(config, run / "config.yaml")


def test_a_foreign_target_is_refused_until_allowed(run, monkeypatch):
    (run.parent / "foreign_module.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(run.parent))
    change(run, "env._target_", "foreign_module.make_chain")
    done = command(evaluate.main, "run=run", "episodes=2")
    assert done.status == 2
    (line,) = done.lines()
    assert "foreign_module.make_chain" in line
    assert "allow=[foreign_module]" in line
    assert "foreign_module" not in sys.modules
    for allow in ("[foreign_module]", "foreign_module", "[other,foreign_module]"):
        done = command(evaluate.main, "run=run", "episodes=2", f"allow={allow}")
        assert done.status == 0, done.err
        assert done.result()["env"] == "foreign_module.make_chain"
    assert command(evaluate.main, "run=run", "episodes=2", "allow=[foreign_modul]").status == 2


@pytest.mark.parametrize(
    ("key", "node"),
    [
        ("intrinsic.more", {"_target_": "subprocess.run", "args": "touch written", "shell": True}),
        ("intrinsic.more", {"_target_": f"{FILES}.write_text", **FILE}),
        ("intrinsic.count.keys", [{"_target_": "os.mkdir", "_args_": ["written"]}]),
        ("learner.lr", {"_target_": "os.mkdir", "path": "written"}),
        ("env", {"_target_": f"{FILES}.os.mkdir", "_args_": ["written"]}),
        ("env", {"_target_": f"{FILES}.Path", "path": "written"}),
        ("env", {"_target_": f"{FILES}.write_text", **FILE}),
        ("env._target_", "${oc.env:HOME}"),
        ("env.length", "${oc.decode:'3'}"),
        ("env", {"_target_": "firstlight.envs.video.Path"}),
        ("env._target_", "firstlight.envs.nothing"),
        ("env._target_", "firstlightly.make"),
    ],
    ids=str,
)
def test_a_forbidden_target_is_refused_and_not_called(run, key, node):
    change(run, key, node)
    done = command(evaluate.main, "run=run", "episodes=2")
    assert done.status == 2
    assert len(done.lines()) == 1
    assert not (run.parent / "written").exists()
