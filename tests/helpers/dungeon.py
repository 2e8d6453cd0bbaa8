"""Playing NetHack at random, for its tests."""

import numpy as np
import torch

KEYS = ("glyphs", "blstats", "message")
SCORE, HP, DEPTH, TIME = 9, 10, 12, 20  # columns of the bottom line, as NLE documents them


def play(env, seed, steps, rng_seed=0):
    """Random actions; yields every answer of `step` until the episode ends."""
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
