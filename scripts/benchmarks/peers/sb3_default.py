"""Stable-Baselines3's PPO as it comes; run by the Python of the peers' environment.

Does not import firstlight: ``python sb3_default.py TASK STEPS [SEED]`` trains on one environment
with the defaults of `stable_baselines3.PPO` and prints the mean return of 50 evaluation episodes.
Tasks that Gymnasium cannot make without further packages come from EnvPool; of MiniGrid's
observations the policy sees the image, flattened.
"""

import json
import sys
import time

import envpool
import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

FROM_GYMNASIUM = (
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
)


class OneFromEnvPool(gymnasium.Env):
    """One environment of EnvPool; of dict observations the field ``image``."""

    def __init__(self, task: str, seed: int):
        self.pool = envpool.make_gymnasium(task, num_envs=1, seed=seed)
        space = self.pool.observation_space
        self.field = "image" if isinstance(space, gymnasium.spaces.Dict) else None
        self.observation_space = space if self.field is None else space[self.field]
        self.action_space = self.pool.action_space

    def reset(self, *, seed=None, options=None):
        return self._select(self.pool.reset()[0]), {}

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.pool.step(np.asarray(action)[None])
        return self._select(obs), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def _select(self, obs):
        return (obs if self.field is None else obs[self.field])[0]


def make(task: str, seed: int) -> gymnasium.Env:
    """Make an environment that counts its episodes' returns."""
    gym = task in FROM_GYMNASIUM
    return Monitor(gymnasium.make(task) if gym else OneFromEnvPool(task, seed))


def main(task: str, steps: int, seed: int) -> None:
    """Train, evaluate and print one JSON object."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    model = PPO("MlpPolicy", make(task, seed), device="cpu", seed=seed).learn(steps)
    seconds = time.perf_counter() - began
    returns, _ = evaluate_policy(
        model, make(task, seed + 1000), n_eval_episodes=50, return_episode_rewards=True
    )
    result = {"task": task, "steps": steps, "seed": seed, "seconds": round(seconds)}
    print(json.dumps(result | {"eval_return": round(float(np.mean(returns)), 2)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
