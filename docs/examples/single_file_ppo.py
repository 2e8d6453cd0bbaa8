"""PPO in a single file around a Gymnasium vector environment, with a bonus by firstlight."""

import gymnasium
import torch
from torch import nn
from torch.distributions import Categorical

from firstlight.agents.adapters import IntrinsicRewards, RecordRollouts
from firstlight.intrinsic import RND, RecentScale, RewardMixer, Sum, Term


def layers(width: int, num_outputs: int) -> nn.Sequential:
    """A small network."""
    return nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, num_outputs))


def train(env_id="MountainCar-v0", weight=0.1, total_steps=200_000, seed=0, N=8, T=256):
    """Train; return the policy's network and the advantages of the last rollout [T, N]."""
    torch.manual_seed(seed)
    options = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
    envs = RecordRollouts(gymnasium.make_vec(env_id, N, "sync", vector_kwargs=options))
    width, num_actions = envs.obs_space["obs"].shape[0], envs.act_space.n
    policy, critic = layers(width, num_actions), layers(width, 1)
    optimizer = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=1e-3, eps=1e-5)
    gamma, lam = 0.99, 0.95

    # The modules and the mixer: the environment's reward plus `weight` times the scaled bonus.
    terms = {"reward": Term(gamma=gamma), "rnd": Term(weight, RecentScale())}
    modules = {"rnd": RND(envs.obs_space, seed=seed)}
    intrinsic = IntrinsicRewards(modules, RewardMixer(terms, Sum()))

    obs, _ = envs.reset(seed=seed)
    for update in range(num_updates := total_steps // (N * T)):
        for _ in range(T):
            with torch.no_grad():
                action = Categorical(logits=policy(torch.as_tensor(obs))).sample()
            obs, *_ = envs.step(action.numpy())
        rollout = envs.rollout()
        rewards, metrics = intrinsic(rollout, update / num_updates)

        # Advantages: no value after a terminated episode, no next advantage after any.
        now, after = rollout.obs["obs"][:-1], rollout.next_obs()["obs"]
        with torch.no_grad():
            old = Categorical(logits=policy(now)).log_prob(rollout.action)
            value, next_value = critic(now)[..., 0], critic(after)[..., 0]
        delta = rewards.reward[..., 0] + gamma * next_value * ~rollout.terminated - value
        goes_on = ~(rollout.terminated | rollout.truncated)
        advantage, last = torch.zeros(T, N), torch.zeros(N)
        for t in reversed(range(T)):
            advantage[t] = last = delta[t] + gamma * lam * goes_on[t] * last

        data = [x.flatten(0, 1) for x in (now, rollout.action, old, advantage, advantage + value)]
        for _ in range(4):
            for rows in torch.randperm(T * N).split(256):
                x, a, before, adv, target = (field[rows] for field in data)
                dist = Categorical(logits=policy(x))
                ratio = (dist.log_prob(a) - before).exp()
                adv = (adv - adv.mean()) / (adv.std() + 1e-8)
                gain = torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean()
                error = (critic(x)[:, 0] - target).square().mean()
                optimizer.zero_grad()
                (error / 2 - gain - 0.01 * dist.entropy().mean()).backward()
                optimizer.step()
        print(f"{(update + 1) * N * T:>9,}", {k: round(v, 4) for k, v in metrics.items()})
    envs.close()
    return policy, advantage


if __name__ == "__main__":
    train()
