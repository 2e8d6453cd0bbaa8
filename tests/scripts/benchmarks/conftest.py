"""Results and documents of these tests go into a folder of their own."""

import pytest
import torch
from trainings import InProcess

from firstlight.scripts.benchmarks import learning
from firstlight.scripts.sweeps import runner


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder, with an empty ``docs``; one torch thread before and after."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    yield tmp_path
    torch.set_num_threads(1)


@pytest.fixture
def make_table(here, monkeypatch):
    """A function that adds a learning table, given its name and YAML; only these exist."""
    (here / "conf" / "bench").mkdir(parents=True)
    monkeypatch.setattr(learning, "CONF", here / "conf")

    def make(name: str, text: str) -> str:
        (here / "conf" / "bench" / f"{name}.yaml").write_text(text)
        return name

    return make


@pytest.fixture
def train_in_process(monkeypatch):
    """Cells of learning tables are trained in this process, which saves its start."""
    monkeypatch.setattr(runner, "TrainingProcess", InProcess)
