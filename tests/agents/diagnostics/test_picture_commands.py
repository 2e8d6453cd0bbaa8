"""The commands write heat maps and reward videos, and reject options that cannot be met."""

import json

import pytest
from command_line import command
from PIL import Image

from firstlight.scripts import evaluate, train

SMALL = (
    *("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "total_steps=48"),
    *("learner.num_epochs=1", "eval_episodes=2", "device=cpu", "run_dir=run"),
    *("intrinsic=[count,rnd]", "intrinsic.rnd.warmup_steps=8", "intrinsic.rnd.embedding_dim=8"),
)


def test_the_commands_write_maps_and_a_video_and_change_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *SMALL, "heat_maps=true")
    assert done.status == 0, done.err
    pictures = {path.name for path in (tmp_path / "run/pictures").iterdir()}
    assert {"step_16_count.png", "step_48_rnd.png", "step_48_visits.png"} <= pictures
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    done = command(evaluate.main, "run=run", "episodes=2", "video=true", "rewards=true")
    assert done.status == 0, done.err
    (video,) = (tmp_path / "run/videos").iterdir()
    assert video.name.endswith("_rewards.gif")
    assert f"wrote run/videos/{video.name}" in done.out
    with Image.open(video) as image:
        assert image.n_frames > 2
    assert before == {p: p.read_bytes() for p in before}
    assert "episodes" in json.loads(done.out.splitlines()[-1])
    done = command(evaluate.main, "run=run", "rewards=true")
    assert done.status == 2
    assert "video=true" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env=gym", "env.id=CartPole-v1", "heat_maps=true"], "neither 'agent_pos' nor"),
        (["env=chain", "heat_maps=true", "heat_map_channel=where"], "no 'where'"),
        (["env=chain", "heat_maps=often"], "heat_maps=often: expected true or false"),
        (["env=chain", "heat_map_seconds=0"], "heat_map_seconds=0"),
    ],
)
def test_maps_that_cannot_be_drawn_end_with_a_one_line_message(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(train.main, *words)
    assert done.status == 2
    assert said in done.lines()[-1]
    assert list(tmp_path.iterdir()) == []
