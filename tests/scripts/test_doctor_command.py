"""``firstlight-train doctor=true``: its table, its exit status, and that it writes nothing."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from command_line import command
from hydra import compose, initialize_config_module

from firstlight.agents.diagnostics.doctor import Evidence
from firstlight.agents.diagnostics.run_diagnostics import DiagnosticsResult
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.scripts import train
from firstlight.scripts.report.doctor_table import report

DOCS = Path(__file__).parents[2] / "docs"
SMALL = ("env=chain", "env.length=5", "env.num_envs=8", "trainer.num_steps=32", "device=cpu")
TRY = (*SMALL, "doctor=true", "total_steps=2000", "learner.num_epochs=2")


class Constant(IntrinsicModule):
    """The same bonus in every row."""

    novelty = False

    def compute(self, rollout):
        return torch.where(rollout.valid, 0.01, 0.0)


class Growing(IntrinsicModule):
    """A bonus that triples with every update."""

    novelty = False

    def __init__(self):
        super().__init__()
        self.size = 1e-3

    def compute(self, rollout):
        generator = torch.Generator().manual_seed(int(rollout.action.sum()))
        bonus = self.size * torch.rand(rollout.reward.shape, generator=generator)
        return torch.where(rollout.valid, bonus, 0.0)

    def update(self, rollout):
        self.size *= 3
        return {}


def test_without_defects_the_status_is_0_and_nothing_is_written(empty):
    done = command(train.main, *TRY, "intrinsic=[count,rnd]", "intrinsic.rnd.warmup_steps=64")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[-1] == "no defect was found"
    table = {line.split()[0]: line for line in lines if line.split()[:1]}
    assert table["count"].endswith("ok")
    assert "yes (-" in table["rnd"]
    (first,) = [line.split()[-1] for line in lines if line.startswith("first update")]
    assert first not in table["count"]
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "finding"),
    [
        (["intrinsic=[count]", "mixer.terms.count.weight=0"], "count is dead: "),
        (["intrinsic=[count]", "mixer.terms.count.weight=900"], "reward is drowned: "),
        (["+intrinsic.own._target_=test_doctor_command.Constant"], "own is constant: "),
        (["+intrinsic.own._target_=test_doctor_command.Growing"], "own is exploding: "),
    ],
)
def test_a_defect_is_named_and_the_status_is_1(words, finding, empty):
    done = command(train.main, *TRY, *words)
    assert done.status == 1, done.err
    assert finding in done.out
    assert list(empty.iterdir()) == []


def test_a_used_directory_is_neither_refused_nor_touched(empty):
    (empty / "run").mkdir()
    (empty / "run" / "status.json").write_text("{}")
    done = command(train.main, *TRY, "run_dir=run", "total_steps=300")
    assert done.status == 0, done.err
    assert [path.name for path in empty.rglob("*")] == ["run", "status.json"]


@pytest.mark.parametrize(
    "words",
    [["doctor=perhaps"], ["doctor_seconds=0"], ["doctor=true", "doctor_seconds=long"]],
)
def test_bad_options_are_one_line(words, empty):
    done = command(train.main, *SMALL, *words)
    assert done.status == 2
    assert len(done.lines()) == 1
    assert words[-1] in done.err
    assert list(empty.iterdir()) == []


def test_an_unknown_correlation_is_shown_as_unknown():
    evidence = {"reward": Evidence(1.0), "count": Evidence(0.01, novelty=True)}
    lines = report(DiagnosticsResult(evidence, "5fe7cbe8", [], 100, 2.0))
    assert lines[0] == "100 environment steps in 2 seconds"
    (row,) = [line for line in lines if line.startswith("count")]
    assert row.split() == ["count", "0.01", "0", "0.0%", "unknown", "-", "ok"]


def test_the_commands_in_seeing_md_compose_and_its_links_exist():
    text = (DOCS / "seeing.md").read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    base, rest = shown.replace("\\\n", " ").split("}\n", 1)
    (training,) = [line for line in base.splitlines() if line.startswith("firstlight-train")]
    lines = [shlex.split(line) for line in rest.splitlines() if line]
    assert len(lines) >= 6
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        for name, *words in lines:
            if name == "firstlight-report":  # tests/scripts/report/test_run_report.py
                continue
            if name == "run":
                words = [*shlex.split(training)[1:-1], *words]
            assert compose("train" if name == "run" else "evaluate", overrides=words)
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) >= 10
    for link in links:
        assert (DOCS / link).exists(), link
