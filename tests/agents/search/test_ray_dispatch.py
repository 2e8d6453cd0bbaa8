"""`RayEvaluator` hands each part to a worker until it has its result, with a stand-in for Ray."""

import os
import sys
import types

import numpy as np
import pytest
from toy_search import Toy

from firstlight.agents.search.evaluators import ray_evaluator
from firstlight.agents.search.evaluators.base import Evaluator
from firstlight.agents.search.evaluators.ray_evaluator import RayEvaluator


class ActorDiedError(Exception):
    """As `ray.exceptions.RayActorError`."""


class Method:
    def __init__(self, actor, name):
        self.actor, self.name = actor, name

    def remote(self, *args):
        """Begin a call; what it returns is known when `get` asks for it."""
        return Pending(self.actor, self.name, args)


class Pending:
    def __init__(self, actor, name, args):
        self.actor, self.name, self.args = actor, name, args


class Actor:
    """A worker that dies in the calls that `deaths` names, by their number among all calls."""

    def __init__(self, ray, kind, args):
        self.ray, self.worker, self.is_dead = ray, kind(*args), False
        self.evaluate, self.process_id = Method(self, "evaluate"), Method(self, "process_id")


class FakeRay:
    """As much of Ray as `RayEvaluator` uses; calls end in reverse order."""

    def __init__(self, deaths=()):
        self.deaths, self.calls, self.made, self.cpus = set(deaths), 0, 0, 8
        self.exceptions = types.SimpleNamespace(RayActorError=ActorDiedError)
        self.started, self.node = None, "127.0.0.1"

    def init(self, **options):
        self.started = options

    def is_initialized(self):
        return self.started is not None

    def nodes(self):
        return [{"NodeManagerAddress": self.node}]

    def cluster_resources(self):
        return {"memory": 1e9, "CPU": float(self.cpus)}

    def shutdown(self):
        self.started = None

    def kill(self, actor):
        actor.is_dead = True

    def remote(self, **options):
        def wrap(kind):
            def make(*args):
                self.made += 1
                return Actor(self, kind, args)

            return types.SimpleNamespace(remote=make)

        return wrap

    def wait(self, pending, num_returns, timeout):
        busy = [id(one.actor) for one in pending]
        assert len(busy) == len(set(busy))  # a worker has one part at a time
        return pending[-1:], pending[:-1]

    def get(self, pending):
        self.calls += 1
        if self.calls in self.deaths:
            pending.actor.is_dead = True
        if pending.actor.is_dead:
            raise ActorDiedError
        return getattr(pending.actor.worker, pending.name)(*pending.args)


class Counted(Toy):
    """Returns the number in its state as the return of each genome."""

    number = 0

    def split(self, genomes, count):
        parts = []
        for first in range(0, len(genomes), 3):
            parts.append((genomes[first : first + 3], {"number": self.number}))
            self.number += 1
        return parts

    def load_state_dict(self, state):
        self.number = state["number"]

    def state_dict(self):
        return {"number": self.number}

    def evaluate(self, genomes, samples=1):
        found = super().evaluate(genomes, samples)
        found.ret[:] = self.number
        return found


def make(monkeypatch, deaths=(), workers=2):
    ray = FakeRay(deaths)
    monkeypatch.setattr(ray_evaluator, "_import_ray", lambda: ray)
    return ray, RayEvaluator(Counted(), Counted, num_workers=workers)


@pytest.mark.parametrize("deaths", [(), (1,), (4, 6), (2, 5, 9)])
def test_results_are_in_order_and_each_part_is_counted_once(deaths, monkeypatch):
    ray, evaluator = make(monkeypatch, deaths)
    genomes = np.random.default_rng(0).normal(size=(20, evaluator.policy.genome_size))
    found = evaluator.evaluate(genomes, 2)
    assert np.array_equal(found.genome, genomes)
    assert found.position.shape == (20, 2, 2)
    assert found.ret.tolist() == [i // 3 for i in range(20)]
    assert evaluator.state_dict() == {"number": 7}
    assert evaluator.restarts == len(deaths)
    assert ray.made == 2 + len(deaths)
    assert ray.calls == 7 + len(deaths)
    again = evaluator.evaluate(genomes)
    assert again.ret.tolist() == [7 + i // 3 for i in range(20)]


def test_a_part_that_ends_two_workers_ends_the_search(monkeypatch):
    _, evaluator = make(monkeypatch, deaths=(1, 2), workers=1)
    with pytest.raises(RuntimeError, match="part 1 of 2 of a batch of genomes ended two processes"):
        evaluator.evaluate(np.zeros((6, evaluator.policy.genome_size)))


def test_ray_is_reachable_from_this_machine_alone_unless_an_address_is_given(monkeypatch, caplog):
    monkeypatch.delenv(ray_evaluator._CLUSTERS, raising=False)
    cluster = FakeRay()
    monkeypatch.setattr(ray_evaluator, "_import_ray", lambda: cluster)
    RayEvaluator(Counted(), Counted, address="10.0.0.1:6379")
    assert cluster.started["address"] == "10.0.0.1:6379"
    assert "num_cpus" not in cluster.started
    assert ray_evaluator._CLUSTERS not in os.environ
    ray, evaluator = make(monkeypatch)
    assert os.environ[ray_evaluator._CLUSTERS] == "0"
    assert not ray.started["include_dashboard"]
    evaluator.close()
    evaluator.close()
    assert ray.started is None
    assert caplog.text == ""
    ray.node = "192.0.2.2"
    RayEvaluator(Counted(), Counted).close()
    assert "Ray listens at 192.0.2.2" in caplog.text


def test_a_cluster_with_too_few_cpus_is_refused_before_anything_is_evaluated(monkeypatch):
    ray, _ = make(monkeypatch)
    ray.cpus = 3
    RayEvaluator(Counted(), Counted, num_workers=3, address="auto").close()
    with pytest.raises(ValueError, match="num_workers is 4, and the cluster at auto has 3 CPUs"):
        RayEvaluator(Counted(), Counted, num_workers=4, address="auto")
    assert ray.started is None


def test_bounds_and_pictures_are_those_of_the_local_evaluator(monkeypatch):
    _, evaluator = make(monkeypatch)
    toy: Evaluator = Counted()
    assert evaluator.cells == toy.cells
    assert evaluator.num_areas == toy.num_areas
    scenes = np.zeros((2, 1, 2))
    assert np.array_equal(evaluator.draw(scenes), toy.draw(scenes))


def test_wrong_numbers_and_a_missing_package_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="num_workers is 0"):
        RayEvaluator(Counted(), Counted, num_workers=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'firstlight\[ray\]'"):
        RayEvaluator(Counted(), Counted)
