"""Stable-Baselines3's PPO on an EnvPool task, timed; run by the Python of the peers' environment.

Does not import firstlight. EnvPool's reset rows are trained on, as a minimal adapter does;
`monitor` adds the episode statistics that users usually have.
"""

import json
import sys
import time

import envpool
import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor


class EnvPoolForSB3(VecEnv):
    """A minimal Stable-Baselines3 vector environment."""

    def __init__(self, task: str, num_envs: int, seed: int, **options):
        self.pool = envpool.make_gymnasium(task, num_envs=num_envs, seed=seed, **options)
        space = gymnasium.spaces.Box(0, 255, (147,), np.uint8)
        super().__init__(num_envs, space, self.pool.action_space)
        self.infos: list[dict] = [{} for _ in range(num_envs)]

    def reset(self):
        return self.pool.reset()[0]["image"].reshape(self.num_envs, -1)

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        obs, reward, terminated, truncated, _ = self.pool.step(self.actions)
        return obs["image"].reshape(self.num_envs, -1), reward, terminated | truncated, self.infos

    def close(self):
        self.pool.close()

    def get_attr(self, attr_name, indices=None):
        return [None] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        pass

    def env_method(self, method_name, *args, indices=None, **kwargs):
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


class Clock(BaseCallback):
    """Starts timing after `warmup` steps."""

    def __init__(self, warmup: int):
        super().__init__()
        self.warmup, self.began, self.at = warmup, 0.0, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if not self.began and self.num_timesteps >= self.warmup:
            self.began, self.at = time.perf_counter(), self.num_timesteps


PINNED = {"num_threads": 1, "thread_affinity_offset": 1}  # EnvPool on a core of its own


def main(task: str, steps: int, threads: int, pinned: bool, monitor: bool) -> None:
    """Train and print one JSON object with steps and seconds after the first three rollouts."""
    torch.set_num_threads(threads)
    env: VecEnv = EnvPoolForSB3(task, 64, seed=0, **(PINNED if pinned else {}))
    if monitor:
        env = VecMonitor(env)
    model = PPO(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": [64, 64]},
        n_steps=128,
        batch_size=2048,
        n_epochs=4,
        ent_coef=0.01,
        device="cpu",
        seed=0,
    )
    clock = Clock(3 * 64 * 128)
    model.learn(3 * 64 * 128 + steps, callback=clock)
    seconds = time.perf_counter() - clock.began
    print(json.dumps({"steps": model.num_timesteps - clock.at, "seconds": seconds}))


if __name__ == "__main__":
    words = sys.argv[4:]
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "pinned" in words, "monitor" in words)
