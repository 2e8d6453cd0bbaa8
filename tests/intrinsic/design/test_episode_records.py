"""Failed episodes in words."""

import numpy as np
from hydra import compose, initialize_config_module

from firstlight.envs import Chain
from firstlight.intrinsic.design.episode_records import describe_failures
from firstlight.intrinsic.design.recording import record_transitions
from firstlight.scripts.build_env import make_vec


def test_the_last_steps_of_failed_episodes_are_told_with_their_numbers():
    vec = Chain(2, length=3, horizon=6)
    recording = record_transitions(vec, 40)
    texts = describe_failures(recording, vec.obs_space, number=3, steps=4)
    assert len(texts) == 3
    failed = np.flatnonzero(recording.success == 0)
    for text, e in zip(texts, failed, strict=False):
        t, n = (int(x[-1]) for x in np.nonzero(recording.episode == e))
        lines = text.splitlines()
        assert lines[0].startswith("Episode of 6 steps in ")
        assert "return of 0." in lines[0]
        assert len(lines) == 5
        action, place = recording.fields["action"][t, n], recording.fields["info/position"][t, n]
        assert lines[-1].startswith(f"step 6: action {action}; ")
        assert f"position {place}" in lines[-1]


def test_without_failures_there_is_nothing_to_tell():
    vec = Chain(2, length=1, horizon=50)
    recording = record_transitions(vec, 10)
    assert describe_failures(recording, vec.obs_space) == []


def test_a_view_of_a_grid_is_told_by_its_objects():
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        cfg = compose("train", overrides=["env=minigrid/doorkey_5x5"])
    vec = make_vec(cfg.env, num_envs=4)
    recording = record_transitions(vec, vec.max_steps + 1)
    (text, *_) = describe_failures(recording, vec.obs_space, steps=20)
    assert "You carry" in text
    assert "door" in text
    assert len(text.splitlines()) == 21
