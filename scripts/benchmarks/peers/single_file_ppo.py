"""PPO as single-file implementations such as CleanRL's write it, on EnvPool, timed.

Written for this comparison: torch's eager operations and `Categorical`, buffers of tensors, Adam,
advantages in a Python loop, minibatches by a permutation. The settings are those of `sb3_ppo`.
Does not import firstlight. EnvPool's reset rows are trained on.
"""

import json
import sys
import time

import envpool
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

N, T, EPOCHS, MINIBATCH = 64, 128, 4, 2048
GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, NORM = 0.99, 0.95, 0.2, 0.01, 0.5, 0.5
PINNED = {"num_threads": 1, "thread_affinity_offset": 1}  # EnvPool on a core of its own


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers of 64 with tanh."""
    layers = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    layers.append(nn.Linear(64, outputs))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain if layer is layers[-1] else 2**0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def main(task: str, steps: int, threads: int, pinned: bool) -> None:
    """Train and print one JSON object with steps and seconds after the first three rollouts."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pool = envpool.make_gymnasium(task, num_envs=N, seed=0, **(PINNED if pinned else {}))
    actor, critic = network(147, int(pool.action_space.n), 0.01), network(147, 1, 1.0)
    parameters = [*actor.parameters(), *critic.parameters()]
    adam = torch.optim.Adam(parameters, lr=3e-4, eps=1e-5)
    obs, actions = torch.zeros(T, N, 147), torch.zeros(T, N, dtype=torch.int64)
    log_probs, rewards, dones, values = (torch.zeros(T, N) for _ in range(4))

    def seen(fields) -> torch.Tensor:
        return torch.as_tensor(fields["image"].reshape(N, -1), dtype=torch.float32)

    now, done = seen(pool.reset()[0]), torch.zeros(N)
    began, counted, rollout = 0.0, 0, 0
    while counted < steps:
        if rollout == 3:
            began = time.perf_counter()
        for t in range(T):
            obs[t], dones[t] = now, done
            with torch.no_grad():
                dist = Categorical(logits=actor(now))
                action = dist.sample()
                values[t] = critic(now).flatten()
                log_probs[t] = dist.log_prob(action)
            actions[t] = action
            fields, reward, terminated, truncated, _ = pool.step(action.numpy())
            rewards[t] = torch.as_tensor(reward)
            now = seen(fields)
            done = torch.as_tensor(np.logical_or(terminated, truncated), dtype=torch.float32)
        with torch.no_grad():
            following, advantages, later = critic(now).flatten(), torch.zeros(T, N), torch.zeros(N)
            for t in reversed(range(T)):
                going = 1.0 - (done if t == T - 1 else dones[t + 1])
                after = following if t == T - 1 else values[t + 1]
                delta = rewards[t] + GAMMA * after * going - values[t]
                advantages[t] = later = delta + GAMMA * LAMBDA * going * later
            returns = advantages + values
        flat = [x.flatten(0, 1) for x in (obs, actions, log_probs, advantages, returns)]
        for _ in range(EPOCHS):
            for rows in torch.randperm(N * T).split(MINIBATCH):
                x, action, old, advantage, target = (field[rows] for field in flat)
                dist = Categorical(logits=actor(x))
                ratio = (dist.log_prob(action) - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                surrogate = torch.max(-advantage * ratio, -advantage * clipped).mean()
                error = 0.5 * (critic(x).flatten() - target).square().mean()
                loss = surrogate - ENTROPY * dist.entropy().mean() + VALUE * error
                adam.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, NORM)
                adam.step()
        rollout += 1
        counted += N * T if rollout > 3 else 0
    print(json.dumps({"steps": counted, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    words = sys.argv[4:]
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "pinned" in words)
