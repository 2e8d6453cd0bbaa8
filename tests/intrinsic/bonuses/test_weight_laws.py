"""Each bonus by its default: weight 0 under a sum is absence, and weight 1 changes the update."""

import pytest
import torch
from hydra import compose, initialize_config_module

from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec

SMALL = (
    *("env=minigrid/doorkey_5x5", "env.num_envs=4", "trainer.num_steps=16", "mixer=sum"),
    *("learner.minibatch_size=32", "learner.num_epochs=1", "device=cpu", "run_dir=null"),
)
NAMES = (
    *("count", "rnd", "drnd", "icm", "disagreement", "re3", "pseudo_counts", "ngu", "e3b"),
    *("noveld", "ride", "etd", "deir", "agac", "behaviour_novelty"),
)


def trained(*overrides):
    """Parameters of the policy after three iterations that learn."""
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        config = compose("train", overrides=[*SMALL, *overrides])
    config.checkpoint.every = None
    vec = make_vec(config.env)
    trainer = build(config, vec)
    for module in trainer.modules.values():
        module.warmup_steps = 0
    for _ in range(3):
        trainer.iterate(10_000)
    vec.close()
    return {name: p.clone() for name, p in trainer.policy.state_dict().items()}


@pytest.fixture(scope="module")
def without():
    return trained("intrinsic=[]")


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_absence_and_weight_one_changes_the_update(name, without):
    zero = trained(f"intrinsic=[{name}]", f"mixer.terms.{name}.weight=0.0")
    assert all(torch.equal(zero[key], value) for key, value in without.items())
    one = trained(f"intrinsic=[{name}]", f"mixer.terms.{name}.weight=1.0")
    assert any(not torch.equal(one[key], value) for key, value in without.items())
