"""RLeXplore's reward modules on a rollout of ours, timed; run by the peers' own Python.

Does not import firstlight. RLeXplore is `rllte.xplore` in the package rllte-core. Timed is
``compute(samples)`` with its default ``sync=True``, which does at once what we do in three places:
it counts the observations into running moments, computes rewards, fits the networks in one pass of
batches of `batch_size`, and scales the rewards. Some compute in `watch`, so there its call for each
step is timed too. All other arguments are the defaults. Not timed are the constructor, which plays
2,560 steps to start the moments (here out of the rollout itself), the making of float tensors, and
the first call.
"""

import json
import sys
import time

import numpy as np
import torch
from gymnasium import spaces
from rllte.xplore.reward import (  # type: ignore[import-not-found]
    E3B,
    ICM,
    RE3,
    RIDE,
    RND,
    Disagreement,
    PseudoCounts,
)

METHODS = {
    **{"rnd": RND, "pseudo_counts": PseudoCounts, "icm": ICM, "disagreement": Disagreement},
    **{"re3": RE3, "ride": RIDE, "e3b": E3B},
}
WATCHED = ("pseudo_counts", "re3", "ride")


class Replay:
    """A vector environment that repeats a recorded rollout, whatever the actions."""

    def __init__(self, observations: torch.Tensor, num_actions: int):
        self.observations, self.at = observations, 0
        self.num_envs, self.unwrapped = observations.shape[1], self
        shape = tuple(observations.shape[2:])
        self.observation_space = spaces.Box(0.0, 255.0, shape, np.float32)
        self.action_space = spaces.Discrete(num_actions)

    def reset(self):
        return self.observations[0], {}

    def step(self, actions):
        self.at = (self.at + 1) % len(self.observations)
        return self.observations[self.at], None, None, None, {}


def main(path: str, method: str, batch_size: int, seconds: float) -> None:
    """Print one JSON object with the microseconds per environment step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    file = np.load(path)
    samples = {name: torch.from_numpy(file[name]) for name in file.files if name != "num_actions"}
    for name in ("observations", "next_observations"):
        samples[name] = samples[name].float()
    replay = Replay(samples["observations"], int(file["num_actions"]))
    batches = {} if method == "re3" else {"batch_size": batch_size}  # it learns nothing
    module = METHODS[method](replay, **batches)
    order = ("observations", "actions", "rewards", "terminateds", "truncateds", "next_observations")
    rows, calls, spent = samples["rewards"].numel(), -1, 0.0  # the first call is not counted
    while calls < 2 or spent < seconds:
        began = time.perf_counter()
        for t in range(len(samples["rewards"]) if method in WATCHED else 0):
            module.watch(*(samples[name][t] for name in order))
        module.compute(samples)
        spent = spent + time.perf_counter() - began if calls >= 0 else 0.0
        calls += 1
    print(json.dumps({"us": spent / calls / rows * 1e6, "calls": calls}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
