"""Environments that raise or stall: the command says so, and no worker is left."""

import pytest
from processes import (
    ENDLESS,
    WORKERS,
    start,
    wait_for_end_of_group,
    wait_for_output,
)

FAILING = """
from firstlight.envs.vector.gym import GymVec
from gymnasium.envs.classic_control import CartPoleEnv

class Sound(CartPoleEnv):
    fails = False
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 100 and self.fails:
            raise RuntimeError("the hundredth step")
        return super().step(action)

class Failing(Sound):
    fails = True

def make_sound(id, num_envs, **options):
    return GymVec([Sound] * num_envs, asynchronous=True)

def make_failing(id, num_envs, **options):
    return GymVec([Sound] + [Failing] * (num_envs - 1), asynchronous=True)
"""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["env._target_=failing.make_failing"], 2, "RuntimeError: the hundredth step"),
        (["encoder=grid"], 2, "firstlight: "),
        (["env._target_=failing.make_sound", "learner.lr=oops"], 2, "firstlight: "),
    ],
    ids=["in a step", "in the encoder", "in the learner"],
)
def test_an_error_ends_the_workers_too(words, status, message, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    target = "env._target_=failing.make_sound"
    process = start(tmp_path / "run", *WORKERS, target, *words, "total_steps=9999", path=[tmp_path])
    out, _ = process.communicate()
    assert process.returncode == status, out
    assert message in out
    wait_for_end_of_group(process.pid)


STUCK = """
import time
from gymnasium.envs.classic_control import CartPoleEnv

class Stuck(CartPoleEnv):
    "Never ends its first step."

    def step(self, action):
        stuck_here()

def stuck_here():
    while True:
        time.sleep(1)
"""


def test_a_stage_that_stalls_shows_its_stack_again_and_again_and_is_not_ended(tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK)
    words = ("env=custom", "env._target_=stuck.Stuck", "env.num_envs=1", "stall_after=1")
    process = start(tmp_path / "run", *words, ENDLESS, path=[tmp_path])
    out = wait_for_output(process, "in stuck_here", times=2)
    assert process.poll() is None
    process.kill()
    out += process.communicate()[0]
    assert f"stage 'collect' of the run in {tmp_path / 'run'} has lasted" in out
    assert "(MainThread, the run's):" in out
