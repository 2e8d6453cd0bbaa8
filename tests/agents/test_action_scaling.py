"""Continuous actions are scaled to the bounds of their Box, and only where there are bounds."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents import MLP, PPO, ActorCritic, Trainer
from firstlight.agents.algorithms.auxiliaries import Rapid
from firstlight.agents.learner import Batch
from firstlight.envs import GymVec

OBS = spaces.Dict({"obs": spaces.Box(-1, 1, (4,))})
B = 20_000


def make(act_space, **options):
    torch.manual_seed(0)
    return ActorCritic(OBS, act_space, encoder=MLP(OBS, hidden=(8,)), **options)


def inputs(batch=B):
    obs = {"obs": torch.rand(1, batch, 4, generator=torch.Generator().manual_seed(1))}
    return obs, {}, torch.ones(1, batch, dtype=torch.bool)


def sampled(policy):
    with torch.no_grad():
        return policy(*inputs()).dist.sample(torch.Generator().manual_seed(2))[0]


@pytest.mark.parametrize(
    ("low", "high"), [(25, 35), (-1000, 1000), (-0.1, 0.1), (0, 1), (-2, 2)], ids=str
)
def test_actions_fill_the_range_of_their_box(low, high):
    """Mean and spread of actions relative to the bounds are those of [-1, 1]."""
    relative = sampled(make(spaces.Box(-1, 1, (1,))))
    actions = sampled(make(spaces.Box(low, high, (1,))))
    back = (actions - (low + high) / 2) / ((high - low) / 2)
    torch.testing.assert_close(back, relative, atol=1e-4, rtol=1e-4)
    inside = ((actions > low) & (actions < high)).float().mean()
    assert 0.6 < inside < 0.75  # within one standard deviation


def test_every_dimension_has_its_own_range():
    low = np.array([25, -np.inf, 0, -3e38, 5, -1], np.float32)
    high = np.array([35, np.inf, np.inf, 3e38, 5, 1], np.float32)
    scaled, plain = (
        make(spaces.Box(low, high), scale_actions=on)(*inputs(3)).dist for on in (True, False)
    )
    assert torch.equal(scaled.mean[..., 1:], plain.mean[..., 1:])
    assert torch.equal(scaled.log_std[..., 1:], plain.log_std[..., 1:])
    torch.testing.assert_close(scaled.mean[..., 0], 30 + 5 * plain.mean[..., 0])
    torch.testing.assert_close(scaled.log_std.exp()[..., 0], 5 * plain.log_std.exp()[..., 0])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,)),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(0, np.inf, (2,)),
        spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,)),
        spaces.Discrete(3),
    ],
    ids=str,
)
def test_without_bounds_to_scale_to_no_bit_changes(space):
    on, off = (make(space, scale_actions=flag) for flag in (True, False))
    assert torch.equal(on(*inputs(9)).dist.params, off(*inputs(9)).dist.params)
    assert torch.equal(sampled(on), sampled(off))
    on.log_std = off.log_std = None
    assert on.state_dict().keys() == off.state_dict().keys()


def test_scaling_adds_no_parameters_and_no_state():
    on, off = (make(spaces.Box(25, 35, (2,)), scale_actions=flag) for flag in (True, False))
    assert on.state_dict().keys() == off.state_dict().keys()


def test_log_probabilities_and_entropy_change_by_a_constant():
    wide, unit = (make(spaces.Box(-half, half, (2,)))(*inputs(50)).dist for half in (5, 1))
    action = torch.randn(1, 50, 2)
    constant = 2 * np.log(5)
    torch.testing.assert_close(wide.log_prob(5 * action), unit.log_prob(action) - constant)
    torch.testing.assert_close(wide.entropy(), unit.entropy() + constant)


def test_cloning_does_not_depend_on_the_bounds():
    """The loss of RAPID for actions at the same place between the bounds is the same."""
    losses = []
    for low, high in ((-1, 1), (20, 40)):
        policy, (obs, state, first) = make(spaces.Box(low, high, (1,))), inputs(6)
        action = (low + high) / 2 + (high - low) / 2 * torch.linspace(-1, 1, 6)[None, :, None]
        zeros = torch.zeros(1, 6)
        batch = Batch(
            obs, state, first, action, zeros, zeros[..., None], zeros, zeros[..., None], first
        )
        losses.append(Rapid(OBS).loss(policy, batch))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=1e-4)


class Target(gymnasium.Env):
    """Reward is the closeness to an action of 33 between bounds of 25 and 35."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(25, 35, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -abs(float(action[0]) - 33) / 5, True, False, {}


def closeness(scale_actions):
    """Train for 12 iterations; distance of the most likely action to the target."""
    vec = GymVec([Target] * 8)
    torch.manual_seed(0)
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=MLP(vec.obs_space, hidden=(8,)),
        scale_actions=scale_actions,
    )
    trainer = Trainer(vec, PPO(policy, lr=3e-2, minibatch_size=64, entropy_coef=0), num_steps=16)
    trainer.run(12 * 8 * 16)
    obs = {"obs": torch.zeros(1, 1, 1)}
    with torch.no_grad():
        dist = policy(obs, {}, torch.ones(1, 1, dtype=torch.bool)).dist
    return abs(dist.mode().item() - 33)


def test_an_agent_learns_an_action_far_from_zero():
    assert closeness(scale_actions=True) < 1.0
    assert closeness(scale_actions=False) > 8.0  # every action is clipped to 25: no signal
