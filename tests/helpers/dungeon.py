"""Play NetHack with random actions."""

import numpy as np
import torch

KEYS = ("glyphs", "blstats", "message")
SCORE, HP, DEPTH, TIME = 9, 10, 12, 20  # indices in blstats


def play(env, seed, steps, rng_seed=0):
    """Take random actions; yield what each `step` returns until the episode ends."""
    env.reset(seed=seed)
    rng = np.random.default_rng(rng_seed)
    for _ in range(steps):
        answer = env.step(int(rng.integers(env.action_space.n)))
        yield answer
        if answer[2] or answer[3]:
            return


def random_steps(vec, steps, seed=0):
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield vec.step(torch.randint(vec.act_space.n, (vec.num_envs,), generator=rng))
