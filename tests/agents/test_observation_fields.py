"""``encoder=auto`` uses every observation field, and a resumed run keeps what it began with."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from firstlight.agents import MultiInput, Pixel
from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.policy import ActorCritic
from firstlight.agents.trainer import Trainer
from firstlight.envs import GymVec
from firstlight.networks.encoders import auto
from firstlight.networks.spec import describe
from firstlight.scripts.build import make_encoder

SPACE = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "goal": spaces.Box(-1, 1, (1,), np.float32),
    }
)


class Goal(gymnasium.Env):
    """Rewards an action that agrees with the sign of the field `goal`; the camera is noise."""

    observation_space = SPACE
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        reward = float((self.goal > 0) == (action == 1))
        return self.seen(), reward, self.t == 16, False, {}

    def seen(self):
        self.goal = float(self.np_random.choice([-1.0, 1.0]))
        camera = self.np_random.integers(256, size=(8, 8, 3), dtype=np.uint8)
        return {"camera": camera, "goal": np.float32([self.goal])}


def share_of_rewards(encoder, iterations=20):
    """Train; mean reward of the last four iterations."""
    vec, rewards = GymVec([Goal] * 8), []
    torch.manual_seed(0)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=encoder(vec.obs_space))
    learner = PPO(policy, lr=3e-3, minibatch_size=64, entropy_coef=0)
    trainer = Trainer(vec, learner, num_steps=16)
    trainer.run(
        iterations * 8 * 16, [lambda run, _: rewards.append(run.data.rollout.reward.mean().item())]
    )
    return sum(rewards[-4:]) / 4


def test_a_task_that_depends_on_a_field_beside_the_picture_is_learned():
    assert share_of_rewards(auto) > 0.9
    assert share_of_rewards(lambda space: Pixel(space, key="camera", out_dim=16)) < 0.6


def test_a_resumed_run_keeps_the_encoder_that_auto_chose_when_it_began():
    config = {"_target_": "firstlight.networks.encoders.auto"}
    given = {"obs_space": SPACE, "act_space": spaces.Discrete(2)}
    saved = describe(Pixel(SPACE, key="camera", out_dim=16))
    assert isinstance(make_encoder(config, None, **given), MultiInput)
    kept = make_encoder(config, saved, **given)
    assert isinstance(kept, Pixel)
    assert kept.out_dim == 16
    wider = spaces.Dict({**SPACE.spaces, "more": spaces.Discrete(2)})
    assert isinstance(make_encoder(config, saved, **{**given, "obs_space": wider}), MultiInput)
    named = {"_target_": "firstlight.networks.encoders.MLP"}
    assert not isinstance(make_encoder(named, saved, **given), Pixel)
