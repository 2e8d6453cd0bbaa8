"""Stacks of all threads are shown again and again while a run trains, and the run lives."""

import signal

from processes import fork, lines, wait_for_output, wait_until

from firstlight.agents.session.run_directory.status import read_status

TRAINS = """
import sys
import threading
import gymnasium as gym
import numpy as np
from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.policy import ActorCritic
from firstlight.agents.trainer import Trainer
from firstlight.envs.vector.gym import GymVec
from firstlight.networks.encoders import MLP

class Quick(gym.Env):
    "Episodes of a few empty steps: all the time goes to frames that begin and end."
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(2, 9))
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 0.0, self.steps >= self.length, False, {}

def recurse(depth):
    return sum(recurse(depth - 1) for _ in range(2)) if depth else 1

def recurse_for_ever():
    while True:
        recurse(8)

def train():
    threading.Thread(target=recurse_for_ever, daemon=True).start()
    vec = GymVec([Quick] * 4)
    policy = ActorCritic(vec.obs_space, vec.act_space, encoder=MLP(vec.obs_space, hidden=(8,)))
    learner = PPO(policy, minibatch_size=4000, num_epochs=1)
    options = {"num_steps": 1000, "stall_after": 0.004, "run_dir": sys.argv[1]}
    Trainer(vec, learner, **options).run(10**9)
"""


def test_stack_dumps_under_load_do_not_end_a_run(soak, tmp_path):
    (tmp_path / "trains.py").write_text(TRAINS)
    process = fork("trains:train", tmp_path / "run", path=[tmp_path])
    for _ in soak.times(300, 10_000):
        wait_for_output(process, "Stacks of all threads")
    wait_until(lambda: lines(tmp_path / "run"))
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 143, out
    found = read_status(tmp_path / "run")
    assert (found.status, found.stalled) == ("interrupted", False)
    assert found.step == lines(tmp_path / "run")[-1]["step"]
    soak.found["environment_steps"] = found.step
