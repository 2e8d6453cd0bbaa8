"""Runs that begin with the policy and the modules of another one."""

import pytest
import torch
from small_trainer import make_trainer

from firstlight.agents.session.initialise import initialise
from firstlight.intrinsic import RND


@pytest.fixture
def run(tmp_path):
    trainer = make_trainer(modules=("count", "rnd"), run_dir=tmp_path / "run")
    trainer.run(256)
    return trainer, tmp_path / "run"


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return {
        k for k in a if isinstance(a[k], torch.Tensor) and k in b and torch.equal(a[k], b[k])
    } == {k for k in a if isinstance(a[k], torch.Tensor)}


def test_policy_and_modules_are_those_of_the_other_run_and_optimisers_are_new(run):
    old, path = run
    new = make_trainer(modules=("count", "rnd"))
    assert not same(new.policy, old.policy)
    assert initialise(new.policy, new.modules, path) == []
    assert same(new.policy, old.policy)
    assert same(new.modules["rnd"], old.modules["rnd"])
    assert new.modules["rnd"].fitter.get_extra_state()["adam"] == {}
    assert not new.learner.optimizer.state
    assert new.session.steps == 0
    new.run(256)
    assert not same(new.policy, old.policy)


def test_only_the_named_parts_are_loaded(run):
    old, path = run
    new = make_trainer(modules=("count", "rnd"))
    before = {name: tensor.clone() for name, tensor in new.policy.state_dict().items()}
    initialise(new.policy, new.modules, path, ["rnd"])
    assert all(torch.equal(before[k], v) for k, v in new.policy.state_dict().items())
    assert same(new.modules["rnd"], old.modules["rnd"])
    with pytest.raises(ValueError, match="this run has no 'icm'; it has policy, count, rnd"):
        initialise(new.policy, new.modules, path, ["icm"])
    other = {**new.modules, "rnd_2": new.modules["rnd"]}
    with pytest.raises(ValueError, match=r"run.* has no 'rnd_2'"):
        initialise(new.policy, other, path, ["rnd_2"])


def test_what_does_not_fit_is_named(run):
    old, path = run
    new = make_trainer(modules=("count",))  # a stream fewer
    missing = initialise(new.policy, new.modules, path, ["policy"])
    assert {name.split(".")[0] for name in missing} == {"value_head", "returns"}
    assert torch.equal(new.policy.policy_head.weight, old.policy.policy_head.weight)
    wide = RND(new.vec.obs_space, embedding_dim=3, seed=0)
    with pytest.raises(ValueError, match=r"the reward module 'rnd' does not fit: .*size mismatch"):
        initialise(new.policy, {"rnd": wide}, path)
