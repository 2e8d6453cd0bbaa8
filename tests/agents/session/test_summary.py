"""The line at the start of a run: its numbers are those of training, and no field is missing."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from optimizer_steps import counted_steps

from firstlight.agents import MLP, PPO, ActorCritic, SubPO, Trainer
from firstlight.agents.algorithms.auxiliaries import Rapid
from firstlight.agents.session.summary import summary
from firstlight.envs import Chain, GymVec
from firstlight.intrinsic import HashCount
from firstlight.networks.cores import LSTM, Core
from firstlight.networks.encoders import Pixel, auto


class Camera(gymnasium.Env):
    """Observes a picture, and a goal that is rewarded."""

    def __init__(self, low=-1.0, high=1.0):
        camera = spaces.Box(0, 255, (12, 12, 3), np.uint8)
        goal = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Dict({"camera": camera, "goal": goal})
        self.action_space = spaces.Box(low, high, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        return self.seen(), 0.0, self.t == 8, False, {}

    def seen(self):
        picture = self.np_random.integers(256, size=(12, 12, 3), dtype=np.uint8)
        return {"camera": picture, "goal": np.float32([self.t / 8])}


def make(vec, *, encoder=auto, scale=True, learner=PPO, modules=(), num_steps=8, **options):
    torch.manual_seed(0)
    made = {name: HashCount(vec.obs_space) for name in modules}
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=encoder(vec.obs_space),
        num_streams=1 + len(made),
        scale_actions=scale,
    )
    return Trainer(vec, learner(policy, **options), made, num_steps=num_steps)


class Memory(Core):
    """A core with a state."""

    def __init__(self, dim):
        super().__init__()
        self.out_dim = dim

    def initial_state(self, num_envs):
        return {"sum": torch.zeros(num_envs, 1)}

    def forward(self, features, state, is_first):
        return features, state


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    ("learner", "options"),
    [
        (SubPO, {}),
        *((PPO, {"minibatch_size": size, "num_epochs": 3}) for size in (3, 7, 24, 500)),
    ],
)
def test_it_tells_the_number_of_optimiser_steps_taken(learner, options, recurrent, autoreset):
    trainer = make(Chain(3, length=3, autoreset=autoreset), learner=learner, **options)
    if recurrent:
        trainer.policy.core = Memory(trainer.policy.core.out_dim)
        if isinstance(trainer.learner, PPO):
            trainer.learner.minibatch_size = max(options["minibatch_size"], 8)  # a sequence
    taken = counted_steps(trainer.learner.optimizer)
    trainer.run(99, [lambda run, metrics: True])  # one iteration
    told = trainer.learner.gradient_steps(8, 3)
    assert len(taken) == told
    plural = "" if told == 1 else "s"
    assert f"takes {told} gradient step{plural} on 24 environment steps" in summary(trainer)


def test_it_tells_the_size_of_a_memory():
    trainer = make(Chain(3, length=3))
    assert "memory" not in summary(trainer)
    trainer.policy.core = LSTM(trainer.policy.core.out_dim, hidden=16, num_layers=2)
    assert "; memory: hidden of 2 x 16, cell of 2 x 16; success: " in summary(trainer)


def test_with_an_auxiliary_that_takes_steps_of_its_own_the_number_is_not_told():
    vec = Chain(2, length=3)
    trainer = make(vec, auxiliaries=[Rapid(vec.obs_space)])
    assert "takes a number of gradient steps on 16 environment steps" in summary(trainer)


def test_every_field_is_named_with_what_it_goes_through():
    line = summary(make(GymVec([Camera] * 2)))
    assert "camera (convolutions over 12 x 12 x 3, divided by 255)" in line
    assert "goal (as it is)" in line
    assert "left out" not in line


def test_fields_that_do_not_reach_the_policy_are_named_with_the_reason():
    vec = GymVec([Camera] * 2)
    vec.left_out = {"mission": "text"}
    line = summary(make(vec, encoder=lambda space: Pixel(space, key="camera")))
    assert "left out: mission (text), goal (the encoder does not use it)" in line


def test_an_encoder_that_describes_nothing_is_said_to():
    class Silent(torch.nn.Module):
        out_dim = 1

        def forward(self, obs):
            return obs["goal"]

    line = summary(make(GymVec([Camera] * 2), encoder=lambda space: Silent()))
    assert "camera, goal (the encoder does not say what it does with them)" in line
    assert "left out" not in line


@pytest.mark.parametrize(
    ("bounds", "scale", "told"),
    [
        ((25, 35), True, "1 number of a normal distribution, scaled to the bounds 25 to 35"),
        ((25, 35), False, "not scaled to the bounds 25 to 35"),
        ((-1, 1), False, "normal distribution, scaled to the bounds -1 to 1"),
        ((-np.inf, np.inf), True, "not scaled: no bounds closer than 2,000,000"),
        ((-3e38, 3e38), True, "not scaled: no bounds closer than 2,000,000"),
    ],
)
def test_it_tells_how_actions_are_scaled(bounds, scale, told):
    vec = GymVec([lambda: Camera(*bounds)] * 2)
    assert told in summary(make(vec, scale=scale))


def test_it_tells_what_success_means_and_which_info_is_read():
    vec = Chain(2, length=3)
    vec.success_threshold = 0.5
    line = summary(make(vec, encoder=MLP, modules=["count"]))
    assert "where it is not given a return above 0.5; " in line
    assert "actions: 1 of 2" in line
    assert "info read: success for statistics; position open to count" in line
    assert "success: info success or is_success, where it is not given unknown" in summary(
        make(GymVec([Camera] * 2))
    )
    assert "info read: success for statistics" in summary(make(GymVec([Camera] * 2)))
