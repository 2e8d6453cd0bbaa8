"""A small trainer on a chain, for tests of pictures and videos."""

import torch

from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.policy import ActorCritic
from firstlight.agents.trainer import Trainer
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import RND, HashCount, RewardMixer, Term
from firstlight.networks.encoders import MLP

N, T = 3, 8
"""Environments, and steps of a rollout."""


def make_trainer(autoreset="same_step", modules=("count",), **options):
    """Make a trainer of PPO with these modules."""
    vec = Chain(N, length=3, autoreset=autoreset)
    made = {
        "count": HashCount(vec.obs_space),
        "rnd": RND(vec.obs_space, network="published", minibatch_size=None, warmup_steps=T),
    }
    chosen = {name: made[name] for name in modules}
    terms = {name: module.default_term() for name, module in chosen.items()}
    mixer = RewardMixer({"reward": Term(), **terms})
    torch.manual_seed(0)
    encoder = MLP(vec.obs_space, hidden=(8,))
    policy = ActorCritic(
        vec.obs_space, vec.act_space, encoder=encoder, num_streams=mixer.num_streams
    )
    learner = PPO(policy, minibatch_size=16, num_epochs=1)
    return Trainer(vec, learner, chosen, mixer, num_steps=T, **options)
