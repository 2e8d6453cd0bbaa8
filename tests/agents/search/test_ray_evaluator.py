"""Ray's workers give the results of one process, also when they are killed."""

import functools
import importlib.util
import os
import random
import signal
import threading

import numpy as np
import pytest

if importlib.util.find_spec("ray") is None:  # importing it here would decide where it listens
    pytest.skip("Ray is not installed", allow_module_level=True)

from firstlight.agents.search.evaluators.ray_evaluator import RayEvaluator
from firstlight.scripts.build_search import make_worker_evaluator


def config(env, **options):
    """What the command gives to a worker."""
    make = "firstlight.agents.search.evaluators.choose.make_evaluator"
    return {
        "env": {"num_envs": 3, **env},
        "policy": {"_target_": "firstlight.agents.search.controller.GenomePolicy"},
        "evaluator": {"_target_": make, **options},
        "learner": {"_target_": "firstlight.agents.search.novelty_search.NoveltySearch"},
        "seed": 4,
    }


MAZE = config(
    {"_target_": "firstlight.envs.HardMaze", "max_steps": 400, "max_travel": 4.0}, num_threads=None
)


def same(one, other):
    for name in ("genome", "position", "scene", "ret", "area", "steps", "success"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.fixture(scope="module")
def made():
    """An evaluator of both kinds in this process, and one with two workers for the maze."""
    make = functools.partial(make_worker_evaluator, MAZE)
    remote = RayEvaluator(make(), make, num_workers=2)
    yield make(), remote
    remote.close()


def genomes(evaluator, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, evaluator.policy.genome_size))


def test_ray_listens_on_the_loopback_interface(made):
    _, remote = made
    (node,) = remote._ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"


def test_a_killed_worker_is_replaced_and_no_evaluation_is_lost_or_repeated(made, soak):
    """SIGKILL of one of the two processes, at random moments of a batch."""
    local, remote = made
    dice = random.Random(1)
    given = genomes(local, 400)
    expected = local.evaluate(given, 2)
    same(remote.evaluate(given, 2), expected)
    for _ in soak.times(2, 10):
        before = remote.restarts
        victim = remote.process_ids()[dice.randrange(2)]
        timer = threading.Timer(dice.uniform(0, 0.05), os.kill, (victim, signal.SIGKILL))
        timer.start()
        same(remote.evaluate(given, 2), expected)
        timer.join()
        same(remote.evaluate(given, 2), expected)  # the process may have ended after its last part
        assert remote.restarts == before + 1
        assert victim not in remote.process_ids()


def test_a_part_that_ends_two_processes_ends_the_search(made, monkeypatch):
    local, remote = made
    monkeypatch.setattr(remote, "make", os.abort)
    for worker in remote.process_ids():
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="of a batch of genomes ended two processes"):
        remote.evaluate(genomes(local, 9))
