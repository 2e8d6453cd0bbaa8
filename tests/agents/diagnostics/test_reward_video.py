"""Reward videos show the rewards of the run, and recording them changes nothing."""

import copy
import random

import numpy as np
import pytest
import torch
from PIL import Image
from small_trainer import N, T, make_trainer

from firstlight.agents.diagnostics.reward_video import Strips, record_rewards
from firstlight.agents.evaluation import record
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.seeding import generator
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic.mixer import Component

MODES = ("same_step", "next_step")
TEXT, PLOT = 13, 24  # heights in pixels of a strip's text and bars


def read(path):
    with Image.open(path) as image:
        frames = []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
        return frames


def watched(autoreset="same_step"):
    """Make environments, briefly trained modules, their mixer and a policy."""
    run = make_trainer(autoreset, ("count", "rnd"))
    run.run(3 * N * T)
    vec = Chain(1, length=3, horizon=12, autoreset=autoreset)
    return vec, run.modules, run.mixer, run.policy


@pytest.mark.parametrize("autoreset", MODES)
def test_a_video_has_a_frame_for_the_reset_and_for_each_step(autoreset, tmp_path):
    vec, modules, mixer, policy = watched(autoreset)
    rewards = record_rewards(policy, vec, modules, mixer, tmp_path / "a.gif", seed=3)
    steps = len(rewards.reward)
    frames = read(tmp_path / "a.gif")
    assert len(frames) == steps + 1
    height, width = vec.render(0).shape[:2]
    assert frames[0].shape == (height + len(rewards.components) * (TEXT + PLOT + 5), 256, 3)
    record(policy, vec, tmp_path / "b.gif", seed=3)  # the same episode without the rewards
    left = (256 - width) // 2
    plain = read(tmp_path / "b.gif")
    assert len(plain) == steps + (autoreset == "next_step")
    for frame, other in zip(frames, plain, strict=False):
        assert (frame[:height, left : left + width] == other).all()
    if autoreset == "same_step":  # the reset replaced the last observation
        assert (frames[-1][:height] == frames[-2][:height]).all()


@pytest.mark.parametrize("autoreset", MODES)
def test_the_rewards_shown_equal_those_of_the_rollout(autoreset, tmp_path):
    vec, modules, mixer, _ = watched(autoreset)
    actor = RandomActor(vec.act_space, mixer.num_streams)
    paid = record_rewards(actor, vec, modules, mixer, tmp_path / "a.gif", seed=5)
    chain = Chain(1, length=3, horizon=12, autoreset=autoreset)
    runner = Runner(chain, seed=5, generator=generator(5, "evaluation"))  # as in `evaluate`
    rollout = runner.collect(actor, len(paid.reward))
    assert len(paid.reward) > 2
    assert bool((rollout.terminated | rollout.truncated)[-1, 0])
    bonus = {name: copy.deepcopy(module).compute(rollout) for name, module in modules.items()}
    whole = mixer(rollout, bonus, 1.0)
    assert torch.allclose(paid.reward, whole.reward, atol=1e-6)
    assert torch.equal(paid.discount, whole.discount)
    for name, part in whole.components.items():
        assert torch.allclose(paid.components[name].raw, part.raw, atol=1e-6)


def test_recording_a_video_does_not_change_the_run(tmp_path):
    vec, modules, mixer, policy = watched()
    policy.train()

    def everything():
        states = [
            policy.state_dict(),
            mixer.state_dict(),
            *(m.state_dict() for m in modules.values()),
        ]
        return copy.deepcopy(states)

    before = everything()
    numbers = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    record_rewards(policy, vec, modules, mixer, tmp_path / "a.gif", seed=3)
    again = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(numbers[0], again[0])
    assert numbers[1:] == again[1:]
    assert policy.training
    torch.testing.assert_close(everything(), before, rtol=0, atol=0)


def strips(values, weight=1.0):
    scaled = torch.tensor(values)[:, None]
    return Strips({"a": Component(scaled, scaled, scaled, weight)})


def bars(picture, frame):
    top = len(frame) + TEXT
    return picture[top : top + PLOT]


@pytest.mark.parametrize("steps", [4, 10, 300, 1000])
def test_a_strip_has_bars_exactly_where_a_reward_is_given(steps):
    frame = np.zeros((20, 300, 3), np.uint8)
    nothing, paid = [0.0] * steps, [0.0] * steps
    paid[steps // 2] = 0.7
    pictures = [bars(strips(values).under(frame, 0), frame) for values in (nothing, paid)]
    changed = np.flatnonzero((pictures[0] != pictures[1]).any((0, 2)))
    expected = {x for x in range(300) if x * steps // 300 == steps // 2}
    expected |= {(steps // 2) * 300 // steps}  # of several steps in a column the largest is shown
    assert set(changed.tolist()) <= expected
    assert len(changed) == max(1, 300 // steps)


def test_the_scale_of_a_strip_does_not_depend_on_the_weight():
    frame = np.zeros((20, 300, 3), np.uint8)
    values = [0.0, 1.0, -0.5, 0.25]
    small, large = (bars(strips(values, weight).under(frame, 0), frame) for weight in (1e-3, 1e3))
    assert (small == large).all()
    hue = (small == small[5, 100]).all(-1)  # of the tallest bar
    tall = [int(hue[:, x].sum()) for x in (10, 100, 170, 250)]
    assert tall[0] == 0
    assert tall[1] == pytest.approx(2 * tall[2], abs=1)
    assert tall[1] == pytest.approx(4 * tall[3], abs=2)


def test_the_cursor_follows_the_steps():
    frame = np.zeros((20, 300, 3), np.uint8)
    made = strips([0.0] * 6)
    still = bars(made.under(frame, 0), frame)
    at = [
        np.flatnonzero((bars(made.under(frame, step), frame) != still).any((0, 2))).tolist()
        for step in range(1, 7)
    ]
    assert at == [[0], [50], [100], [150], [200], [250]]


def test_a_video_ends_after_max_steps_and_can_be_deterministic(tmp_path):
    vec, modules, mixer, policy = watched()
    lengths = set()
    for seed in range(3):
        rewards = record_rewards(
            *(policy, vec, modules, mixer, tmp_path / "a.gif"), seed=seed, deterministic=True
        )
        lengths.add(len(rewards.reward))
    assert len(lengths) == 1
    rewards = record_rewards(policy, vec, modules, mixer, tmp_path / "a.gif", seed=0, max_steps=2)
    assert len(read(tmp_path / "a.gif")) == len(rewards.reward) + 1 == 3
