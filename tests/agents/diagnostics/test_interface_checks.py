"""The doctor names defects between policy and environment, and none where there is none."""

import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents import MLP, PPO, ActorCritic, Pixel, Trainer
from firstlight.agents.diagnostics.run_diagnostics import run_diagnostics
from firstlight.envs import Chain, GymVec
from firstlight.networks.encoders import auto

CAMERA = spaces.Box(0, 255, (10, 12, 3), np.uint8)


class Plain(gymnasium.Env):
    """Short episodes with observations drawn by a function of the environment's generator."""

    def __init__(self, fields, action_space=None, unseeded=False):
        self.observation_space = spaces.Dict(fields)
        self.action_space = action_space or spaces.Discrete(2)
        self.unseeded = unseeded

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        return self.seen(), float(self.t == 5), self.t == 5, False, {}

    def seen(self):
        rng = np.random.default_rng() if self.unseeded else self.np_random
        return {name: self.draw(name, space, rng) for name, space in self.fields()}

    def fields(self):
        return self.observation_space.spaces.items()

    def draw(self, name, space, rng):
        if name == "fixed":
            return np.zeros(space.shape, space.dtype)
        if isinstance(space, spaces.Discrete):
            return int(rng.integers(space.n))
        if space.dtype == np.uint8:
            return rng.integers(256, size=space.shape, dtype=np.uint8)
        return rng.uniform(-1, 1, space.shape).astype(np.float32)


def found(fields, *, encoder=auto, scale=True, act=None, unseeded=False, left_out=None):
    """Diagnose; each finding's source and kind, and all sentences."""
    vec = GymVec([functools.partial(Plain, fields, act, unseeded)] * 4)
    vec.left_out = left_out or {}
    torch.manual_seed(0)
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder(vec.obs_space), scale_actions=scale
    )
    trainer = Trainer(vec, PPO(policy, num_epochs=1), num_steps=32)
    result = run_diagnostics(trainer, total_steps=10_000, iterations=2)
    return {(f.source, f.kind): f.sentence for f in result.findings}


NUMBERS = {"obs": spaces.Box(-1, 1, (2,), np.float32)}
BOTH = {"camera": CAMERA, "goal": spaces.Box(-1, 1, (2,), np.float32)}


def box(low, high):
    return spaces.Box(low, high, (1,), np.float32)


@pytest.mark.parametrize("act", [None, box(25, 35), box(-1000, 1000), box(-1, 1), box(-np.inf, 5)])
@pytest.mark.parametrize("fields", [NUMBERS, BOTH])
def test_a_healthy_environment_has_no_finding(fields, act):
    assert found(fields, act=act) == {}


def test_a_healthy_chain_has_no_finding():
    vec = Chain(4, length=5)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space))
    trainer = Trainer(vec, PPO(policy), num_steps=32)
    assert run_diagnostics(trainer, total_steps=999, iterations=2).findings == []


@pytest.mark.parametrize(
    ("act", "kind", "sentence"),
    [
        (box(25, 35), "out of range", "100% of its values in dimension 0 are clipped"),
        (box(-1000, 1000), "narrow", "between bounds of -1000 and 1000"),
    ],
)
def test_actions_that_never_meet_the_range_are_named(act, kind, sentence):
    findings = found(NUMBERS, act=act, scale=False)
    assert list(findings) == [("the action", kind)]
    assert sentence in findings["the action", kind]
    assert "policy.scale_actions=true" in findings["the action", kind]


def test_bounds_too_wide_to_scale_to_are_named():
    assert list(found(NUMBERS, act=box(-3e38, 3e38))) == [("the action", "narrow")]


def test_a_field_that_the_encoder_does_not_use_is_named():
    findings = found(BOTH, encoder=lambda space: Pixel(space, key="camera", out_dim=8))
    assert findings == {("the observation 'goal'", "unused"): "the encoder does not use it"}


def test_a_field_that_the_adapter_leaves_out_is_named():
    findings = found(NUMBERS, left_out={"words": "a sequence"})
    assert findings == {("the observation 'words'", "unused"): "a sequence"}


def test_a_constant_field_is_named_and_a_constant_choice_is_not():
    fields = {"fixed": spaces.Box(-1, 1, (3,), np.float32), **NUMBERS}
    assert list(found(fields)) == [("the observation 'fixed'", "constant")]
    assert found({"one": spaces.Discrete(1), **NUMBERS}) == {}


def test_unscaled_pictures_in_an_mlp_are_named():
    raw = found({"obs": CAMERA}, encoder=lambda space: MLP(space, scale_bytes=False))
    assert list(raw) == [("the observation 'obs'", "unscaled")]
    assert found({"obs": CAMERA}, encoder=MLP) == {}


def test_an_environment_that_ignores_its_seed_is_named():
    findings = found(NUMBERS, unseeded=True)
    assert list(findings) == [("the environment", "unseeded")]
    assert "self.np_random" in findings["the environment", "unseeded"]
