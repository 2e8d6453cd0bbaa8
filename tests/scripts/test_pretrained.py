"""Each agent in pretrained/ does what its card says, is small, and names no machine."""

import json
import re
from pathlib import Path

import pytest
from command_line import command

from firstlight.scripts import evaluate

ROOT = Path(__file__).parents[2]
AGENTS = sorted(path.parent for path in (ROOT / "pretrained").glob("*/config.yaml"))
EPISODES = 8


def figures(agent: Path) -> dict:
    """The line that `firstlight-evaluate` printed, as the card shows it."""
    (line,) = re.findall(r'^\{"return_mean": .*\}$', (agent / "README.md").read_text(), re.M)
    return json.loads(line)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if "videos" not in path.parts)


@pytest.mark.parametrize("agent", AGENTS, ids=lambda path: path.name)
def test_an_agent_does_what_its_card_says(agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(evaluate.main, f"run={agent}", f"episodes={EPISODES}", "seed=1")
    assert done.status == 0, done.err
    found, shown = done.result(), figures(agent)
    assert (found["env"], found["step"]) == (shown["env"], shown["step"])
    error = shown["return_std"] / EPISODES**0.5
    assert abs(found["return_mean"] - shown["return_mean"]) <= 4 * error + 1e-6
    assert list(tmp_path.iterdir()) == []


def test_the_list_names_each_agent():
    assert len(AGENTS) >= 4
    text = (ROOT / "pretrained/README.md").read_text()
    assert sorted(re.findall(r"\]\((\w+)/README\.md\)", text)) == [path.name for path in AGENTS]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda path: path.name)
def test_an_agent_is_small_and_its_files_name_no_folder_of_a_machine(agent):
    assert size(agent) < 800_000
    for path in (agent / "config.yaml", agent / "README.md", *agent.rglob("*.json")):
        assert re.findall(r"(?<![\w.])/(?:tmp|home|root|work|usr)\b", path.read_text()) == []


def test_all_agents_together_are_small():
    assert size(ROOT / "pretrained") < 3_000_000
