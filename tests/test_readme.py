"""README and docs/start.md are true: Python runs, commands compose, links exist."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from firstlight.agents import evaluate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "start.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def blocks(language: str) -> list[str]:
    """Code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def commands(name: str) -> list[list[str]]:
    """Arguments of every use of a command, in code blocks and inline, without comments."""
    shown = "\n".join([*blocks("sh"), *re.findall(r"`(firstlight-[^`]+)`", TEXT)])
    shown = shown.replace("\\\n", " ")
    words = [line.split("#")[0].removeprefix(".venv/bin/") for line in shown.splitlines()]
    lines = [line for line in words if line.startswith(name)]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, tmp_path, monkeypatch):
    """And the agent that it trains in the corridor solves it; other agents get fewer steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    if "from corridor import" in code:
        (file,) = (block for block in blocks("python") if "class Corridor" in block)
        (tmp_path / "corridor.py").write_text(file)
        code = code.replace("60_000", "4_000")
    names = {"__name__": "__main__"}
    exec(compile(code.replace("100_000", "4_000"), "a page", "exec"), names)
    if "make_vec" in names:
        assert names["action"].shape == ()
        result = evaluate(names["agent"].policy, names["vec"], episodes=32, seed=1)
        assert result.success_rate > 0.8


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


def test_code_and_commands_are_found():
    assert len(blocks("python")) >= 2
    assert len(commands("firstlight-train")) >= 3


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", TEXT)) <= targets


def test_local_links_exist():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_test_named_in_a_document_exists():
    named = [
        (path.name, *found)
        for path in (ROOT / "docs").rglob("*.md")
        for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text())
    ]
    assert len(named) > 20
    for document, file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{document} names {file}::{test}"
