"""What the README shows works: its Python runs, its commands compose, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(name: str) -> list[list[str]]:
    """Arguments of every use of a command, in code blocks and inline, without comments."""
    shown = "\n".join([*blocks("sh"), *re.findall(r"`(firstlight-[^`]+)`", README)])
    shown = shown.replace("\\\n", " ")
    lines = [line.split("#")[0] for line in shown.splitlines() if line.startswith(name)]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, tmp_path):
    script = tmp_path / "example.py"
    prelude = "import torch\n\ntorch.set_num_threads(1)\n"
    epilogue = ""
    if "load(" in code:
        epilogue = "\nassert action.shape == ()\nfrom firstlight.agents import evaluate\n"
        epilogue += "assert evaluate(agent.policy, vec, episodes=32, seed=1).success_rate > 0.8\n"
    script.write_text(prelude + code + epilogue, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [a for a in commands("firstlight-train") if "--help" not in a], ids=" ".join
)
def test_training_commands_compose(arguments):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        cfg = compose("train", overrides=arguments)
    assert cfg.env["_target_"]


def test_evaluation_commands_compose():
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        for arguments in commands("firstlight-evaluate"):
            assert compose("evaluate", overrides=arguments).run


def test_there_is_something_to_test():
    assert len(blocks("python")) >= 2
    assert len(commands("firstlight-train")) >= 3


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets


def test_local_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_every_test_that_a_document_names_is_there():
    named = [
        (path.name, *found)
        for path in (ROOT / "docs").glob("*.md")
        for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text())
    ]
    assert len(named) > 20
    for document, file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{document} names {file}::{test}"
