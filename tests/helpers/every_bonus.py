"""What `test_distributed` calls in each rank: train with every bonus that has a state."""

import json

import torch
from split_training import flat

from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.policy import ActorCritic
from firstlight.agents.trainer import Trainer
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import (
    DEIR,
    DRND,
    E3B,
    ETD,
    ICM,
    NGU,
    RE3,
    RIDE,
    Disagreement,
    NovelD,
    RewardMixer,
)
from firstlight.networks import collective
from firstlight.networks.encoders import MLP

N, T = 2, 16
MADE = (Disagreement, E3B, ICM, NGU, RIDE, DEIR)
"""Those that also take the action space."""


def every_bonus():
    """Print the names of tensors in which the ranks differ, and the number of all."""
    with collective.joined():
        vec = Chain(N, length=3)
        modules = {kind.__name__: kind(vec.obs_space, vec.act_space) for kind in MADE}
        modules |= {kind.__name__: kind(vec.obs_space) for kind in (DRND, RE3, ETD, NovelD)}
        for module in modules.values():
            module.warmup_steps = min(module.warmup_steps, T)
        mixer = RewardMixer.from_modules(modules)
        torch.manual_seed(0)
        encoder = MLP(vec.obs_space, hidden=(8,))
        policy = ActorCritic(
            vec.obs_space, vec.act_space, encoder=encoder, num_streams=mixer.num_streams
        )
        Trainer(vec, PPO(policy), modules, mixer, num_steps=T).run(2 * N * T * 3)
        found, differing = flat({"learner": {}, "modules": {}, "mixer": mixer.state_dict()}), []
        for name, module in modules.items():
            state = {"learner": {}, "modules": module.state_dict(), "mixer": {}}
            found |= {f"{name}{path}": x for path, x in flat(state).items()}
        for name, x in sorted(found.items()):
            rows = collective.stack(torch.tensor([len(x), x.sum(), x.square().sum()]))
            if bool((rows != rows[0]).any()):
                differing.append(name)
    print(json.dumps({"differing": differing, "number": len(found)}))
