"""The programs in the documentation are reward programs."""

import re
from pathlib import Path

import pytest
from designs import record

from firstlight.envs.minigrid import make
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.intrinsic.design.trial_run import trial_run

DOCUMENT = Path(__file__).parents[3] / "docs" / "reward_programs.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
PROGRAMS = [block for block in BLOCKS if "def reward(" in block and "image" in block]


@pytest.mark.parametrize("source", PROGRAMS)
def test_they_run_on_the_environments_they_are_for(source):
    _, rollout = record(make("MiniGrid-KeyCorridorS3R3-v0", num_envs=8), steps=200)
    assert trial_run(RewardProgram.parse(source), rollout).reason == ""


def test_programs_are_found():
    assert len(PROGRAMS) >= 2
